"""What is left behind can be read again: JSON, CSV, words and pictures."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import pytest

from tests.trainer.harness.synthetic_material import clips_of, course_of, material_of, run_of
from trainer.harness.budgets import BudgetLine
from trainer.harness.guard import Hearing
from trainer.harness.plots import draw
from trainer.harness.report import result_of, summarise, words_of, write_result
from trainer.harness.run import Run
from trainer.harness.table import Table

MATERIAL = material_of(clips_of(4))
LINE = BudgetLine("ours", (1.0, 2.0), (None, "ours"), (0.0, 0.8), (0.0, 0.7), 0.4, 0.35, 0.4, 0.35)


def runs(method: str, base: float, correct: str) -> tuple[Run, ...]:
    return tuple(
        run_of(
            [[base, None], [base - 0.1, base + 0.01 * i]],
            method=method,
            order_seed=1993 + i,
            correct=correct,
            memory_bytes=2_000_000,
        )
        for i in range(3)
    )


def table(n_methods: int = 2) -> Table:
    rows = {f"m{i}": runs(f"m{i}", 0.3 + 0.1 * i, "1" * (2 + i) + "0" * (6 - i)) for i in range(n_methods)}
    courses = tuple(course_of(MATERIAL, order_seed=1993 + i) for i in range(3))
    return Table("group", courses, Hearing(3, 8, True, "The backbone heard 3."), ("The backbone heard 3.",), rows)


def test_json_and_csv_hold_the_same(tmp_path: Path) -> None:
    made = table()
    result = result_of({"config": {"set": "made"}}, [made], {"group": [LINE]})
    write_result(tmp_path, result)
    read = json.loads((tmp_path / "result.json").read_text())
    only = read["tables"][0]
    assert only["headline"] is True
    assert only["class_orders"]["1993"] == list(made.courses[0].labels)
    assert only["hearing"]["n_heard"] == 3
    assert only["rows"][0]["last"] == pytest.approx(sum(r["last"] for r in only["runs"][:3]) / 3)
    assert only["comparisons"][0]["verdict"] in ("better", "not separated")
    assert only["budgets"][0]["auc_l"] == 0.35
    rows = {name: list(csv.DictReader((tmp_path / f"{name}.csv").open())) for name in ("results", "summary", "paired")}
    assert len(rows["results"]) == 6
    assert {r["order_seed"] for r in rows["results"]} == {"1993", "1994", "1995"}
    assert float(rows["results"][0]["last"]) == only["runs"][0]["last"]
    assert [r["row"] for r in rows["summary"]] == ["m0", "m1"]
    assert float(rows["paired"][0]["orders_low"]) == only["comparisons"][0]["orders"]["low"]
    assert not list(tmp_path.glob("*.tmp"))


def test_a_summary_has_mean_and_deviation_and_what_it_cost() -> None:
    found = summarise(runs("m", 0.5, "1"))
    assert found["last"] == pytest.approx(0.455)
    assert found["last_deviation"] == pytest.approx(0.005)
    assert found["seconds_learning"] == 1.0
    assert found["memory_bytes"] == 2_000_000
    assert summarise(runs("m", 0.5, "1")[:1])["last_deviation"] is None


def test_words_say_protocol_warnings_figures_and_verdict() -> None:
    words = words_of(table(), [LINE])
    for said in (
        "split by group: 2 sessions of 2 classes, 32 clips learnt, 8 asked, 3 orders (seeds 1993 to 1995)",
        "The backbone heard 3.",
        "25.5 ± 0.5",
        "2.00 MB",
        "m1 against m0",
        "+10.00",
        "does not fit",
        "AUC-A",
    ):
        assert said in words


def test_recomputed_accuracy_has_a_column_where_a_backbone_changed_and_pairs_stay_few() -> None:
    plain, adapted = table(5), table(5)
    changed = tuple(
        dataclasses.replace(run, figures={**run.figures, "accuracy_recomputed": 0.75, "gap": 0.1})
        for run in adapted.runs["m1"]
    )
    adapted.runs["m1"] = changed
    assert "recomputed" not in words_of(plain)
    words = words_of(adapted)
    assert "recomputed" in words and "75.0 ± 0.0" in words
    assert summarise(changed)["gap"] == pytest.approx(0.1)
    pairs = [line.split("  ")[0] for line in words.splitlines() if " against " in line]
    assert pairs == [f"m{b} against m{a}" for b, a in ((1, 0), (2, 0), (3, 0), (4, 0), (2, 1), (3, 2), (4, 3))]


@pytest.mark.parametrize("n_methods", [1, 5])
def test_pictures_are_drawn(tmp_path: Path, n_methods: int) -> None:
    drawn = draw(table(n_methods), [LINE], "made", tmp_path)
    assert [p.name for p in drawn] == [f"{k}-group.png" for k in ("curves", "forgetting", "comparison", "budgets")]
    assert all(p.read_bytes().startswith(b"\x89PNG") and p.stat().st_size > 10_000 for p in drawn)
    assert len(draw(table(1), [], "made", tmp_path)) == 3
    assert not list(tmp_path.glob("*.tmp"))
