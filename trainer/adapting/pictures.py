"""An adaptation as one picture: accuracy over the sessions, similarity of the blocks, the course of the loss."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainer.adapting.run import AdaptResult


def draw_adaptation(result: AdaptResult, training: Sequence[dict[str, str]], title: str, path: Path) -> None:
    """Write ``path`` (PNG). training: rows of ``training.csv``. Panels without numbers say so."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (curve, blocks, losses) = pyplot.subplots(1, 3, figsize=(14, 4.4), layout="constrained")
    figure.suptitle(title, fontsize=10)
    _curve(curve, result)
    _blocks(blocks, result)
    _losses(losses, training)
    temporary = path.with_suffix(".tmp")
    figure.savefig(temporary, dpi=110, format="png")
    temporary.replace(path)
    pyplot.close(figure)


def _curve(axis: Any, result: AdaptResult) -> None:
    points = [(i, 100.0 * a) for i, a in enumerate(result.curve, start=1) if a is not None]
    axis.set_title("accuracy on the clips kept out, classes so far")
    axis.set_xlabel("session")
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set_ylabel("%")
    if not points:
        _nothing(axis, "no clip was kept out")
        return
    axis.plot(*zip(*points, strict=True), marker="o", label="as learnt")
    last = points[-1][0]
    for value, name, marker in ((result.recomputed, "recomputed", "D"), (result.frozen, "without adaptation", "x")):
        if value is not None:
            axis.plot([last], [100.0 * value], marker, label=name)
    axis.grid(alpha=0.3)
    axis.legend()


def _blocks(axis: Any, result: AdaptResult) -> None:
    similarities = result.figures.get("cka") or []
    axis.set_title("similarity of each block before and after the probe")
    axis.set_xlabel("block")
    axis.set_ylabel("linear CKA")
    if not similarities:
        _nothing(axis, "no probe was made")
        return
    lowest = result.figures["lowest_block"]
    colours = ["C1" if i >= lowest else "C7" for i in range(len(similarities))]
    bars = axis.bar(range(1, len(similarities) + 1), similarities, color=colours)
    axis.bar_label(bars, [f"{value:.3f}" for value in similarities], fontsize=8)
    axis.set_ylim(min(0.9, *similarities) - 0.02, 1.02)
    axis.set_xticks(range(1, len(similarities) + 1))
    axis.set_xlabel(f"block; adapted from {lowest + 1} on")


def _losses(axis: Any, training: Sequence[dict[str, str]]) -> None:
    axis.set_title("training")
    axis.set_xlabel("epoch, all sessions")
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set_ylabel("mean over the epoch")
    if not training:
        _nothing(axis, "nothing was trained")
        return
    for name in ("cross_entropy", "boundary_loss"):
        values = [float(row[name]) for row in training if row.get(name)]
        if any(values):
            axis.plot(range(1, len(values) + 1), values, label=name.replace("_", " "), marker=".")
    axis.grid(alpha=0.3)
    axis.legend()


def _nothing(axis: Any, words: str) -> None:
    axis.text(0.5, 0.5, words, ha="center", va="center", transform=axis.transAxes)
    axis.set_xticks([])
    axis.set_yticks([])
