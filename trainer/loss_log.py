"""The course of a training as ``losses.csv`` and ``losses.png``: means of each weighted term over fifty steps."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TextIO

EVERY = 50


class LossLog:
    """Averages the terms of the loss and writes a row of ``losses.csv`` for every fifty steps.

    A run that continues at ``step`` keeps the rows up to there and drops those that it is about to repeat.
    """

    def __init__(self, path: Path, step: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        kept = [row for row in read_losses(path) if int(row["step"]) <= step]
        self._names = [k for k in kept[0] if k not in ("step", "seconds")] if kept else []
        self._rows = kept
        self._started = clock() - (float(kept[-1]["seconds"]) if kept else 0.0)
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}
        self._write_all()

    def add(self, step: int, terms: Mapping[str, float], *, last: bool = False) -> dict[str, float] | None:
        """Note the terms of the update that led to ``step``. Returns the means when a row was written."""
        for key, value in terms.items():
            self._sums[key] = self._sums.get(key, 0.0) + value
            self._counts[key] = self._counts.get(key, 0) + 1
        if step % EVERY != 0 and not last:
            return None
        means = {key: total / self._counts[key] for key, total in self._sums.items()}
        self._sums, self._counts = {}, {}
        row = {"step": str(step), "seconds": f"{self._clock() - self._started:.1f}"}
        row |= {key: f"{value:.5f}" for key, value in means.items()}
        self._rows.append(row)
        new = [key for key in means if key not in self._names]
        self._names += new
        if new:
            self._write_all()
        else:
            with self._path.open("a", newline="", encoding="utf-8") as f:
                self._writer(f).writerow(row)
        return means

    def _writer(self, file: TextIO) -> csv.DictWriter[str]:
        return csv.DictWriter(file, ["step", "seconds", *self._names], restval="")

    def _write_all(self) -> None:
        with self._path.open("w", newline="", encoding="utf-8") as f:
            writer = self._writer(f)
            if self._rows:
                writer.writeheader()
            writer.writerows(self._rows)


def read_losses(path: Path) -> list[dict[str, str]]:
    """Rows of ``losses.csv``, none when there is no such file; a row cut short by a crash is left out."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    return [row for row in rows if None not in row and None not in row.values() and row["step"].isdigit()]


def plot_losses(csv_path: Path, png_path: Path) -> None:
    """Draw each term of the loss over the steps; terms that are 0 throughout are left out."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = read_losses(csv_path)
    if not rows:
        return
    figure, axis = pyplot.subplots(figsize=(8, 5))
    for key in [k for k in rows[0] if k not in ("step", "seconds")]:
        course = [(int(row["step"]), float(row[key])) for row in rows if row[key] and float(row[key]) > 0.0]
        if course:
            axis.plot(*zip(*course, strict=True), label=key, marker="o" if len(course) == 1 else None)
    axis.set_xlabel("step")
    axis.set_ylabel("weighted term of the loss")
    axis.set_yscale("log")
    axis.grid(True, which="both", alpha=0.3)
    axis.legend()
    figure.tight_layout()
    figure.savefig(png_path, dpi=110)
    pyplot.close(figure)
