"""Server and devices together, as people run them: real processes, real recordings, an ear adapted and taken."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.fleet_round import EVALUATION, QUICK, play
from trainer.harness.metrics import Interval


@pytest.mark.timeout(600)
def test_a_fleet_from_the_first_lesson_to_a_bad_ear(shared_data: Path, tmp_path: Path) -> None:
    """A step this small leaves the ear as good as it was, so the device with recordings takes it."""
    result = play(replace(QUICK, pace=("backbone_learning_rate=0.0001",)), shared_data, tmp_path, EVALUATION)

    assert result["exactness"]["same_bits"], result["exactness"]
    assert (result["exactness"]["n_devices"], result["exactness"]["n_records"]) == (3, 24)
    assert result["job"]["status"] == "done", result["job"]

    taken, heard = result["taken"], result["listening"]
    assert heard["state"] == "COMMITTED", heard
    assert (heard["windows_missing"], heard["samples_lost"], heard["gaps"]) == (0, 0, 0), heard
    for level in ("embeddings", "statistics"):
        refused = taken[level]["state"] == "REJECTED" and "accuracy would fall" in taken[level]["reason"]
        assert refused or taken[level]["tried"]["state"] == "COMMITTED", taken[level]
    with_clips = result["devices"][0]
    interval = Interval(**with_clips["difference"])
    assert interval.high is None or interval.high >= 0.0, with_clips

    bad = result["bad_ear"]
    assert bad["state"] == "ROLLED_BACK" and bad["starts"] <= 3 and "not finite" in bad["reason"], bad
    assert bad["same_memory"] and bad["same_answers"], bad
    assert (bad["windows_missing"], bad["samples_lost"], bad["gaps"]) == (0, 0, 0), bad
    in_use, refused = result["job"]["result"]["bundle"]["version"], "evaluation 3 ROLLED_BACK"
    assert bad["at_the_server"] == f"evaluation {in_use}, COMMITTED; {refused}", bad

    sent = result["traffic"]
    assert (
        "embeddings" not in sent["statistics"]
        and "clips" not in sent["embeddings"]
        and sent["clips"]["clips"]["up"] > 0
    )
