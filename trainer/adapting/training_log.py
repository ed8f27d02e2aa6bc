"""The course of an adaptation: one row of ``training.csv`` an epoch, the same numbers for TensorBoard where it is."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

COLUMNS = ("session", "stage", "epoch", "cross_entropy", "boundary_loss", "accuracy", "seconds")


class TrainingLog:
    """Appends a row for each epoch. A run that goes on keeps the rows before where it goes on from.

    clock: monotonic seconds, counted from the start of the whole run.
    """

    def __init__(self, directory: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._clock = directory / "training.csv", clock
        self._rows = read_training(self._path)
        self._before = float(self._rows[-1]["seconds"]) if self._rows else 0.0
        self._started = clock()
        self._board = _board(directory / "tensorboard")

    def close(self) -> None:
        """Write out what TensorBoard has not yet; the rows are on disk already."""
        if self._board is not None:
            self._board.close()

    def add(self, session: int, stage: str, epoch: int, terms: Mapping[str, float]) -> None:
        """Note one epoch (from 1); rows of the same epoch or later ones, left by an interrupted run, are dropped."""
        kept = [r for r in self._rows if (int(r["session"]), int(r["epoch"])) < (session, epoch)]
        seconds = f"{self._before + self._clock() - self._started:.1f}"
        row = {"session": str(session), "stage": stage, "epoch": str(epoch), "seconds": seconds}
        row |= {name: f"{value:.6f}" for name, value in terms.items()}
        self._rows = [*kept, row]
        temporary = self._path.with_suffix(".tmp")
        with temporary.open("w", newline="", encoding="utf-8") as f:
            writer = csv.DictWriter(f, COLUMNS, restval="")
            writer.writeheader()
            writer.writerows(self._rows)
        temporary.replace(self._path)
        if self._board is not None:
            for name, value in terms.items():
                self._board.add_scalar(f"{stage}/{name}", value, len(self._rows))


def read_training(path: Path) -> list[dict[str, str]]:
    """Rows of ``training.csv``, none when there is no such file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as f:
        return list(csv.DictReader(f))


def _board(directory: Path) -> Any:
    """A TensorBoard writer, or None where tensorboard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(directory))
