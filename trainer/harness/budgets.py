"""Equal memory: every method gets the same bytes on the device, backbone included.

No method here keeps recordings, so bytes left over buy nothing; too few bytes shrink what can shrink (the lift of an
analytic classifier) and rule out the rest. Over several budgets the area under the accuracy is one figure for all.
Source: Zhou et al. 2024 (Class-Incremental Learning: A Survey), memory-aligned and memory-agnostic comparison.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from trainer.backbones.backbone import Backbone
from trainer.harness.method import BudgetQuestion
from trainer.harness.metrics import area_over_budgets, measures
from trainer.harness.run import Run
from trainer.harness.table import Variant

MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Cell:
    """A method at one budget. variant: the row that stands for it, None when nothing of it can fit."""

    method: str
    budget_mb: float
    variant: Variant | None


@dataclass(frozen=True)
class BudgetLine:
    """A method over all budgets. rows: which row stood for it, None where it does not fit; there it counts as 0.

    auc_a, auc_l: areas under average and last accuracy over MB; mean_a, mean_l: the same over the range. None for one
    budget.
    """

    method: str
    budgets_mb: tuple[float, ...]
    rows: tuple[str | None, ...]
    average: tuple[float, ...]
    last: tuple[float, ...]
    auc_a: float | None
    auc_l: float | None
    mean_a: float | None
    mean_l: float | None


def device_bytes(backbone: Backbone) -> int:
    """Bytes of the backbone's weights and buffers, as float32 where they are."""
    return sum(t.numel() * t.element_size() for t in backbone.state_dict().values())


def cells_of(
    variants: Sequence[Variant], budgets_mb: Sequence[float], backbone: Backbone, n_classes: int
) -> list[Cell]:
    """Each method at each budget, shrunk where it can be."""
    cells = []
    for variant in variants:
        for budget in budgets_mb:
            cells.append(Cell(variant.name, budget, _shrunk(variant, budget, backbone, n_classes)))
    return cells


def _shrunk(variant: Variant, budget_mb: float, backbone: Backbone, n_classes: int) -> Variant | None:
    left = int(budget_mb * MEGABYTE) - device_bytes(backbone)
    if left <= 0:
        return None
    if variant.kind.fit is None:
        return variant
    words = variant.kind.fit(variant.settings, BudgetQuestion(left, backbone.dim, n_classes))
    if words is None or words == dict(variant.settings):
        return None if words is None else variant
    changed = ",".join(f"{k}={v}" for k, v in sorted(words.items()) if variant.settings.get(k) != v)
    return Variant(f"{variant.name}@{changed}", variant.kind, words)


def rows_of(variants: Sequence[Variant], cells: Sequence[Cell]) -> list[Variant]:
    """All rows to run: the methods as they are, then those that budgets ask for, each once."""
    found = {v.name: v for v in variants}
    for cell in cells:
        if cell.variant is not None:
            found.setdefault(cell.variant.name, cell.variant)
    return list(found.values())


def lines_of(cells: Sequence[Cell], runs: Mapping[str, Sequence[Run]], backbone: Backbone) -> list[BudgetLine]:
    """Accuracy over the budgets; what a method said it keeps decides whether it fits."""
    lines = []
    for method in dict.fromkeys(cell.method for cell in cells):
        own = sorted((c for c in cells if c.method == method), key=lambda c: c.budget_mb)
        budgets = tuple(c.budget_mb for c in own)
        rows = tuple(_fitting(c, runs, backbone) for c in own)
        scores = [_means(runs[row]) if row is not None else (0.0, 0.0) for row in rows]
        average, last = tuple(a for a, _ in scores), tuple(b for _, b in scores)
        several = len(budgets) > 1
        auc_a, mean_a = area_over_budgets(budgets, average) if several else (None, None)
        auc_l, mean_l = area_over_budgets(budgets, last) if several else (None, None)
        lines.append(BudgetLine(method, budgets, rows, average, last, auc_a, auc_l, mean_a, mean_l))
    return lines


def _fitting(cell: Cell, runs: Mapping[str, Sequence[Run]], backbone: Backbone) -> str | None:
    if cell.variant is None:
        return None
    kept = [run.figures.get("memory_bytes") for run in runs[cell.variant.name]]
    if any(n is None for n in kept):
        return None
    needed = device_bytes(backbone) + max(int(n) for n in kept if n is not None)
    return cell.variant.name if needed <= cell.budget_mb * MEGABYTE else None


def _means(runs: Sequence[Run]) -> tuple[float, float]:
    found = [measures(run) for run in runs]
    return float(np.mean([m.average for m in found])), float(np.mean([m.last for m in found]))
