"""The card and the summary say what was measured, for each precision, and nothing that was not."""

from __future__ import annotations

from typing import Any

import pytest

from edge.bundle import Bundle
from export.model_card import model_card
from export.summary import too_slow

FIGURES: dict[str, Any] = {
    "precision": "int8",
    "onnx_bytes": {"float32": 7_467_025, "int8": 3_379_061},
    "checked_on": "recordings",
    "parity": {"max_difference": 6e-6, "max_edge_difference": 2.5e-4, "n_windows": 64},
    "to_float32": {"n_windows": 256, "mean_cosine": 0.99886, "p5_cosine": 0.998, "min_cosine": 0.99524},
    "window_ms": {"float32": 3.42, "int8": 1.9},
    "readout": {"esc50": {"float32": 0.795, "int8": 0.79}},
    "n_tested": {"esc50": 400},
    "left_out": {"rooms": "all clips are of one class"},
    "processor": "A processor (AVX512-VNNI)",
}


def rows(card: str) -> dict[str, list[str]]:
    lines = [line.strip("| ").split(" | ") for line in card.splitlines() if line.startswith("| ")]
    return {line[0].strip(): [cell.strip() for cell in line[1:]] for line in lines}


def test_the_table_has_a_column_for_each_precision() -> None:
    card = model_card("# ear\n", FIGURES, {"kind": "student", "schema": 2}, hop_ms=250.0)
    table = rows(card)
    assert table["size of the backbone, MB"] == ["7.5", "3.4"]
    assert table["ms of one core for one window"] == ["3.42", "1.90"]
    assert table["share of one core at a hop of 250 ms"] == ["1.4 %", "0.8 %"]
    assert table["read-out accuracy, esc50, 400 clips kept out"] == ["0.7950", "0.7900"]
    assert table["the same, worst of 256 windows"][-1] == "0.99524"
    assert "AVX512-VNNI" in card and "rooms gave no accuracy: all clips are of one class." in card


def test_what_was_not_measured_has_no_row() -> None:
    figures = {k: FIGURES[k] for k in ("precision", "checked_on", "parity")} | {"onnx_bytes": {"float32": 7_467_025}}
    card = model_card("# ear", figures, {"kind": "student"}, hop_ms=250.0)
    assert rows(card)["size of the backbone, MB"] == ["7.5"]
    for word in ("read-out", "ms of one core", "cosine", "Milliseconds"):
        assert word not in card


def test_adapters_and_the_figures_of_adapting_are_told() -> None:
    meta = {
        "schema": 2,
        "kind": "eat",
        "adapters": [{"name": "one", "scaling": 2.0, "modules": ["a", "b"]}, {"name": "two", "modules": ["a"]}],
        "adapt": {"accuracy_mixed": 0.91, "accuracy_final": 0.93},
        "note": "kept",
    }
    card = model_card("# ear", FIGURES, meta, hop_ms=250.0)
    assert "in order: one (2 modules), two (1 modules)." in card
    assert '"accuracy_mixed": 0.91' in card and '"note": "kept"' in card and "kind `eat`" in card
    assert '"modules"' not in card, "hundreds of names are no reading"


def test_an_ear_slower_than_its_hop_is_warned_of(small_bundle: Bundle) -> None:
    hop_ms = 1e3 * small_bundle.space.hop_length / small_bundle.space.sample_rate
    assert list(too_slow(small_bundle, 0.9 * hop_ms)) == []
    (words,) = too_slow(small_bundle, 2.0 * hop_ms)
    assert "cannot listen live" in words and f"after {hop_ms:.0f} ms" in words


@pytest.mark.parametrize("missing", ["adapt", "adapters"])
def test_a_plain_checkpoint_has_no_word_of_adapting(missing: str) -> None:
    assert missing not in model_card("# ear", FIGURES, {"kind": "student"}, hop_ms=250.0).lower()
