"""A million windows through the live head: does it stay equal to the solution from the statistics?

Class-sorted windows, one at a time, no prior, an exactly rank-deficient stream whose condition passes 1e9. The
residual, the error against a refined solution of the same system, and the answers are compared at check points. Peers
on the same stream: the left-to-right recursion and the one-sided form, both for one-hot ridge, next to our own ridge.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.machine import parser, print_table, single_thread, write_results

single_thread()

import numpy as np  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

from benchmarks.streams import IllConditionedStream, feature_space  # noqa: E402
from benchmarks.textbook import LeftToRightRidge, OneSidedRidge  # noqa: E402
from edge.carried import RE_ANCHOR_ABOVE, relative_residual  # noqa: E402
from edge.heads import Background, fit_detection, fit_ridge  # noqa: E402
from edge.recursive import RecursiveHead, RecursiveRidge  # noqa: E402
from edge.scatter import ridge_term  # noqa: E402
from edge.space import FeatureSpace  # noqa: E402
from edge.statistics import SufficientStatistics  # noqa: E402

Array = NDArray[np.float64]
WANTED_CONDITION = 1e9
BURST = 16
LOOK_EVERY = 997


def solved(matrix: Array, targets: Array) -> Array:
    return np.asarray(np.linalg.solve(matrix, targets), dtype=np.float64)


def refined(matrix: Array, targets: Array) -> Array:
    """Solution of matrix x = targets, refined with residuals in extended precision."""
    solution = solved(matrix, targets)
    for _ in range(4):
        error = targets.astype(np.longdouble) - matrix.astype(np.longdouble) @ solution.astype(np.longdouble)
        solution += solved(matrix, error.astype(np.float64))
    return solution


def relative_error(found: Array, wanted: Array) -> float:
    value = float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))
    return value if math.isfinite(value) else math.inf


def chosen_ridge(stream: IllConditionedStream, n_windows: int) -> float:
    """The power of two that brings the condition of scatter + ridge above the wanted one after ``n_windows``."""
    sample = np.vstack([stream.windows(i, 200, draw=1) for i in range(stream.n_classes)]).astype(np.float64)
    sample -= np.repeat(sample.reshape(stream.n_classes, 200, -1).mean(axis=1), 200, axis=0)
    largest = np.linalg.eigvalsh(sample.T @ sample)[-1] * n_windows / len(sample)
    unit = ridge_term(feature_space(stream.dim), 1.0)
    return float(2.0 ** math.floor(math.log2(largest / unit / WANTED_CONDITION)))


def live_head(
    stream: IllConditionedStream, n_windows: int, checkpoints: list[int], ridge: float, re_anchor_above: float
) -> dict[str, Any]:
    """One window at a time through the detector; the residual is looked at every 997 windows, between its own looks."""
    space = feature_space(stream.dim)
    background = Background.nothing(space, ridge)
    head = RecursiveHead(SufficientStatistics.zero(space), background, ridge=ridge, re_anchor_above=re_anchor_above)
    fresh = fresh_windows(stream)
    per_class, seen, seconds = n_windows // stream.n_classes, 0, 0.0
    looks: list[tuple[int, float]] = []
    rows: list[dict[str, Any]] = []
    for index in range(stream.n_classes):
        windows, label = stream.windows(index, per_class), stream.label(index)
        for i in range(per_class):
            begin = time.thread_time()
            head.update(windows[i : i + 1], label)
            seconds += time.thread_time() - begin
            seen += 1
            if seen % LOOK_EVERY == 0:
                looks.append((seen, head.residual()))
            if seen in checkpoints:
                rows.append(_live_row(head, space, background, fresh, seen))
                print_table(rows[-1:])
    decades = [(low, high) for low, high in zip([0, *checkpoints], checkpoints, strict=False) if high > LOOK_EVERY]
    return {
        "windows": seen,
        "ms_per_window": 1e3 * seconds / seen,
        "re_anchored": head.n_reanchored,
        "looks": len(looks),
        "looks_above_1e-13": sum(rho > RE_ANCHOR_ABOVE for _, rho in looks),
        "worst_residual": max(rho for _, rho in looks),
        "worst_residual_up_to": {str(high): max(r for n, r in looks if low < n <= high) for low, high in decades},
        "checkpoints": rows,
    }


def fresh_windows(stream: IllConditionedStream) -> NDArray[np.int16]:
    """About 2,000 windows that were not taught, all classes."""
    return np.vstack([stream.windows(i, max(1, 2000 // stream.n_classes), draw=2) for i in range(stream.n_classes)])


def _live_row(
    head: RecursiveHead, space: FeatureSpace, background: Background, fresh: NDArray[np.int16], seen: int
) -> dict[str, Any]:
    matrix, targets = head.system()
    values = np.linalg.eigvalsh(matrix)
    best = refined(matrix, targets)
    batch = fit_detection(head.statistics(), background, ridge=head.ridge)
    live_scores, batch_scores = head.head().lda_scores(fresh), batch.lda_scores(fresh)
    live_z, batch_z = head.head().z(fresh), batch.z(fresh)
    return {
        "dim": space.dim,
        "windows": seen,
        "condition": float(values[-1] / values[0]),
        "residual": head.residual(),
        "forward_error": relative_error(head.solution, best),
        "forward_error_of_batch": relative_error(solved(matrix, targets), best),
        "z_difference": float(np.abs(live_z - batch_z).max()),
        "z_scale": float(np.abs(batch_z).max()),
        "same_top1": float(np.mean(live_scores.argmax(axis=1) == batch_scores.argmax(axis=1))),
    }


def ridge_and_peers(
    stream: IllConditionedStream, n_windows: int, n_peer: int, checkpoints: list[int], ridge: float
) -> list[dict[str, Any]]:
    """Bursts of 16 through our ridge and the textbook forms; a peer stops at ``n_peer`` windows or when it breaks."""
    space = feature_space(stream.dim)
    ours = RecursiveRidge(SufficientStatistics.zero(space), ridge=ridge, re_anchor_above=math.inf)
    start = np.eye(stream.dim) / ridge_term(space, ridge), np.zeros((stream.dim, stream.n_classes))
    peers: dict[str, LeftToRightRidge | OneSidedRidge] = {
        "left to right": LeftToRightRidge(*start),
        "one-sided": OneSidedRidge(*start),
    }
    seconds = dict.fromkeys(["soundkeep", *peers], 0.0)
    fresh = fresh_windows(stream)
    rows: list[dict[str, Any]] = []
    per_class, seen, pending = n_windows // stream.n_classes, 0, list(checkpoints)
    for index in range(stream.n_classes):
        windows = stream.windows(index, per_class)
        for first in range(0, per_class, BURST):
            burst = windows[first : first + BURST]
            seconds["soundkeep"] += timed(ours.update, burst, stream.label(index))
            targets = np.zeros((len(burst), stream.n_classes))
            targets[:, index] = 1.0
            for name, peer in peers.items():
                seconds[name] += timed(peer.update, burst.astype(np.float64), targets)
            seen += len(burst)
            if pending and seen >= pending[0]:
                pending.pop(0)
                new = _ridge_rows(ours, peers, fresh, ridge, seen, index + 1)
                for row in new:
                    row["ms_per_burst"] = 1e3 * seconds[row["form"]] / (seen / BURST)
                print_table(new)
                rows += new
                broken = {str(row["form"]) for row in new if not row["residual"] < 1e-2}
                peers = {name: p for name, p in peers.items() if name not in broken and seen < n_peer}
    return rows


def timed(work: Callable[[Any, Any], object], first: Any, second: Any) -> float:
    """Seconds of processor time that ``work(first, second)`` takes; a broken peer may overflow without a warning."""
    begin = time.thread_time()
    with np.errstate(all="ignore"):
        work(first, second)
    return time.thread_time() - begin


def _ridge_rows(
    ours: RecursiveRidge,
    peers: dict[str, LeftToRightRidge | OneSidedRidge],
    fresh: NDArray[np.int16],
    ridge: float,
    seen: int,
    n_classes: int,
) -> list[dict[str, Any]]:
    matrix, targets = ours.system()
    values = np.linalg.eigvalsh(matrix)
    best = refined(matrix, targets)
    answers = fit_ridge(ours.statistics(), ridge=ridge).scores(fresh).argmax(axis=1)
    solutions = {"soundkeep": ours.solution, **{name: p.weights[:, :n_classes] for name, p in peers.items()}}
    rows = []
    for name, w in solutions.items():
        with np.errstate(all="ignore"):
            residual = relative_residual(targets - matrix @ w, matrix, w, targets)
            error = relative_error(w, best)
            same = float(np.mean((fresh.astype(np.float64) @ w).argmax(axis=1) == answers))
        rows.append(
            {
                "form": name,
                "dim": len(matrix),
                "windows": seen,
                "condition": float(values[-1] / values[0]),
                "residual": min(residual, 1e300),
                "forward_error": min(error, 1e300),
                "same_top1": same,
            }
        )
    return rows


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--dims", type=int, nargs="+", default=[256, 512])
    arguments.add_argument(
        "--watched", action="store_true", help="repeat the run with re-anchoring even if nothing asks for it"
    )
    options = arguments.parse_args()
    out: Path | None = options.out
    n_windows, n_peer, n_classes = (20_000, 20_000, 20) if options.quick else (1_000_000, 100_000, 100)
    dims = [64] if options.quick else options.dims
    checkpoints = [n for n in (1_000, 10_000, 20_000, 100_000, 300_000, 1_000_000) if n <= n_windows]
    results: dict[str, Any] = {"live": {}, "ridge": {}}
    for dim in dims:
        stream = IllConditionedStream(dim, n_classes)
        ridge = chosen_ridge(stream, n_windows)
        print(f"\nd = {dim}, ridge = {ridge:g}: the live head, one window at a time, never re-anchored", flush=True)
        alone = live_head(stream, n_windows, checkpoints, ridge, math.inf)
        results["live"][str(dim)] = {"ridge": ridge, "alone": alone}
        if alone["looks_above_1e-13"] or options.watched:
            print(f"\nd = {dim}: the same, re-anchored above 1e-13", flush=True)
            results["live"][str(dim)]["watched"] = live_head(stream, n_windows, checkpoints, ridge, RE_ANCHOR_ABOVE)
        write_results(out, "recursion", results)
        print(f"\nd = {dim}: one-hot ridge in bursts of {BURST}, beside the textbook forms", flush=True)
        results["ridge"][str(dim)] = ridge_and_peers(stream, n_windows, n_peer, checkpoints, ridge)
        write_results(out, "recursion", results)
    print()
    names = ("worst_residual", "looks", "looks_above_1e-13", "re_anchored", "ms_per_window")
    print_table(
        [
            {"dim": dim, "run": run, **{name: figures[name] for name in names}}
            for dim, found in results["live"].items()
            for run, figures in found.items()
            if run != "ridge"
        ]
    )


if __name__ == "__main__":
    main()
