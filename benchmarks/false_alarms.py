"""False alarms an hour against missed sounds: each step of the cure, number of shots, conditions, kinds of stream.

Five sounds at a time are taught from held-out clips and asked on other held-out clips of other source recordings. The
negatives are recordings of groups that neither the ear nor the prior heard: a home (speech, rooms, ambience, words)
and, apart from it, other sounds of the same set, one every 5 s, as no home has them. A clip is missed when no window of
it reaches the threshold. An event is a first crossing after 2 s without one; the rate is that of all five together at
home, under one threshold for all. Hours count a recording once, however often it is used. The steps: what the prior
knows, the class's own normalisation, the prior's classes as rivals, the class's own distance, minutes of the room
taught as background. ``k in a row``: the level that k neighbouring windows all reached.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.machine import parser, print_table, single_thread, write_results

single_thread()

from benchmarks.alarm_curves import RATES, Curve, draw_curves, stream_rows  # noqa: E402
from benchmarks.alarm_trial import MOST_SHOTS, SHIPPED, SOUNDS, STEPS, Lesson, Step, Trial, lessons  # noqa: E402
from benchmarks.degrade import conditions  # noqa: E402
from benchmarks.embedded import QUICK_CLIPS, TEN_WORDS, Embedded, embed_changed, embed_sets  # noqa: E402
from edge.bundle import open_bundle  # noqa: E402
from edge.embedder import Embedder  # noqa: E402


def step_rows(trial: Trial, found: Sequence[Lesson], steps: Sequence[Step], ear: str) -> list[dict[str, Any]]:
    """One row per step, five shots, clean."""
    return [row_of(trial.curves(found, step, MOST_SHOTS)["clean"], ear, step) for step in steps]


def row_of(curve: Curve, ear: str, step: Step) -> dict[str, Any]:
    """The summary at home, and the rate among other sounds at the home's threshold of 20 % missed."""
    others = replace(curve, counted=("other sounds",))
    dense = others.rate(curve.threshold_missing(0.2))
    return {"ear": ear, "step": step.name, **curve.summary(), "other sounds/h at 20% missed": dense}


def shown(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows for the terminal: rounded, without thresholds."""
    return [{k: _rounded(k, v) for k, v in row.items() if not k.startswith("threshold")} for row in rows]


def _rounded(name: str, value: Any) -> Any:
    if not isinstance(value, float):
        return value
    return f"{value:.2f}" if name.startswith("missed") else f"{value:.3g}"


def degraded(embedder: Embedder, data: Embedded, found: Sequence[Lesson], cache: Path) -> dict[str, Embedded]:
    """The test clips as other conditions would have let them be heard."""
    clips = sorted({c for lesson in found for part in lesson.ask.values() for c in part})
    noises = [data.clips.paths[c] for c in data.where(sets=("background_long",), held_out=True)]
    changed = {"clean": data}
    for name, change in conditions(noises, data.space.sample_rate).items():
        slug = name.replace(" ", "_").replace(",", "")
        changed[name] = embed_changed(embedder, data, clips, change, slug, cache)
    return changed


def shots_rows(curves: Mapping[str, Curve], shots: int) -> list[dict[str, Any]]:
    """Misses of every condition at the thresholds that give 0.5, 1, 5 and 20 false alarms an hour."""
    rows = []
    for name, curve in curves.items():
        row: dict[str, Any] = {"shots": shots, "condition": name}
        for rate in RATES:
            threshold = curves["clean"].threshold_at(rate)
            row[f"missed at {rate:g}/h"] = curve.missed(threshold)
            row[f"threshold at {rate:g}/h"] = threshold
        rows.append(row)
    return rows


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--bundle", type=Path, required=True)
    arguments.add_argument("--data", type=Path, required=True, help="folder of sets: esc50, background_long, ...")
    arguments.add_argument("--peer", type=Path, nargs="*", default=[], help="further bundles, measured alike")
    arguments.add_argument("--cache", type=Path, default=Path(".embedded"), help="where embedded windows are kept")
    arguments.add_argument("--draws", type=int, default=20)
    arguments.add_argument("--ridge", type=float, default=4096.0)
    arguments.add_argument("--clean-only", action="store_true", help="do not embed the test clips again, degraded")
    options = arguments.parse_args()
    most = QUICK_CLIPS if options.quick else None
    draws = 3 if options.quick else options.draws
    bundle = open_bundle(options.bundle)
    embedder = Embedder(bundle)
    data = embed_sets(embedder, [options.data], cache=options.cache, max_clips=most)
    found = lessons(data, SOUNDS, draws)
    trial = Trial(data, bundle.prior(), options.ridge)
    results: dict[str, Any] = {"bundle": bundle.name, "draws": draws, "ridge": options.ridge, "steps": [], "curves": {}}

    for step in STEPS:
        curve = trial.curves(found, step, MOST_SHOTS)["clean"]
        results["steps"].append(row_of(curve, bundle.name, step))
        results["curves"][step.name] = list(curve.points())
        if step is SHIPPED:
            results["streams"] = [
                {"threshold": f"{rate:g}/h at home", "missed": curve.missed(t), **row}
                for rate in RATES
                for t in [curve.threshold_at(rate)]
                for row in stream_rows(curve, t)
            ]
    print_table(shown(results["steps"]))
    print()
    print_table(results["streams"])
    if options.out is not None:
        draw_curves(
            options.out.with_suffix(".png"), results["curves"], f"{bundle.name}: five sounds at home, five shots each"
        )
    write_results(options.out, "false_alarms", results)

    variants = [
        *(replace(SHIPPED, name=f"{k} in a row", in_a_row=k) for k in (1, 2, 3)),
        *(replace(s, name=f"new kinds: {s.name}", new_kinds=True) for s in STEPS[4:7]),
    ]
    results["variants"] = step_rows(trial, found, variants, bundle.name)
    print()
    print_table(shown(results["variants"]))
    words = lessons(data, TEN_WORDS, draws)
    results["words"] = step_rows(trial, words, STEPS[4:7], f"{bundle.name}, words taught")
    results["peers"] = []
    for path in options.peer:
        other = open_bundle(path)
        heard = embed_sets(Embedder(other), [options.data], cache=options.cache, max_clips=most)
        rival = Trial(heard, other.prior(), options.ridge)
        results["peers"] += step_rows(rival, lessons(heard, SOUNDS, draws), STEPS[3:], other.name)
    print()
    print_table(shown([*results["words"], *results["peers"]]))
    write_results(options.out, "false_alarms", results)

    if not options.clean_only:
        trial = replace(trial, asked=degraded(embedder, data, found, options.cache))
    results["shots"] = []
    for shots in (1, 3, 5):
        results["shots"] += shots_rows(trial.curves(found, SHIPPED, shots), shots)
    print()
    print_table(shown(results["shots"]))
    write_results(options.out, "false_alarms", results)


if __name__ == "__main__":
    main()
