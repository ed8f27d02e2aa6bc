"""Audio folders as lists of clips with their class and their group, and the split that keeps groups on one side.

Layout: ``<set>/<class>/<clip>`` with an optional ``<set>/meta.csv`` (columns clip, class, fold_or_speaker, and
``word`` where a class holds several words). Groups are folds, speakers or source files: clips
of one group stay together.
"""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from edge.audio import read_audio
from edge.errors import AudioError

AUDIO_SUFFIXES = frozenset({".flac", ".ogg", ".wav", ".mp3"})
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass(frozen=True)
class Clip:
    """One recording. ``label`` is the class folder's name, ``word`` what is spoken in it, if known."""

    path: Path
    set_name: str
    label: str
    group: str
    word: str = ""


def list_clips(directory: Path) -> list[Clip]:
    """List the clips of one set, sorted by path. Raises AudioError when there are none or ``meta.csv`` is malformed.

    A set that names fewer than three groups is grouped by file: two archives are no basis for a split.
    """
    meta = {row["clip"]: row for row in read_meta(directory)[1]}
    set_name = Path(os.path.abspath(directory)).name
    clips = []
    for path in sorted(directory.glob("*/*")):
        if path.suffix.lower() not in AUDIO_SUFFIXES:
            continue
        row = meta.get(f"{path.parent.name}/{path.name}", {})
        word = row.get("word") or ""
        if path.parent.name.isdigit() and len(path.parent.name) == 1:
            word = DIGITS[int(path.parent.name)]
        elif "word" in row and not word and not path.parent.name.startswith("_"):
            word = path.parent.name
        group = row.get("fold_or_speaker") or row.get("group") or path.stem
        clips.append(Clip(path, set_name, path.parent.name, group, word))
    if len({clip.group for clip in clips}) < 3:
        clips = [replace(clip, group=clip.path.stem) for clip in clips]
    if not clips:
        deeper = any(path.suffix.lower() in AUDIO_SUFFIXES for path in directory.glob("*/*/*"))
        advice = "it holds sets: give each by itself" if deeper else "give the folder that holds the class folders"
        raise AudioError(
            f"{directory} holds no class folders with audio; wanted {directory.name}/<class>/<clip> as .wav, .flac, "
            f".ogg or .mp3; {advice}"
        )
    return clips


def read_meta(directory: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Return the columns and rows of a set's ``meta.csv``, both empty when it has none. Raises AudioError."""
    path = directory / "meta.csv"
    if not path.exists():
        return [], []
    try:
        with path.open(newline="", encoding="utf-8") as f:
            reader = csv.DictReader(f, restval="")
            rows, columns = list(reader), list(reader.fieldnames or [])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise AudioError(f"{path} cannot be read ({error}); wanted a CSV file in UTF-8; write it anew") from error
    if "clip" not in columns or any(None in row for row in rows):
        raise AudioError(
            f"{path} has columns {columns}; wanted 'clip' among them and no row longer than its header; correct it"
        )
    return columns, rows


def stable_third(name: str) -> int:
    """0, 1 or 2 from the SHA-256 of a group's name: the same third on every machine and in every run."""
    return hashlib.sha256(name.encode()).digest()[0] % 3


def is_held_out(clip: Clip) -> bool:
    """Say whether the evaluation ear must never hear this clip.

    Fold 3 of a set with numbered folds; every group whose hash falls into the first third elsewhere.
    """
    if clip.group in {"1", "2", "3", "4", "5"}:
        return clip.group == "3"
    return stable_third(f"fold{clip.set_name}/{clip.group}") == 0


def split_clips(clips: Iterable[Clip], held_out: Callable[[Clip], bool] = is_held_out) -> tuple[list[Clip], list[Clip]]:
    """Return (training clips, held-out clips)."""
    train: list[Clip] = []
    test: list[Clip] = []
    for clip in clips:
        (test if held_out(clip) else train).append(clip)
    return train, test


class ClipAudio:
    """Decoded clips of one sample rate, kept as int16 so that a few hours fit into memory."""

    def __init__(self, sample_rate: int) -> None:
        self.sample_rate = sample_rate
        self._samples: dict[Path, NDArray[np.int16]] = {}

    def __getitem__(self, clip: Clip) -> NDArray[np.float32]:
        """Return the clip's samples (n,) float32 in -1..1. Raises AudioError that names an unusable file."""
        if clip.path not in self._samples:
            samples = read_audio(clip.path, self.sample_rate)
            self._samples[clip.path] = np.clip(np.rint(samples * 32767.0), -32768, 32767).astype(np.int16)
        return np.asarray(self._samples[clip.path].astype(np.float32) / 32768.0, dtype=np.float32)

    @property
    def n_bytes(self) -> int:
        """Memory that the decoded clips take."""
        return sum(samples.nbytes for samples in self._samples.values())


def decode_all(clips: Sequence[Clip], audio: ClipAudio, *, progress: bool = True) -> None:
    """Decode every clip once, so that an unreadable one is found before hours of work and not after.

    Raises AudioError that names the first and counts the others.
    """
    refused: list[AudioError] = []
    for clip in tqdm(clips, desc="decode", unit="clip", disable=not progress):
        try:
            audio[clip]
        except AudioError as error:
            refused.append(error)
    if refused:
        others = f" ({len(refused) - 1} more of {len(clips)} clips cannot be used either)" if len(refused) > 1 else ""
        raise AudioError(f"{refused[0]}{others}") from refused[0]
