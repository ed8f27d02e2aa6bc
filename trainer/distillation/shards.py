"""A bank on disk: ``bank.json`` with the label names, and one ``shard-NNNNN.npz`` for every thousand windows.

A shard of s windows holds ``log_mel`` (s, 1, n_mels, n_frames) float16, ``sound_label`` and ``word_label`` (s, 2) int16
of the first and the second clip (-1: none), ``share`` (s,) float32 of the first one, and of each teacher its answers
(m, ...) float16 with the rows (m,) int32 that it was asked about.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.distillation.drawing import LabelSpace
from trainer.errors import TrainingError

MOMENT_ROWS = 30_000


def shard_path(directory: Path, number: int) -> Path:
    return directory / f"shard-{number:05d}.npz"


def write_labels(directory: Path, labels: LabelSpace) -> None:
    """Write ``bank.json``."""
    text = json.dumps({"sounds": labels.sounds, "words": labels.words}, indent=1) + "\n"
    (directory / "bank.json").write_text(text, encoding="utf-8")


class Bank:
    """All shards of a bank in memory, about 16 kB a window. Arrays are float16 where the shards have them so.

    Raises TrainingError when there is no shard, or one cannot be read or does not fit to the others.
    """

    def __init__(self, directory: Path) -> None:
        paths = sorted(directory.glob("shard-*.npz"))
        if not paths:
            raise TrainingError(f"{directory} holds no shards; fill the bank first")
        n_rows = {path: _row_counts(path) for path in paths}
        for path in paths:
            if other := n_rows[path].keys() ^ n_rows[paths[0]].keys():
                raise TrainingError(
                    f"{path} and {paths[0].name} differ in {', '.join(sorted(other))}; fill the bank anew"
                )
        self.n = sum(rows["log_mel"] for rows in n_rows.values())
        self.arrays: dict[str, NDArray[Any]] = {}
        self.speech_index = np.full(self.n, -1, dtype=np.int64)
        filled = dict.fromkeys(n_rows[paths[0]], 0)
        for path in paths:
            for key, values in _read(path):
                at = filled[key]
                if key == "speech_rows":
                    self.speech_index[values.astype(np.int64) + filled["log_mel"]] = at + np.arange(len(values))
                elif not key.endswith("_rows"):
                    if key not in self.arrays:
                        total = sum(rows[key] for rows in n_rows.values())
                        self.arrays[key] = np.empty((total, *values.shape[1:]), dtype=values.dtype)
                    if values.shape[1:] != self.arrays[key].shape[1:]:
                        raise TrainingError(f"{path} holds {key!r} of another shape; fill the bank anew")
                    self.arrays[key][at : at + len(values)] = values
            for key, count in n_rows[path].items():
                filled[key] += count
        try:
            labels = json.loads((directory / "bank.json").read_text(encoding="utf-8"))
            self.n_sounds, self.n_words = len(labels["sounds"]), len(labels["words"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise TrainingError(
                f"{directory / 'bank.json'} is no list of labels ({error}); fill the bank again"
            ) from error

    @property
    def n_bytes(self) -> int:
        """Memory that the arrays take."""
        return sum(a.nbytes for a in self.arrays.values())

    def batch(self, rows: NDArray[np.int64]) -> dict[str, Tensor]:
        """Gather one batch as float32 and int64 tensors; ``speech_mask`` marks the rows the speech teacher answered."""
        a = self.arrays
        out = {"log_mel": torch.from_numpy(a["log_mel"][rows].astype(np.float32))}
        for key in ("sound", "sound_scores"):
            if key in a:
                out[key] = torch.from_numpy(a[key][rows].astype(np.float32))
        if "speech" in a:
            index = self.speech_index[rows]
            answered = index >= 0
            speech = np.zeros((len(rows), a["speech"].shape[1]), dtype=np.float32)
            speech[answered] = a["speech"][index[answered]]
            out["speech"], out["speech_mask"] = torch.from_numpy(speech), torch.from_numpy(answered)
        out["sound_label"] = torch.from_numpy(a["sound_label"][rows].astype(np.int64))
        out["word_label"] = torch.from_numpy(a["word_label"][rows].astype(np.int64))
        out["share"] = torch.from_numpy(a["share"][rows].astype(np.float32))
        return out

    def moments(self, key: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Mean and deviation of a teacher's embedding over the bank (at most 30,000 rows), each (m,) float32."""
        values = self.arrays[key][:MOMENT_ROWS].astype(np.float32)
        if len(values) == 0:
            return np.zeros(values.shape[1], np.float32), np.ones(values.shape[1], np.float32)
        return values.mean(axis=0), values.std(axis=0) + np.float32(1e-3)


def _read(path: Path) -> Iterator[tuple[str, NDArray[Any]]]:
    try:
        with np.load(path, allow_pickle=False) as shard:
            for key in sorted(shard.files):
                yield key, shard[key]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise TrainingError(f"{path} is no readable shard ({error}); delete it and fill the bank again") from error


def _row_counts(path: Path) -> dict[str, int]:
    """Number of rows of each array in a shard, from the headers alone."""
    counts: dict[str, int] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                with archive.open(name) as file:
                    version = np.lib.format.read_magic(file)
                    reader = np.lib.format.read_array_header_1_0
                    shape = (reader if version == (1, 0) else np.lib.format.read_array_header_2_0)(file)[0]
                    counts[name.removesuffix(".npy")] = shape[0]
        if "log_mel" not in counts:
            raise ValueError("it has no log_mel")
        return counts
    except (OSError, ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile) as error:
        raise TrainingError(f"{path} is no readable shard ({error}); delete it and fill the bank again") from error
