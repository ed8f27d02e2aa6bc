"""What a benchmark knows of each set: size as published, what is asked, groups as classes."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.errors import AudioError, ConfigurationError
from tests.trainer.sets.official_layouts import write_esc50, write_timit, write_urbansound8k, write_wav
from trainer.protocols import make_course
from trainer.sets.catalogue import SETS, read_set


def test_a_smaller_set_is_read_and_the_difference_is_said(tmp_path: Path) -> None:
    found = read_set("esc50", write_esc50(tmp_path))
    assert len(found.clips) == 9
    assert found.notes == (
        "esc50 has 2000 clips as published; this folder holds 9",
        "esc50 has 50 classes in the benchmark; this folder holds 3",
    )


def test_folds_and_sentences_are_held_out_as_said(tmp_path: Path) -> None:
    street = read_set("urbansound8k", write_urbansound8k(tmp_path / "u")).clips
    course = make_course(
        street, split="group", order_seed=1, classes_per_session=2, held_out=SETS["urbansound8k"].held_out
    )
    assert {street[c].group for c in course.test} == {"9", "10"}
    speakers = read_set("timit-2", write_timit(tmp_path / "t")).clips
    course = make_course(
        speakers, split="group", order_seed=1, classes_per_session=2, held_out=SETS["timit-2"].held_out
    )
    assert {speakers[c].group for c in course.test} == {"SA1", "SA2"}
    assert len(course.test) == 8
    assert course.left_out == ()


def write_words(folder: Path) -> Path:
    lines = ["clip,class,fold_or_speaker"]
    for i, word in enumerate(("go", "stop")):
        for j, speaker in enumerate(("ann", "ben", "ann", "cleo", "ann")):
            write_wav(folder / word / f"{speaker}{j}.wav", 10 * i + j)
            lines.append(f"{word}/{speaker}{j}.wav,{word},{speaker}")
    (folder / "meta.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_groups_as_classes_stand_each_recording_alone(tmp_path: Path) -> None:
    found = read_set("folder", write_words(tmp_path / "words"), label="group", min_clips=3)
    assert {c.label for c in found.clips} == {"ann"}
    assert len({c.group for c in found.clips}) == len(found.clips) == 6
    assert found.clips[0].group == "go/ann0"
    assert [c.label for c in found.listed] == ["go"] * 3 + ["stop"] * 3
    assert {c.group for c in found.listed} == {"ann"}
    assert found.notes == ("2 of 3 classes have fewer than 3 clips and are left out",)


def test_silence_is_no_speaker(tmp_path: Path) -> None:
    folder = write_words(tmp_path / "words")
    write_wav(folder / "_silence_" / "1.wav", 50)
    with (folder / "meta.csv").open("a") as f:
        f.write("_silence_/1.wav,_silence_,noise\n")
    found = read_set("folder", folder, label="group")
    assert {c.label for c in found.clips} == {"ann", "ben", "cleo"}
    assert found.notes == ("1 clips of _silence_ are nobody's and left out",)
    assert "_silence_" in {c.label for c in read_set("folder", folder).clips}


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    words = write_words(tmp_path / "words")
    with pytest.raises(ConfigurationError, match="no set 'esc60'; wanted one of esc50"):
        read_set("esc60", words)
    with pytest.raises(ConfigurationError, match="--label group is for --set folder"):
        read_set("esc50", words, label="group")
    with pytest.raises(ConfigurationError, match="has 99 clips, the largest has 5"):
        read_set("folder", words, min_clips=99)
    (tmp_path / "empty").mkdir()
    with pytest.raises(AudioError, match="no class folders"):
        read_set("folder", tmp_path / "empty")
