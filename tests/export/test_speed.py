"""Backbones take turns, and a median is what is told."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from edge.bundle import Bundle
from edge.embedder import Embedder
from export.speed import MAX_ROUNDS, MIN_ROUNDS, processor, window_ms


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Simulated:
    """A backbone that takes a known time on the clock, now and then far longer."""

    def __init__(self, name: str, seconds: float, clock: Clock, log: list[tuple[str, float]]) -> None:
        self.name, self.seconds, self.clock, self.log = name, seconds, clock, log
        self.n = 0

    def embed(self, windows: np.ndarray) -> np.ndarray:
        assert windows.shape == (1, 4)
        self.clock.now += self.seconds * (50.0 if self.n % 5 == 4 else 1.0)
        self.n += 1
        self.log.append((self.name, float(windows[0, 0])))
        return windows


def run(seconds: dict[str, float], budget_s: float) -> tuple[dict[str, float], list[tuple[str, float]]]:
    clock, log = Clock(), []
    embedders: dict[str, Any] = {name: Simulated(name, s, clock, log) for name, s in seconds.items()}
    windows = np.arange(3, dtype=np.float32)[:, None].repeat(4, axis=1)
    return window_ms(cast("dict[str, Embedder]", embedders), windows, budget_s=budget_s, clock=clock), log


def test_each_round_gives_all_the_same_window_and_slow_moments_do_not_count() -> None:
    times, log = run({"a": 0.002, "b": 0.001}, 0.5)
    assert {k: round(v, 9) for k, v in times.items()} == {"a": 2.0, "b": 1.0}
    rounds = log[2:]
    assert [name for name, _ in rounds] == ["a", "b"] * (len(rounds) // 2)
    assert [w for _, w in rounds[::2]] == [w for _, w in rounds[1::2]] == [i % 3 for i in range(len(rounds) // 2)]


def test_the_number_of_rounds_is_bounded_on_both_sides() -> None:
    for seconds, n in ((10.0, MIN_ROUNDS), (1e-9, MAX_ROUNDS)):
        _, log = run({"a": seconds}, 1.0)
        assert len(log) == n + 1


def test_a_real_backbone_takes_time(small_bundle: Bundle) -> None:
    window = np.zeros((1, small_bundle.space.window_length), np.float32)
    times = window_ms({"small": Embedder(small_bundle)}, window, budget_s=0.05)
    assert 0.0 < times["small"] < 1e3
    assert processor().endswith(")")
