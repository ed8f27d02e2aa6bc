"""Is what was learnt the same, to the bit, whatever the way it was learnt?

Windows of 40 classes are learnt in one go, in another order, in bursts of 1 to 200, on five devices that are merged,
and with five more classes that are forgotten again. Entries that differ from the first way are counted, in the
statistics and in the weights of the heads. Peers in the same run: the same sums of features that were never put on the
grid, in float64 and float32; the left-to-right recursion; streaming LDA (on the first 2,000 windows).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from operator import add
from typing import Any, NamedTuple

from benchmarks.machine import parser, print_table, single_thread, write_results

single_thread()

import numpy as np  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

from benchmarks.streams import feature_space, separable_clusters  # noqa: E402
from benchmarks.textbook import LeftToRightRidge, StreamingDiscriminant  # noqa: E402
from edge.heads import Background, fit_detection, fit_ridge  # noqa: E402
from edge.recursive import RecursiveHead  # noqa: E402
from edge.scatter import ridge_term  # noqa: E402
from edge.statistics import StatisticsAccumulator, SufficientStatistics  # noqa: E402

Array = NDArray[np.float64]
N_CLASSES, N_EXTRA, RIDGE = 40, 5, 1.0


class Way(NamedTuple):
    """A way of learning: lists of sample indices, one per device; indices taught and forgotten again; burst sizes."""

    devices: list[NDArray[np.intp]]
    forgotten: NDArray[np.intp]
    bursts: bool


def ways(labels: Sequence[str], rng: np.random.Generator) -> dict[str, Way]:
    number = np.array([int(label.split()[1]) for label in labels])
    kept, extra = np.flatnonzero(number < N_CLASSES), np.flatnonzero(number >= N_CLASSES)
    nothing = extra[:0]
    shuffled = rng.permutation(kept)
    return {
        "in one go": Way([kept], nothing, False),
        "in another order": Way([shuffled], nothing, False),
        "in bursts of 1 to 200": Way([shuffled], nothing, True),
        "merged from 5 devices": Way([np.asarray(part) for part in np.array_split(shuffled, 5)], nothing, True),
        "5 more classes forgotten": Way([rng.permutation(np.r_[kept, extra])], extra, True),
    }


def cut(indices: NDArray[np.intp], labels: Sequence[str], bursts: bool, seed: int) -> list[NDArray[np.intp]]:
    """Cut into bursts of one label each, of 1 to 200 windows or one per class, in the order of the indices."""
    rng, names = np.random.default_rng(seed), np.array(labels)
    pieces: list[NDArray[np.intp]] = []
    while len(indices):
        size = int(rng.integers(1, 201)) if bursts else len(indices)
        now, indices = indices[:size], indices[size:]
        pieces += [now[names[now] == label] for label in dict.fromkeys(names[now].tolist())]
    return pieces


def ours(features: NDArray[np.int16], labels: Sequence[str], way: Way) -> SufficientStatistics:
    space = feature_space(features.shape[1])
    parts = []
    for seed, device in enumerate(way.devices):
        accumulator = StatisticsAccumulator(SufficientStatistics.zero(space))
        for piece in cut(device, labels, way.bursts, seed):
            accumulator.add(features[piece], labels[piece[0]])
        parts.append(accumulator.snapshot())
    merged = reduce(add, parts)
    return merged - SufficientStatistics.from_samples(
        space, features[way.forgotten], [labels[i] for i in way.forgotten]
    )


def live(features: NDArray[np.int16], labels: Sequence[str], way: Way) -> SufficientStatistics:
    """The statistics that the live head itself carries, about its pivots, without forgetting or merging."""
    space = feature_space(features.shape[1])
    head = RecursiveHead(SufficientStatistics.zero(space), Background.nothing(space, RIDGE), ridge=RIDGE)
    for piece in cut(way.devices[0], labels, way.bursts, 0):
        head.update(features[piece], labels[piece[0]])
    return head.statistics()


def plain_sums(x: NDArray[Any], labels: Sequence[str], way: Way) -> tuple[NDArray[Any], ...]:
    """Gram and class sums of features off the grid, in their own type."""
    number = np.array([int(label.split()[1]) for label in labels])
    grams, sums = [], []
    for seed, device in enumerate(way.devices):
        gram = np.zeros((x.shape[1], x.shape[1]), dtype=x.dtype)
        total = np.zeros((N_CLASSES + N_EXTRA, x.shape[1]), dtype=x.dtype)
        for piece in cut(device, labels, way.bursts, seed):
            gram += x[piece].T @ x[piece]
            total[number[piece[0]]] += x[piece].sum(axis=0)
        grams.append(gram)
        sums.append(total)
    gram, total = reduce(add, grams), reduce(add, sums)
    for piece in cut(way.forgotten, labels, False, 0):
        gram = gram - x[piece].T @ x[piece]
        total[number[piece[0]]] -= x[piece].sum(axis=0)
    return gram, total[:N_CLASSES]


def left_to_right(x: Array, labels: Sequence[str], way: Way) -> tuple[Array, ...]:
    number = np.array([int(label.split()[1]) for label in labels])
    term = ridge_term(feature_space(x.shape[1]), RIDGE) / 2.0**28
    peer = LeftToRightRidge(np.eye(x.shape[1]) / term, np.zeros((x.shape[1], N_CLASSES + N_EXTRA)))
    order = way.devices[0]
    for start in range(0, len(order), 100):
        piece = order[start : start + 100]
        targets = np.eye(N_CLASSES + N_EXTRA)[number[piece]]
        peer.update(x[piece], targets)
    return (peer.weights[:, :N_CLASSES],)


def streaming_lda(x: Array, labels: Sequence[str], way: Way) -> tuple[Array, ...]:
    number = np.array([int(label.split()[1]) for label in labels])
    peer = StreamingDiscriminant(x.shape[1], N_CLASSES)
    order = way.devices[0]
    for i in order[order < 2000]:
        peer.update(x[i], int(number[i]))
    return (peer.covariance,)


def differing(found: Sequence[NDArray[Any]], wanted: Sequence[NDArray[Any]]) -> tuple[int, float]:
    """Entries that differ, and the relative Frobenius difference."""
    n = sum(int(np.count_nonzero(a != b)) for a, b in zip(found, wanted, strict=True))
    gap = max(float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in zip(found, wanted, strict=True))
    return n, gap


def main() -> None:
    options = parser(__doc__).parse_args()
    dim, n_windows = (32, 2_000) if options.quick else (256, 20_000)
    features, labels = separable_clusters(dim, N_CLASSES + N_EXTRA, n_windows, seed=1)
    rng = np.random.default_rng(0)
    all_ways = ways(labels, rng)
    exact = {name: ours(features, labels, way) for name, way in all_ways.items()}
    first = exact["in one go"]
    background = Background.nothing(first.space, RIDGE)
    rows: list[dict[str, Any]] = []
    for name, stats in exact.items():
        entries, _ = differing((stats.counts, stats.sums, stats.gram), (first.counts, first.sums, first.gram))
        heads = [(fit_ridge(s, ridge=RIDGE), fit_detection(s, background, ridge=RIDGE)) for s in (stats, first)]
        weights, _ = differing([h.weights for h in heads[0]], [h.weights for h in heads[1]])
        rows.append(_row("soundkeep", name, entries, 0.0, weights))
        assert stats.sha256 == first.sha256 or entries
    entries, _ = differing(
        (live(features, labels, all_ways["in bursts of 1 to 200"]).gram,), (exact["in bursts of 1 to 200"].gram,)
    )
    rows.append(_row("soundkeep, live head's own", "in bursts of 1 to 200", entries, 0.0, None))
    x = features / 2.0**14 + rng.uniform(-0.5, 0.5, features.shape) / 2.0**14
    peers: dict[str, tuple[Callable[[Way], Sequence[NDArray[Any]]], tuple[str, ...]]] = {
        "float64 without the grid": (lambda w: plain_sums(x, labels, w), tuple(all_ways)),
        "float32 without the grid": (lambda w: plain_sums(x.astype(np.float32), labels, w), tuple(all_ways)),
        "left-to-right recursion": (lambda w: left_to_right(x, labels, w), ("in one go", "in another order")),
        "streaming LDA": (lambda w: streaming_lda(x, labels, w), ("in one go", "in another order")),
    }
    for peer, (learn, names) in peers.items():
        wanted = learn(all_ways["in one go"])
        for name in names[1:]:
            entries, gap = differing(learn(all_ways[name]), wanted)
            rows.append(_row(peer, name, entries, gap, None))
    print(f"{n_windows} windows, d = {dim}, {N_CLASSES} classes (+{N_EXTRA}); against learning in one go\n")
    print_table(rows)
    write_results(options.out, "exactness", {"dim": dim, "windows": n_windows, "rows": rows})


def _row(who: str, how: str, entries: int, gap: float, weights: int | None) -> dict[str, Any]:
    return {
        "learner": who,
        "learnt": how,
        "entries that differ": entries,
        "relative difference": gap,
        "weights that differ": weights,
    }


if __name__ == "__main__":
    main()
