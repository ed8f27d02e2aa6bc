"""Equal bytes for every method."""

from __future__ import annotations

import pytest

from tests.trainer.harness.synthetic_material import DIM, PlainBackbone, run_of
from trainer.harness.budgets import cells_of, device_bytes, lines_of, rows_of
from trainer.harness.frozen import statistics_bytes
from trainer.harness.methods import known_methods
from trainer.harness.table import Variant

BACKBONE = PlainBackbone()
KNOWN = known_methods()
ANALYTIC = Variant("frozen-analytic", KNOWN["frozen-analytic"], {})
NCM = Variant("ncm", KNOWN["ncm"], {})


def megabytes(n: int) -> float:
    return (n + device_bytes(BACKBONE)) / 1e6


def test_the_backbone_takes_its_share_and_the_lift_shrinks() -> None:
    budgets = [1e-5, megabytes(statistics_bytes(DIM, 4)), megabytes(statistics_bytes(2048, 4)) + 1e-3, 1000.0]
    cells = cells_of([ANALYTIC, NCM], budgets, BACKBONE, 4)
    assert [c.variant.name if c.variant else None for c in cells] == [
        None,
        "frozen-analytic@lift_dim=none",
        "frozen-analytic@lift_dim=2048",
        "frozen-analytic",
        None,
        "ncm",
        "ncm",
        "ncm",
    ]
    rows = rows_of([ANALYTIC, NCM], cells)
    assert [r.name for r in rows[:2]] == ["frozen-analytic", "ncm"]
    assert len(rows) == 4
    assert rows[3].settings == {"lift_dim": "2048"}


def test_a_method_that_does_not_fit_counts_as_nothing_right() -> None:
    cells = cells_of([NCM], [0.01, 0.02, 0.04], BACKBONE, 4)
    small = run_of([[0.8]], memory_bytes=int(0.015e6) - device_bytes(BACKBONE))
    line = lines_of(cells, {"ncm": [small]}, BACKBONE)[0]
    assert line.rows == (None, "ncm", "ncm")
    assert line.last == (0.0, 0.8, 0.8)
    assert line.auc_l == pytest.approx(0.01 * 0.4 + 0.02 * 0.8)
    assert line.mean_a == pytest.approx((line.auc_a or 0.0) / 0.03)
    one = lines_of(cells[:1], {"ncm": [small]}, BACKBONE)[0]
    assert (one.auc_a, one.auc_l) == (None, None)
