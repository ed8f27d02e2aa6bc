"""Each official layout is read as its authors mean it, and anything else is refused in a sentence."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edge.audio import read_audio
from edge.errors import AudioError
from tests.trainer.sets.official_layouts import (
    RATE,
    SENTENCES,
    tone,
    write_esc50,
    write_speech_commands,
    write_sphere,
    write_timit,
    write_urbansound8k,
    write_vocalset,
    write_wav,
)
from trainer.datasets import Clip
from trainer.sets.tables import read_esc50, read_urbansound8k
from trainer.sets.trees import read_speech_commands, read_timit, read_vocalset


def test_esc50_takes_category_and_fold_from_the_table(tmp_path: Path) -> None:
    write_wav(write_esc50(tmp_path) / "audio" / "0-0-A-0.wav", 99)
    clips = read_esc50(tmp_path)
    assert Counter(c.label for c in clips) == {"sound 0": 3, "sound 1": 3, "sound 2": 3}
    assert all(c.path.name.startswith(f"{c.group}-") and c.set_name == "esc50" for c in clips)
    assert [c.path for c in clips] == sorted(c.path for c in clips)


def test_urbansound8k_finds_clips_in_their_fold(tmp_path: Path) -> None:
    clips = read_urbansound8k(write_urbansound8k(tmp_path))
    assert Counter(c.label for c in clips) == {"street 0": 10, "street 1": 10}
    assert all(c.path.parent.name == f"fold{c.group}" for c in clips)


def test_speech_commands_leaves_the_noises_out(tmp_path: Path) -> None:
    clips = read_speech_commands(write_speech_commands(tmp_path))
    assert Counter((c.label, c.group) for c in clips) == {
        (word, speaker): 2 for word in ("go", "stop") for speaker in ("0a7c2a8d", "1b4c9b89")
    }
    assert {c.word for c in clips} == {"go", "stop"}


def test_timit_is_speakers_by_sentence_and_its_sphere_files_can_be_heard(tmp_path: Path) -> None:
    clips = read_timit(write_timit(tmp_path))
    assert Counter(c.label for c in clips) == {f"MSP{i}": 5 for i in range(4)}
    assert {c.group for c in clips} == set(SENTENCES)
    spoken = next(c for c in clips if c.label == "MSP2" and c.group == "SX9")
    assert np.abs(read_audio(spoken.path, RATE) - tone(22)).max() < 1e-3


def test_timit_in_lower_case_and_with_converted_files_beside(tmp_path: Path) -> None:
    folder = tmp_path / "train" / "dr1" / "fcjf0"
    write_sphere(folder / "sa1.wav", 1)
    write_sphere(folder / "SX9.WAV", 2)
    write_wav(folder / "SX9.WAV.wav", 3)
    clips = read_timit(tmp_path)
    assert [(c.label, c.group, c.path.name) for c in clips] == [
        ("FCJF0", "SX9", "SX9.WAV.wav"),
        ("FCJF0", "SA1", "sa1.wav"),
    ]


@pytest.mark.parametrize("top", ["FULL", "data_by_singer"])
def test_vocalset_keeps_the_sixteen_largest_techniques(tmp_path: Path, top: str) -> None:
    clips = read_vocalset(write_vocalset(tmp_path, top=top))
    assert {c.label for c in clips} == {f"technique{t:02d}" for t in range(17) if t != 5}
    assert {c.group for c in clips} == {"female1", "male3", "male7"}


@pytest.mark.parametrize(
    ("read", "wanted"),
    [
        (read_esc50, "meta/esc50.csv"),
        (read_urbansound8k, "metadata/UrbanSound8K.csv"),
        (read_speech_commands, "<speaker>_nohash_<n>.wav"),
        (read_timit, "TRAIN/DR1/<SPEAKER>/<SENTENCE>.WAV"),
        (read_vocalset, "FULL/<singer>/<context>/<technique>"),
    ],
)
def test_another_folder_is_refused_with_what_was_expected_where(
    tmp_path: Path, read: Callable[[Path], list[Clip]], wanted: str
) -> None:
    write_wav(tmp_path / "dog" / "1.wav", 1)
    with pytest.raises(AudioError, match="wanted") as refused:
        read(tmp_path)
    assert wanted in str(refused.value)
    assert str(tmp_path) in str(refused.value)


def test_a_table_with_files_missing_or_columns_missing_is_refused(tmp_path: Path) -> None:
    folder = write_esc50(tmp_path / "a")
    (folder / "audio" / "1-1-A-0.wav").unlink()
    with pytest.raises(AudioError, match=r"lacks 1 of the 9 clips.*1-1-A-0\.wav"):
        read_esc50(folder)
    (folder / "meta" / "esc50.csv").write_text("filename,fold\nx.wav,1\n")
    with pytest.raises(AudioError, match="columns filename, fold; wanted filename, fold, category"):
        read_esc50(folder)
    other = write_urbansound8k(tmp_path / "b")
    shutil.rmtree(other / "audio" / "fold3")
    with pytest.raises(AudioError, match="lacks 2 of the 20"):
        read_urbansound8k(other)
