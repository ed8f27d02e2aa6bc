"""The training benchmark times two loops that do the same work, and tells what it is asked to tell."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks.pace_cost import epoch_rows, first_session, identity_rows, once_row
from benchmarks.training_throughput import FittingLoop, PlainLoop, largest_difference, throughput_rows
from benchmarks.turns import EAT_BASE, Bench, lesson_of, random_eat
from trainer.pace.settings import PaceSettings

TINY = replace(EAT_BASE, width=32, depth=4, heads=2, mlp_width=64)
BENCH = Bench(torch.device("cpu"), rounds=2, peak_size=64)


def test_both_loops_start_and_end_at_the_same_weights() -> None:
    backbone, settings = random_eat(TINY, BENCH.device), PaceSettings(batch_size=4, backbone_learning_rate=0.1)
    lesson = lesson_of(backbone, 10, BENCH.device)
    ours = FittingLoop(backbone, lesson, settings)
    plain = PlainLoop(backbone, lesson, settings, ours)
    start = ours.weights()
    assert largest_difference(start, plain.weights()) == 0.0
    for _ in range(2):
        ours.epoch()
        plain.epoch()
    moved = [float((a - b).abs().max()) for a, b in zip(start, ours.weights(), strict=True)]
    assert min(moved) > 1e-4 and max(moved) > 1e-2
    assert largest_difference(ours.weights(), plain.weights()) < 1e-5


def test_a_loop_on_other_batches_ends_elsewhere() -> None:
    backbone, settings = random_eat(TINY, BENCH.device), PaceSettings(batch_size=4, backbone_learning_rate=0.1)
    lesson = lesson_of(backbone, 10, BENCH.device)
    ours = FittingLoop(backbone, lesson, settings)
    plain = PlainLoop(backbone, lesson, replace(settings, seed=1), ours)
    ours.epoch()
    plain.epoch()
    assert largest_difference(ours.weights(), plain.weights()) > 1e-4


def test_throughput_names_both_loops_and_the_share_of_the_peak() -> None:
    plain, ours = throughput_rows(TINY, 8, 4, BENCH)
    assert (plain["loop"], ours["loop"]) == ("plain peft loop", "soundkeep")
    assert plain["of plain"] == 1.0 and ours["least"] <= ours["of plain"] <= ours["most"]
    assert ours["weights apart"] < 1e-5
    for row in (plain, ours):
        share = row["windows/s"] * row["GFLOP/window"] / row["peak GFLOP/s"]
        assert row["share of peak"] == pytest.approx(share) and share > 0.0


def test_an_epoch_of_pace_is_compared_with_a_naive_one() -> None:
    session = first_session(random_eat(TINY, BENCH.device), 10, 6, 5, BENCH)
    naive, upper, all_blocks = epoch_rows("tiny", session, BENCH)
    assert naive["of naive"] == 1.0 and naive["boundary points"] == 0
    assert (naive["LoRA on"], upper["LoRA on"], all_blocks["LoRA on"]) == ("1-4", "4-4", "1-4")
    assert 0 < upper["boundary points"] == all_blocks["boundary points"] <= 6
    row = once_row("tiny", session, naive["s an epoch"])
    assert row["views"] == 20 and row["probe, one epoch s"] > 0.0 and row["boundary set s"] > 0.0


def test_the_identities_hold() -> None:
    rows = {str(row["what"]): row["value"] for row in identity_rows(TINY, 20, 256, BENCH)}
    assert rows["LoRA merged against live, largest difference"] < 1e-5
    assert rows["the adapter itself, largest difference"] > 1e-3
    assert rows["statistics of 256, one session and 10: same bits"] is True
    assert rows["heads from them: same bits"] is True
    assert rows["bytes kept, MB"] == 8 * (5 + 5 * 256 + 256 * 257 // 2) / 1e6
