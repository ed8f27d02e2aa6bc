"""The words of a bundle: what its maker says, what was measured when it was made, what the checkpoint says."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any


def model_card(head: str, figures: Mapping[str, Any], meta: Mapping[str, Any], *, hop_ms: float) -> str:
    """Markdown. head: the maker's own words. figures: ``PackReport.figures``. meta: ``checkpoint.json``."""
    parts = [head, "## Export", export_table(figures, hop_ms=hop_ms), _sentences(figures)]
    parts += ["All figures:", _fenced(figures), "## Training"]
    if adapters := meta.get("adapters"):
        parts.append(adapters_sentence(adapters))
    if isinstance(adapt := meta.get("adapt"), Mapping):
        parts += ["What adapting measured:", _fenced(adapt)]
    rest = {k: v for k, v in meta.items() if k not in {"schema", "kind", "adapters", "adapt"}}
    return (
        "\n\n".join([*parts, f"From the checkpoint, a backbone of kind `{meta.get('kind', '?')}`:", _fenced(rest)])
        + "\n"
    )


def export_table(figures: Mapping[str, Any], *, hop_ms: float) -> str:
    """A row for each figure, a column for each precision."""
    precisions = list(figures["onnx_bytes"])
    rows: list[list[str]] = [["", *precisions]]
    rows.append(["size of the backbone, MB", *(f"{figures['onnx_bytes'][p] / 1e6:.1f}" for p in precisions)])
    if near := figures.get("to_float32"):
        rows.append(["cosine to float32, mean", *_only_last(precisions, f"{near['mean_cosine']:.5f}")])
        rows.append(
            [f"the same, worst of {near['n_windows']} windows", *_only_last(precisions, f"{near['min_cosine']:.5f}")]
        )
    if times := figures.get("window_ms"):
        rows.append(["ms of one core for one window", *(f"{times[p]:.2f}" for p in precisions)])
        rows.append(
            [f"share of one core at a hop of {hop_ms:g} ms", *(f"{100 * times[p] / hop_ms:.1f} %" for p in precisions)]
        )
    for name, by_precision in figures.get("readout", {}).items():
        label = f"read-out accuracy, {name}, {figures['n_tested'][name]} clips kept out"
        rows.append([label, *(f"{by_precision[p]:.4f}" for p in precisions)])
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|" + "---|" * len(rows[0]))
    return "\n".join(lines)


def adapters_sentence(adapters: Sequence[Mapping[str, Any]]) -> str:
    """Which adapters were merged, in order."""
    names = ", ".join(f"{a['name']} ({len(a['modules'])} modules)" for a in adapters)
    return f"LoRA adapters merged into the weights, in order: {names}."


def _sentences(figures: Mapping[str, Any]) -> str:
    parity = figures["parity"]
    words = [
        f"The float32 graph differs from the network by at most {parity['max_difference']:.1e} on "
        f"{parity['n_windows']} windows of {figures['checked_on']}, by {parity['max_edge_difference']:.1e} on silence, "
        f"impulses and full-scale noise."
    ]
    if figures.get("processor"):
        words.append(f"Milliseconds are medians of processor time on {figures['processor']}, the columns in turn.")
    if figures.get("readout"):
        words.append(
            "The read-out is ridge on clip means, trained on some groups of each set and tested on those kept out."
        )
    words += [f"{name} gave no accuracy: {why}." for name, why in figures.get("left_out", {}).items()]
    if (prior := figures.get("prior")) is not None:
        words.append(
            f"The prior holds {prior['n_windows']} windows of {prior['n_files']} recordings "
            f"({prior['seconds'] / 60:.0f} min), embedded by this very backbone."
        )
    return " ".join(words)


def _only_last(precisions: Sequence[str], text: str) -> list[str]:
    return ["" if i + 1 < len(precisions) else text for i in range(len(precisions))]


def _fenced(values: Mapping[str, Any]) -> str:
    return "```json\n" + json.dumps(values, indent=1, sort_keys=True) + "\n```"
