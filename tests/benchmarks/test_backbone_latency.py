"""The latency benchmark measures bundles, checkpoints and kinds in each precision."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.backbone_latency import default_ears, ear_of, rows_of
from edge.bundle import Bundle
from edge.errors import BundleError
from tests.export.small_student import write_checkpoint


def test_a_checkpoint_is_measured_in_every_precision(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "small")
    ear = ear_of(str(tmp_path / "small"), tmp_path / "exports")
    rows = rows_of(ear, 0.01)
    assert [row["precision"] for row in rows] == ["float32", "float16", "int8"]
    assert rows[0]["of float32"] == 1.0 and rows[1]["MB"] < rows[0]["MB"]
    for row in rows:
        assert row["backbone"] == "small" and row["window s"] == 1.0 and row["hop s"] == 0.25
        assert row["ms a second, end to end"] == row["ms a decision"] > 0.0
        assert row["ms a second, at the hop"] == pytest.approx(4.0 * row["ms a decision"])


def test_a_bundle_is_measured_as_it_is(small_bundle: Bundle, tmp_path: Path) -> None:
    (row,) = rows_of(ear_of(str(small_bundle.path), tmp_path), 0.01)
    assert row["backbone"] == small_bundle.name and row["MB"] == len(small_bundle.onnx_bytes()) / 1e6


def test_without_arguments_the_ears_of_the_repository_are_measured() -> None:
    assert [(ear.name, list(ear.bundles)) for ear in default_ears()] == [
        ("evaluation", ["float32"]),
        ("ear", ["float32", "int8"]),
    ]


def test_what_is_nothing_of_these_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is no checkpoint"):
        ear_of(str(tmp_path / "absent"), tmp_path)
