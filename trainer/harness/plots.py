"""A table as pictures: curves over sessions, heat maps of what is forgotten, bars with intervals, budgets."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trainer.harness.budgets import BudgetLine
from trainer.harness.metrics import matrix, measures, t_interval
from trainer.harness.run import Run
from trainer.harness.table import Table

MARKERS = "osD^vP*Xh<>p"
DPI = 120
WRAP = 128


def draw(table: Table, budgets: Sequence[BudgetLine], title: str, out: Path) -> list[Path]:
    """Draw one table into ``out``. title: set and backbone; split and warnings are added. Returns the files."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = {name: runs for name, runs in table.runs.items() if "@" not in name}
    heading = "\n".join(
        textwrap.fill(text, WRAP) for text in (f"{title}, split by {table.split}: {table.words}", *table.warnings)
    )
    drawn = []
    for kind, figure in (
        ("curves", _curves(pyplot, rows, table)),
        ("forgetting", _heat_maps(pyplot, rows)),
        ("comparison", _bars(pyplot, rows)),
        *((("budgets", _budget_lines(pyplot, budgets)),) if len(budgets) and len(budgets[0].budgets_mb) > 1 else ()),
    ):
        figure.suptitle(heading, fontsize=8.5, x=0.01, ha="left")
        path = out / f"{kind}-{table.split}.png"
        temporary = path.with_suffix(".tmp")
        figure.savefig(temporary, dpi=DPI, format="png")
        temporary.replace(path)
        pyplot.close(figure)
        drawn.append(path)
    return drawn


def _curves(pyplot: Any, rows: dict[str, tuple[Run, ...]], table: Table) -> Any:
    """Accuracy on all classes seen so far, mean over orders, with a band of one deviation."""
    figure, axis = pyplot.subplots(figsize=(8.5, 5.2), layout="constrained")
    n_seen = np.cumsum([len(s.labels) for s in table.courses[0].sessions])
    for i, (name, runs) in enumerate(rows.items()):
        values = np.array([[math.nan if v is None else v for v in run.overall] for run in runs])
        asked = ~np.isnan(values).any(axis=0)
        mean, deviation = 100.0 * values[:, asked].mean(axis=0), 100.0 * values[:, asked].std(axis=0)
        dots = MARKERS[i % len(MARKERS)] if asked.sum() <= 40 else None
        axis.plot(n_seen[asked], mean, marker=dots, markersize=4.5, color=f"C{i % 10}", label=name)
        axis.fill_between(n_seen[asked], mean - deviation, mean + deviation, color=f"C{i % 10}", alpha=0.15, lw=0)
    axis.set_xlabel("classes seen so far")
    axis.set_ylabel("accuracy on all of them, %")
    axis.set_ylim(0.0, 100.0)
    axis.set_xlim(left=0.0)
    axis.grid(True, alpha=0.3)
    figure.legend(loc="outside lower center", ncols=5, fontsize=9, frameon=False)
    return figure


def _heat_maps(pyplot: Any, rows: dict[str, tuple[Run, ...]]) -> Any:
    """R of each method, mean over orders; a row that stays bright to its right was not forgotten."""
    n_columns = min(3, len(rows))
    n_lines = -(-len(rows) // n_columns)
    size = (max(8.5, 1.2 + 3.1 * n_columns), 1.2 + 3.0 * n_lines)
    figure, axes = pyplot.subplots(n_lines, n_columns, figsize=size, layout="constrained", squeeze=False)
    figure.get_layout_engine().set(hspace=0.06)
    image = None
    for axis, (name, runs) in zip(axes.flat, rows.items(), strict=False):
        mean = 100.0 * np.mean([matrix(run) for run in runs], axis=0)
        n = len(mean)
        extent = (0.5, n + 0.5, n + 0.5, 0.5)
        image = axis.imshow(mean.T, vmin=0.0, vmax=100.0, cmap="viridis", extent=extent, interpolation="nearest")
        lost = [m for m in (measures(run).forgetting for run in runs) if m is not None]
        axis.set_title(f"{name}\nforgets {100.0 * np.mean(lost):.1f} points" if lost else name, fontsize=9)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.yaxis.get_major_locator().set_params(integer=True)
        if n <= 10:
            for t, s in zip(*np.nonzero(~np.isnan(mean)), strict=True):
                value = mean[t, s]
                ink = "black" if value > 60.0 else "white"
                axis.text(t + 1, s + 1, f"{value:.0f}", ha="center", va="center", fontsize=6.5, color=ink)
    for axis in axes.flat[len(rows) :]:
        axis.set_visible(False)
    figure.supxlabel("after session", fontsize=9)
    figure.supylabel("asked: test clips of the classes of session", fontsize=9)
    if image is not None:
        figure.colorbar(image, ax=axes, label="accuracy, %", shrink=0.8)
    return figure


def _bars(pyplot: Any, rows: dict[str, tuple[Run, ...]]) -> Any:
    """Last and average accuracy with 95 % intervals over orders, and a dot for each order."""
    figure, axis = pyplot.subplots(figsize=(8.5, 1.6 + 0.62 * len(rows)), layout="constrained")
    for i, (name, runs) in enumerate(rows.items()):
        found = [measures(run) for run in runs]
        for shift, values, colour in (
            (-0.19, [100.0 * m.last for m in found], "C0"),
            (0.19, [100.0 * m.average for m in found], "C1"),
        ):
            interval = t_interval(values)
            half = 0.0 if interval.high is None else interval.high - interval.mean
            axis.barh(i + shift, interval.mean, 0.36, color=colour, alpha=0.55, xerr=half, capsize=3)
            axis.plot(values, np.full(len(values), i + shift), ".", color="black", markersize=3.5)
            axis.text(100.8, i + shift, f"{interval.mean:.1f}", va="center", fontsize=8, clip_on=False)
        axis.text(-1.5, i, name, ha="right", va="center", fontsize=9)
    axis.set_yticks([])
    axis.invert_yaxis()
    axis.set_xlim(0.0, 100.0)
    axis.set_xlabel("accuracy, %; lines: 95 % interval over orders; dots: each order")
    axis.grid(True, axis="x", alpha=0.3)
    axis.set_axisbelow(True)
    handles = [pyplot.Rectangle((0, 0), 1, 1, color=c, alpha=0.55) for c in ("C0", "C1")]
    figure.legend(handles, ["last", "average"], loc="outside lower center", ncols=2, fontsize=9, frameon=False)
    return figure


def _budget_lines(pyplot: Any, budgets: Sequence[BudgetLine]) -> Any:
    """Last accuracy over the bytes that every method gets; a method that does not fit stands at 0."""
    figure, axis = pyplot.subplots(figsize=(8.5, 4.8), layout="constrained")
    for i, line in enumerate(budgets):
        last = [100.0 * value for value in line.last]
        axis.plot(line.budgets_mb, last, marker=MARKERS[i % len(MARKERS)], color=f"C{i % 10}", label=line.method)
    axis.set_xlabel("MB on the device, backbone included")
    axis.set_ylabel("last accuracy, %; 0: does not fit")
    axis.set_ylim(-2.0, 100.0)
    axis.grid(True, alpha=0.3)
    figure.legend(loc="outside lower center", ncols=5, fontsize=9, frameon=False)
    return figure
