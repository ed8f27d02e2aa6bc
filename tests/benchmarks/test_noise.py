"""The noises of the noise benchmark are what they are called, and the benchmark runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.noise import LEVELS_DBFS, noise, pink, run, white
from edge.scenes import TEN_TEST_SOUNDS
from tests.bundles import write_tiny_bundle

RATE = 8_000


@pytest.mark.parametrize("colour", ["white", "pink"])
@pytest.mark.parametrize("level", LEVELS_DBFS)
def test_noise_has_its_level_and_never_leaves_full_scale(colour: str, level: int) -> None:
    whole = np.concatenate(list(noise(colour, level, 25.0, RATE, 1)))
    assert len(whole) == 25 * RATE and np.max(np.abs(whole)) <= 1.0
    measured = 10.0 * np.log10(np.mean(np.square(whole, dtype=np.float64)))
    assert measured == pytest.approx(level, abs=0.2)


def test_white_is_flat_and_pink_falls_by_three_decibels_an_octave() -> None:
    slopes = []
    for make in (white, pink):
        power = np.abs(np.fft.rfft(make(2**18, np.random.default_rng(0)))) ** 2
        octaves = [10.0 * np.log10(power[2**k : 2 ** (k + 1)].mean()) for k in range(8, 16)]
        slopes.append(np.polyfit(np.arange(8), octaves, 1)[0])
    assert slopes[0] == pytest.approx(0.0, abs=0.2)
    assert slopes[1] == pytest.approx(-3.0, abs=0.2)


def test_the_benchmark_counts_every_condition_and_its_control_hears(tmp_path: Path) -> None:
    results = run(write_tiny_bundle(tmp_path / "tiny", with_prior=True), 2.0)
    assert [(row["sound"], row["dBFS"]) for row in results["rows"]] == [
        ("silence", None),
        *((colour, level) for colour in ("white", "pink") for level in LEVELS_DBFS),
    ]
    assert results["rows"][0]["events_of_taught"] == results["rows"][0]["events_unknown"] == 0
    assert results["taught"] == list(TEN_TEST_SOUNDS)
    assert results["share_of_fresh_takes_heard"] > 0.3
    assert results["n_events"] == sum(r["events_of_taught"] + r["events_unknown"] for r in results["rows"])
