"""Clips, groups and the split that keeps groups on one side."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import AudioError
from tests.trainer.synthetic_sets import write_set
from trainer.datasets import Clip, ClipAudio, decode_all, is_held_out, list_clips, split_clips, stable_third
from trainer.split import split_set

names = st.text("abcdefghij0123456789", min_size=1, max_size=4)


@given(st.lists(st.tuples(names, names, names), max_size=40))
def test_no_group_is_on_both_sides_and_no_clip_is_lost(rows: list[tuple[str, str, str]]) -> None:
    clips = [Clip(Path(f"{i}.wav"), s, label, group) for i, (s, label, group) in enumerate(rows)]
    train, test = split_clips(clips)
    assert not {(c.set_name, c.group) for c in train} & {(c.set_name, c.group) for c in test}
    assert sorted([*train, *test], key=lambda c: int(c.path.stem)) == clips


def test_the_held_out_third_is_the_same_for_ever() -> None:
    """Ears in use were trained with this division: changing it would let them be measured on what they heard."""
    assert [stable_third(name) for name in ("", "a", "b", "speaker 7", "fold", "é")] == THIRDS
    speakers = [Clip(Path("x.wav"), "words", "yes", f"speaker {i}") for i in range(12)]
    assert [i for i, c in enumerate(speakers) if is_held_out(c)] == HELD_OUT_SPEAKERS


THIRDS = [2, 1, 2, 1, 1, 2]
HELD_OUT_SPEAKERS = [1, 4, 8, 10, 11]


def test_of_numbered_folds_the_third_is_held_out() -> None:
    assert [is_held_out(Clip(Path("x.wav"), "s", "c", str(fold))) for fold in range(1, 6)] == [
        False, False, True, False, False,
    ]  # fmt: skip


def test_clips_have_class_group_and_word(tmp_path: Path) -> None:
    clips = list_clips(write_set(tmp_path / "spoken", words=True))
    assert len(clips) == 9
    assert {c.set_name for c in clips} == {"spoken"}
    assert {c.group for c in clips} == {"1", "2", "3"}
    assert all(c.word == c.label for c in clips)
    assert clips == sorted(clips, key=lambda c: c.path)


def test_digits_are_words_and_a_folder_of_other_words_is_none(tmp_path: Path) -> None:
    for name in ("7", "_unknown_"):
        (tmp_path / "set" / name).mkdir(parents=True)
        soundfile.write(tmp_path / "set" / name / "a.wav", np.zeros(200), 16000)
    (tmp_path / "set" / "meta.csv").write_text("clip,class,fold_or_speaker,word\n_unknown_/a.wav,_unknown_,s,\n")
    assert {c.label: c.word for c in list_clips(tmp_path / "set")} == {"7": "seven", "_unknown_": ""}


def test_two_groups_are_no_basis_for_a_split_so_files_are_groups(tmp_path: Path) -> None:
    two = list_clips(write_set(tmp_path / "two", n_groups=2))
    assert {c.group for c in two} == {c.path.stem for c in two}
    without = write_set(tmp_path / "without")
    (without / "meta.csv").unlink()
    assert {c.group for c in list_clips(without)} == {"1", "2", "3"}


def test_a_folder_without_clips_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="no class folders"):
        list_clips(tmp_path)
    write_set(tmp_path / "sets" / "one")
    with pytest.raises(AudioError, match="give each by itself"):
        list_clips(tmp_path / "sets")


@pytest.mark.parametrize("text", ["file,class\na/1.wav,a\n", "clip,class\na/1.wav,a,1,2\n", "clip\n\xff\n"])
def test_a_malformed_table_is_refused(tmp_path: Path, text: str) -> None:
    folder = write_set(tmp_path / "set")
    (folder / "meta.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(AudioError, match=r"meta\.csv"):
        list_clips(folder)


def test_clip_audio_decodes_once_and_to_sixteen_bits(tmp_path: Path) -> None:
    clip = list_clips(write_set(tmp_path / "set"))[0]
    audio = ClipAudio(16000)
    first = audio[clip]
    recorded, _ = soundfile.read(clip.path, dtype="float32")
    assert first.dtype == np.float32
    np.testing.assert_allclose(first, recorded, atol=1.01 / 32768)
    clip.path.unlink()
    np.testing.assert_array_equal(audio[clip], first)
    assert audio.n_bytes == 2 * len(first)


def test_every_unreadable_clip_is_counted_and_the_first_is_named(tmp_path: Path) -> None:
    clips = list_clips(write_set(tmp_path / "set"))
    clips[1].path.write_bytes(b"no audio")
    clips[4].path.write_bytes(b"")
    with pytest.raises(AudioError, match=r"1 more of 9 clips") as refused:
        decode_all(clips, ClipAudio(16000), progress=False)
    assert str(clips[1].path) in str(refused.value)


def test_split_links_every_clip_to_one_side_with_its_row(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set")
    for _ in range(2):
        assert split_set(folder, tmp_path / "out") == (6, 3)
    parts = {part: tmp_path / "out" / part / "set" for part in ("train", "held_out")}
    assert {p.stem for p in parts["held_out"].glob("*/*.wav")} == {"3"}
    assert {p.stem for p in parts["train"].glob("*/*.wav")} == {"1", "2"}
    for part, directory in parts.items():
        with (directory / "meta.csv").open(newline="") as f:
            rows = list(csv.DictReader(f))
        assert {r["clip"] for r in rows} == {f"{p.parent.name}/{p.name}" for p in directory.glob("*/*.wav")}, part
        assert all(p.read_bytes() == (folder / p.parent.name / p.name).read_bytes() for p in directory.glob("*/*.wav"))
