"""The load test in small: thirty devices against a server process; it compares the fleet's sum by itself."""

from __future__ import annotations

from pathlib import Path

from benchmarks.fleet_load import measure


def test_thirty_devices_are_served_and_summed_up_to_the_bit(tmp_path: Path) -> None:
    rows = measure("SQLite", tmp_path / "fleet", None, 30)
    assert [row["step"] for row in rows][:3] == ["enrol", "poll", "statement"]
    assert all(row["per_s"] > 0 and row["median_ms"] <= row["p95_ms"] for row in rows if row["per_s"] is not None)
