"""What a benchmark leaves behind: ``result.json`` with everything, CSV files for tables, words for the terminal."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from trainer.harness.budgets import BudgetLine
from trainer.harness.metrics import Comparison, Interval, Measures, compare, measures
from trainer.harness.run import Run
from trainer.harness.table import Table

MEASURES = tuple(f.name for f in fields(Measures))
CAUTION = (
    "Orders share the test clips, so an interval over orders says what another order of classes would change, not "
    "what other test clips would; 'better' and 'worse' are said only when the intervals over orders and over test "
    "clips both exclude 0. Clips of one speaker or recording are not independent, so the second interval is narrower "
    "than it should be. Seconds of asking include solving for a head where a method does that when it is first asked; "
    "no seconds include the frozen backbone, which runs once for all methods."
)


def summarise(runs: Sequence[Run]) -> dict[str, Any]:
    """Mean and sample deviation over orders of each measure, with seconds and bytes; None where there is none."""
    found: dict[str, Any] = {"method": runs[0].method, "orders": len(runs)}
    each = [asdict(measures(run)) for run in runs]
    for name in MEASURES:
        values = [m[name] for m in each if m[name] is not None and not math.isnan(m[name])]
        found[name] = float(np.mean(values)) if values else None
        found[f"{name}_deviation"] = float(np.std(values, ddof=1)) if len(values) > 1 else None
    for name in ("accuracy_recomputed", "gap"):
        told = [run.figures[name] for run in runs if run.figures.get(name) is not None]
        found[name] = float(np.mean(told)) if told else None
        found[f"{name}_deviation"] = float(np.std(told, ddof=1)) if len(told) > 1 else None
    found["seconds_learning"] = float(np.mean([sum(run.seconds) for run in runs]))
    found["seconds_asking"] = float(np.mean([run.seconds_asking for run in runs]))
    memory = [run.figures["memory_bytes"] for run in runs if "memory_bytes" in run.figures]
    found["memory_bytes"] = max(memory) if memory else None
    found["peak_bytes"] = max(run.peak_bytes for run in runs)
    found["peak_device_bytes"] = max((run.peak_device_bytes or 0 for run in runs), default=0) or None
    return found


def comparisons(table: Table) -> list[Comparison]:
    """Every pair of rows once, the later one against the earlier."""
    names = list(table.runs)
    return [_named(compare(table.runs[b], table.runs[a]), b, a) for i, a in enumerate(names) for b in names[i + 1 :]]


def _named(comparison: Comparison, method: str, reference: str) -> Comparison:
    values = {f.name: getattr(comparison, f.name) for f in fields(Comparison)}
    return Comparison(**{**values, "method": method, "reference": reference})


def result_of(
    header: Mapping[str, Any], tables: Sequence[Table], budgets: Mapping[str, Sequence[BudgetLine]]
) -> dict[str, Any]:
    """Everything as JSON values. header: what the command was and on what. budgets: by split."""
    return {
        **header,
        "caution": CAUTION,
        "tables": [
            {
                "split": table.split,
                "headline": i == 0,
                "protocol": table.words,
                "warnings": list(table.warnings),
                "hearing": asdict(table.hearing),
                "class_orders": {str(c.order_seed): list(c.labels) for c in table.courses},
                "classes_left_out": list(table.courses[0].left_out),
                "rows": [{**summarise(runs), "row": name} for name, runs in table.runs.items()],
                "comparisons": [asdict(c) for c in comparisons(table)],
                "budgets": [asdict(line) for line in budgets.get(table.split, ())],
                "runs": [
                    {**asdict(run), "row": name, **asdict(measures(run))}
                    for name, runs in table.runs.items()
                    for run in runs
                ],
            }
            for i, table in enumerate(tables)
        ],
    }


def write_result(out: Path, result: Mapping[str, Any]) -> None:
    """Write ``result.json``, ``results.csv`` (a line per row and order), ``summary.csv`` and ``paired.csv``."""
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_finite(result), indent=1, sort_keys=True, allow_nan=False) + "\n"
    temporary = out / "result.tmp"
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(out / "result.json")
    runs, rows, pairs = [], [], []
    for table in result["tables"]:
        split = {"split": table["split"]}
        for run in table["runs"]:
            costs = {"seconds_learning": sum(run["seconds"]), "memory_bytes": run["figures"].get("memory_bytes")}
            kept = ("order_seed", *MEASURES, "seconds_asking", "peak_bytes", "peak_device_bytes")
            runs.append({**split, "row": run["row"], **{k: run[k] for k in kept}, **costs})
        rows += [{**split, "row": row["row"], **{k: v for k, v in row.items() if k != "row"}} for row in table["rows"]]
        pairs += [{**split, **_flat(pair)} for pair in table["comparisons"]]
    for name, lines in (("results", runs), ("summary", rows), ("paired", pairs)):
        _write_csv(out / f"{name}.csv", lines)


def words_of(table: Table, budgets: Sequence[BudgetLine] = ()) -> str:
    """One table for the terminal; accuracies in per cent, deviations over orders behind the sign.

    Pairs are printed against the first row and the row above; all of them are in ``paired.csv``.
    """
    rows = {name: summarise(runs) for name, runs in table.runs.items()}
    adapts = any(found["accuracy_recomputed"] is not None for found in rows.values())
    measured = (*MEASURES, "accuracy_recomputed") if adapts else MEASURES
    recomputed = ("recomputed",) if adapts else ()
    titles = ("", "last", "average", "forgetting", "new classes", "backward", *recomputed)
    lines: list[tuple[str, ...]] = [(*titles, "learning", "asking", "keeps")]
    for name, found in rows.items():
        cells = [_percent(found[m], found[f"{m}_deviation"]) for m in measured]
        memory = "-" if found["memory_bytes"] is None else f"{found['memory_bytes'] / 1e6:.2f} MB"
        lines.append((name, *cells, *_seconds(found), memory))
    blocks = [f"split by {table.split}: {table.words}", *table.warnings, "", _aligned(lines)]
    shown = [name for name in rows if "@" not in name]
    wanted = {(b, a) for i, b in enumerate(shown[1:], start=1) for a in (shown[0], shown[i - 1])}
    pairs = [pair for pair in comparisons(table) if (pair.method, pair.reference) in wanted]
    if pairs:
        told: list[tuple[str, ...]] = [("last accuracy", "difference", "over orders", "over test clips", "")]
        told += [
            (f"{p.method} against {p.reference}", _points(p.orders.mean), _range(p.orders), _range(p.clips), p.verdict)
            for p in pairs
        ]
        blocks += ["", _aligned(told)]
    if budgets:
        told = [("equal memory", *(f"{mb:g} MB" for mb in budgets[0].budgets_mb), "AUC-A", "AUC-L", "mean A", "mean L")]
        for line in budgets:
            cells = [_fit(row, last) for row, last in zip(line.rows, line.last, strict=True)]
            areas = [f"{area:.2f}" if area is not None else "-" for area in (line.auc_a, line.auc_l)]
            means = [_percent(mean, None) for mean in (line.mean_a, line.mean_l)]
            told.append((line.method, *cells, *areas, *means))
        blocks += ["", _aligned(told)]
    return "\n".join(blocks)


def _fit(row: str | None, last: float) -> str:
    if row is None:
        return "does not fit"
    _, shrunk, how = row.partition("@")
    return f"{100.0 * last:.1f}" + (f" ({how})" if shrunk else "")


def _percent(value: float | None, deviation: float | None) -> str:
    if value is None or math.isnan(value):
        return "-"
    return f"{100.0 * value:.1f}" + (f" ± {100.0 * deviation:.1f}" if deviation is not None else "")


def _seconds(found: Mapping[str, Any]) -> tuple[str, str]:
    return f"{found['seconds_learning']:.1f} s", f"{found['seconds_asking']:.1f} s"


def _points(value: float) -> str:
    return "-" if math.isnan(value) else f"{100.0 * value:+.2f}"


def _range(interval: Interval) -> str:
    if interval.low is None or interval.high is None:
        return "needs two"
    return f"[{100.0 * interval.low:+.2f}, {100.0 * interval.high:+.2f}]"


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def _flat(pair: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pair.items():
        if isinstance(value, Mapping):
            found |= {f"{key}_{inner}": v for inner, v in value.items()}
        else:
            found[key] = value
    return found


def _finite(value: Any) -> Any:
    """The same with None for numbers that are not finite, which JSON does not have."""
    if isinstance(value, Mapping):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write_csv(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", newline="", encoding="utf-8") as f:
        writer = csv.DictWriter(f, list(lines[0]) if lines else [])
        writer.writeheader()
        writer.writerows(lines)
    temporary.replace(path)
