"""What does one burst of 16 windows cost, from the windows to scores by the new head?

d = 1024, 50 classes, 3,200 windows learnt before. Processor time of one thread, median over bursts. Peers in the same
run: scikit-learn's RidgeClassifier fitted again on all windows, the left-to-right recursion, streaming LDA written from
its formula, river's softmax regression window by window and its mini-batch one-vs-rest logistic regression.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from benchmarks.machine import parser, print_table, single_thread, write_results

single_thread()

import numpy as np  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

from benchmarks.streams import feature_space, separable_clusters  # noqa: E402
from benchmarks.textbook import LeftToRightRidge, StreamingDiscriminant  # noqa: E402
from edge.heads import Background, fit_detection  # noqa: E402
from edge.recursive import RecursiveHead, RecursiveRidge  # noqa: E402
from edge.scatter import ridge_term  # noqa: E402
from edge.statistics import StatisticsAccumulator, SufficientStatistics  # noqa: E402

Array = NDArray[np.float64]
Burst = Callable[[NDArray[np.int16], int], Callable[[NDArray[np.int16]], Array]]
RIDGE, SIZE = 1.0, 16


class Setting:
    """The windows that were learnt before, and those of the bursts to come."""

    def __init__(self, dim: int, n_classes: int, n_before: int, n_bursts: int) -> None:
        features, labels = separable_clusters(dim, n_classes, n_before + 2000, seed=3, noise=1.5)
        self.names = sorted(set(labels))
        number = np.array([self.names.index(label) for label in labels])
        self.space, self.n_classes, self.dim = feature_space(dim), n_classes, dim
        self.features, self.number = features[:n_before], number[:n_before]
        self.test, self.answers = features[n_before : n_before + 1000], number[n_before : n_before + 1000]
        spare, of = features[n_before + 1000 :], number[n_before + 1000 :]
        self.bursts = [(np.resize(spare[of == c], (SIZE, dim)), int(c)) for c in np.arange(n_bursts) % n_classes]
        labels = [self.names[i] for i in self.number]
        self.stats = SufficientStatistics.from_samples(self.space, self.features, labels)

    def one_hot(self, number: NDArray[np.intp]) -> Array:
        return np.asarray(np.eye(self.n_classes)[number])


def live_detector(s: Setting) -> Burst:
    head = RecursiveHead(s.stats, Background.nothing(s.space, RIDGE), ridge=RIDGE)

    def burst(windows: NDArray[np.int16], index: int) -> Callable[[NDArray[np.int16]], Array]:
        head.update(windows, s.names[index])
        return head.head().lda_scores

    return burst


def live_ridge(s: Setting) -> Burst:
    head = RecursiveRidge(s.stats, ridge=RIDGE)

    def burst(windows: NDArray[np.int16], index: int) -> Callable[[NDArray[np.int16]], Array]:
        head.update(windows, s.names[index])
        return head.head().scores

    return burst


def solved_detector(s: Setting) -> Burst:
    accumulator, background = StatisticsAccumulator(s.stats), Background.nothing(s.space, RIDGE)

    def burst(windows: NDArray[np.int16], index: int) -> Callable[[NDArray[np.int16]], Array]:
        accumulator.add(windows, s.names[index])
        return fit_detection(accumulator.snapshot(), background, ridge=RIDGE).lda_scores

    return burst


def left_to_right(s: Setting) -> Burst:
    matrix = s.stats.gram + ridge_term(s.space, RIDGE) * np.eye(s.dim)
    inverse = np.asarray(np.linalg.solve(matrix, np.eye(s.dim)), dtype=np.float64)
    peer = LeftToRightRidge(inverse, inverse @ s.stats.sums.T)

    def burst(windows: NDArray[np.int16], index: int) -> Callable[[NDArray[np.int16]], Array]:
        peer.update(windows.astype(np.float64), s.one_hot(np.full(len(windows), index)))
        return lambda x: np.asarray(x @ peer.weights)

    return burst


def refitted_classifier(s: Setting) -> Burst:
    from sklearn.linear_model import RidgeClassifier

    seen = [s.features.astype(np.float64)]
    number = [s.number]

    def burst(windows: NDArray[np.int16], index: int) -> Callable[[NDArray[np.int16]], Array]:
        seen.append(windows.astype(np.float64))
        number.append(np.full(len(windows), index))
        model = RidgeClassifier(alpha=ridge_term(s.space, RIDGE)).fit(np.vstack(seen), np.concatenate(number))
        return lambda x: np.asarray(model.decision_function(x.astype(np.float64)))

    return burst


def streaming_lda(s: Setting) -> Burst:
    peer = StreamingDiscriminant(s.dim, s.n_classes)
    peer.means, peer.counts = s.stats.means.copy() / 2.0**14, s.stats.counts.copy()
    centred = s.features / 2.0**14 - peer.means[s.number]
    peer.covariance, peer.n_seen = centred.T @ centred / len(centred), len(centred)

    def burst(windows: NDArray[np.int16], index: int) -> Callable[[NDArray[np.int16]], Array]:
        for row in windows / 2.0**14:
            peer.update(row, index)
        weights, bias = peer.read()
        return lambda x: np.asarray(x / 2.0**14 @ weights + bias)

    return burst


def river_softmax(s: Setting) -> Burst:
    from river import linear_model, optim

    model: Any = linear_model.SoftmaxRegression(optimizer=optim.SGD(0.05))
    for x, y in zip(s.features[: 2 * s.n_classes], s.number, strict=False):
        model.learn_one(dict(enumerate((x / 2.0**14).tolist())), int(y))

    def burst(windows: NDArray[np.int16], index: int) -> Callable[[NDArray[np.int16]], Array]:
        for row in windows:
            model.learn_one(dict(enumerate((row / 2.0**14).tolist())), index)

        def scores(x: NDArray[np.int16]) -> Array:
            found = [model.predict_proba_one(dict(enumerate((row / 2.0**14).tolist()))) for row in x[:1]]
            return np.array([[p.get(c, 0.0) for c in range(s.n_classes)] for p in found])

        return scores

    return burst


def river_logistic(s: Setting) -> Burst:
    import pandas
    from river import linear_model, multiclass, optim

    model: Any = multiclass.OneVsRestClassifier(linear_model.LogisticRegression(optimizer=optim.SGD(0.3)))
    columns = list(range(s.dim))
    for start in range(0, len(s.features), 64):
        part = pandas.DataFrame(s.features[start : start + 64] / 2.0**14, columns=columns)
        model.learn_many(part, pandas.Series(s.number[start : start + 64]))

    def burst(windows: NDArray[np.int16], index: int) -> Callable[[NDArray[np.int16]], Array]:
        frame = pandas.DataFrame(windows / 2.0**14, columns=columns)
        model.learn_many(frame, pandas.Series(np.full(len(windows), index)))

        def scores(x: NDArray[np.int16]) -> Array:
            found = model.predict_proba_many(pandas.DataFrame(x / 2.0**14, columns=columns))
            return np.asarray(found.reindex(columns=range(s.n_classes), fill_value=0.0).to_numpy(np.float64))

        return scores

    return burst


LEARNERS: dict[str, tuple[str, Callable[[Setting], Burst]]] = {
    "soundkeep, live detector": ("equals the batch", live_detector),
    "soundkeep, live ridge": ("equals the batch", live_ridge),
    "soundkeep, solved from statistics": ("is the batch", solved_detector),
    "left-to-right recursion": ("up to its drift", left_to_right),
    "scikit-learn RidgeClassifier, refitted": ("is the batch", refitted_classifier),
    "streaming LDA": ("no", streaming_lda),
    "river softmax regression": ("no", river_softmax),
    "river one-vs-rest logistic, mini-batch": ("no", river_logistic),
}


def measure(s: Setting, make: Callable[[Setting], Burst], n_slow: int) -> dict[str, Any]:
    """Median milliseconds of update, reading a head and scoring one window; accuracy where scoring is cheap."""
    learn = make(s)
    times: list[float] = []
    scores: Callable[[NDArray[np.int16]], Array] | None = None
    for windows, index in s.bursts:
        begin = time.thread_time()
        scores = learn(windows, index)
        scores(s.test[:1])
        times.append(1e3 * (time.thread_time() - begin))
        if len(times) >= n_slow and sum(times) > 5e3:
            break
    assert scores is not None
    found = scores(s.test)
    accuracy = float(np.mean(found.argmax(axis=1) == s.answers)) if len(found) == len(s.answers) else None
    return {"ms": float(np.median(times)), "worst_ms": max(times), "bursts": len(times), "accuracy": accuracy}


def main() -> None:
    options = parser(__doc__).parse_args()
    dim, n_classes, n_before, n_bursts = (128, 10, 400, 6) if options.quick else (1024, 50, 3200, 40)
    setting = Setting(dim, n_classes, n_before, n_bursts)
    rows: list[dict[str, Any]] = []
    for name, (joint, make) in LEARNERS.items():
        try:
            rows.append({"learner": name, **measure(setting, make, 5), "joint": joint})
        except ImportError as e:
            print(f"{name}: not measured, {e.name} is not installed")
    ours = rows[0]["ms"]
    for row in rows:
        row["times_ours"] = row["ms"] / ours
    print(f"\none burst of {SIZE} windows, d = {dim}, {n_classes} classes, {n_before} windows before; update + read\n")
    print_table(rows)
    write_results(options.out, "burst_cost", {"dim": dim, "classes": n_classes, "before": n_before, "rows": rows})


if __name__ == "__main__":
    main()
