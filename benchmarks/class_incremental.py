"""Class after class, and nothing forgotten: every read-out after the last session equals the one of joint training.

Sounds come in 10 sessions of 5 classes, words in 5 of 2; after each session every class seen so far is asked. The
statistics of the sessions are added up and compared with those of all samples at once, entry by entry, and so are the
weights. ``by group``: tested on groups that nothing heard. ``by clip``: each class's clips 8 to 2, as PACE splits them;
clips of one source recording are then on both sides, so the figure leaks. Peers on the same windows: softmax regression
by stochastic gradient descent, session after session (it forgets) and jointly (it sees everything, many times).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import parser, print_table, single_thread, write_results

single_thread()

import numpy as np  # noqa: E402
from numpy.random import Generator  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

from benchmarks.draws import Questions, clips_by_label, task_clips, taught  # noqa: E402
from benchmarks.embedded import QUICK_CLIPS, Embedded, embed_sets  # noqa: E402
from benchmarks.readouts import HEADS  # noqa: E402
from edge.bundle import open_bundle  # noqa: E402
from edge.embedder import Embedder  # noqa: E402
from edge.heads import LinearHead  # noqa: E402
from edge.space import FeatureSpace  # noqa: E402
from edge.statistics import SufficientStatistics  # noqa: E402

Array = NDArray[np.float64]
SESSIONS = {"sounds": 10, "words": 5}
RIDGE = 4096.0
EPOCHS, LEARNING_RATE, BATCH = 5, 5.0, 32


class Softmax:
    """Softmax regression by stochastic gradient descent, the usual head of a network that learns online.

    dim: d. A class seen for the first time gets a column of zeros. Source: Bridle 1990; plain NumPy.
    """

    def __init__(self, dim: int) -> None:
        self.labels: list[str] = []
        self.weights = np.zeros((dim, 0))
        self.bias = np.zeros(0)

    def learn(self, x: Array, labels: NDArray[np.str_], rng: Generator, *, epochs: int) -> None:
        """x: (n, d), rows of about unit length. labels: (n,). The rate falls to zero over the epochs."""
        new = [name for name in sorted(set(labels.tolist())) if name not in self.labels]
        self.labels += new
        self.weights = np.hstack([self.weights, np.zeros((len(self.weights), len(new)))])
        self.bias = np.concatenate([self.bias, np.zeros(len(new))])
        place = {name: i for i, name in enumerate(self.labels)}
        target = np.array([place[name] for name in labels.tolist()])
        order = np.concatenate([rng.permutation(len(x)) for _ in range(epochs)])
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            self._step(x[rows], target[rows], LEARNING_RATE * (1.0 - start / len(order)))

    def head(self) -> LinearHead:
        return LinearHead(tuple(self.labels), self.weights, self.bias)

    def _step(self, x: Array, target: NDArray[np.int64], rate: float) -> None:
        logits = x @ self.weights + self.bias
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        p[np.arange(len(x)), target] -= 1.0
        self.weights -= rate / len(x) * (x.T @ p)
        self.bias -= rate / len(x) * p.sum(axis=0)


@dataclass(frozen=True, eq=False)
class Course:
    """A task in sessions. teach: clips of each session; ask: test clips; scale: grid units of length one."""

    data: Embedded
    teach: tuple[tuple[int, ...], ...]
    ask: Questions

    @property
    def scale(self) -> float:
        return self.data.space.grid.scale


def course(data: Embedded, task: str, split: str, n_sessions: int, rng: Generator) -> Course:
    """Deal the classes of a task into sessions. split: ``by group`` or ``by clip``."""
    train, ask = (task_clips(data, task, held_out=h) for h in (False, True))
    if split == "by clip":
        both = clips_by_label(data, [*train, *ask])
        train, ask = [], []
        for whole in both.values():
            order = [whole[i] for i in rng.permutation(len(whole))]
            cut = round(0.8 * len(order))
            train += order[:cut]
            ask += order[cut:]
    own = clips_by_label(data, train)
    parts = np.array_split(rng.permutation(sorted(own)), n_sessions)
    dealt = [tuple(c for label in part.tolist() for c in own[label]) for part in parts]
    return Course(data, tuple(dealt), Questions.of(data, ask))


def sums_of_sessions(lessons: Course) -> list[SufficientStatistics]:
    """What is known after each session: the sum so far."""
    known = SufficientStatistics.zero(FeatureSpace(lessons.data.space))
    after = []
    for clips in lessons.teach:
        known = known + taught(lessons.data, clips)
        after.append(known)
    return after


def differences(lessons: Course, last: SufficientStatistics) -> dict[str, int]:
    """Entries of statistics and weights that differ between the sessions' sum and joint training, shuffled."""
    clips = [c for part in lessons.teach for c in part]
    mixed = [clips[i] for i in np.random.default_rng(0).permutation(len(clips))]
    joint = taught(lessons.data, mixed)
    found = {"statistics": int(last.labels != joint.labels)}
    for name in ("counts", "sums", "gram"):
        found["statistics"] += _unlike(getattr(last, name), getattr(joint, name))
    for name, fit in HEADS.items():
        ours, theirs = fit(last, None, RIDGE), fit(joint, None, RIDGE)
        found[name] = _unlike(ours.weights, theirs.weights) + _unlike(ours.bias, theirs.bias)
    return found


def _unlike(a: Array, b: Array) -> int:
    """How many entries differ in any bit; all of them when the shapes do."""
    return int(np.count_nonzero(a != b)) if a.shape == b.shape else max(a.size, b.size)


def course_rows(lessons: Course, task: str, split: str, *, epochs: int) -> list[dict[str, Any]]:
    """Accuracy after each session of every read-out and peer."""
    after = sums_of_sessions(lessons)
    same = differences(lessons, after[-1])
    curves: dict[str, list[float]] = {}
    for name, fit in HEADS.items():
        curves[name] = [_seen(lessons, fit(known, None, RIDGE)) for known in after]
    curves["softmax, sequential SGD"] = _softmax(lessons, epochs, jointly=False)
    curves["softmax, joint SGD"] = _softmax(lessons, epochs, jointly=True)
    return [
        {
            "task": task,
            "split": split,
            "read-out": name,
            "last": accuracy[-1],
            "average": float(np.mean(accuracy)),
            "entries unlike joint training": same["statistics"] + same[name] if name in same else None,
            "curve": accuracy,
        }
        for name, accuracy in curves.items()
    ]


def _seen(lessons: Course, head: LinearHead) -> float:
    return lessons.ask.among(head.labels).accuracy(head)


def _softmax(lessons: Course, epochs: int, *, jointly: bool) -> list[float]:
    data, rng = lessons.data, np.random.default_rng(0)
    model, accuracy, before = Softmax(data.space.dim), [], np.zeros(0, dtype=np.int64)
    for clips in lessons.teach:
        rows = data.rows(clips, data.sounding)
        before = np.concatenate([before, rows])
        if jointly:
            model, rows = Softmax(data.space.dim), before
        model.learn(data.features[rows] / lessons.scale, data.clips.labels[data.clip[rows]], rng, epochs=epochs)
        head = model.head()
        unscaled = LinearHead(head.labels, head.weights / lessons.scale, head.bias)
        accuracy.append(_seen(lessons, unscaled))
    return accuracy


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--bundle", type=Path, required=True)
    arguments.add_argument("--data", type=Path, required=True, help="folder of sets: esc50, speech_commands_test")
    arguments.add_argument("--cache", type=Path, default=Path(".embedded"), help="where embedded windows are kept")
    arguments.add_argument("--orders", type=int, default=3, help="orders of classes to average over")
    options = arguments.parse_args()
    most = QUICK_CLIPS if options.quick else None
    bundle = open_bundle(options.bundle)
    sets = ("esc50", "speech_commands_test")
    data = embed_sets(Embedder(bundle), [options.data], cache=options.cache, max_clips=most, names=sets)
    orders, epochs = (1, 1) if options.quick else (options.orders, EPOCHS)
    results: dict[str, Any] = {"bundle": bundle.name, "rows": []}
    for task, n_sessions in SESSIONS.items():
        for split in ("by group", "by clip"):
            runs = [
                course_rows(
                    course(data, task, split, n_sessions, np.random.default_rng(seed)), task, split, epochs=epochs
                )
                for seed in range(orders)
            ]
            results["rows"] += _averaged(runs)
        print_table([{k: v for k, v in row.items() if k != "curve"} for row in results["rows"] if row["task"] == task])
        print()
        write_results(options.out, "class_incremental", results)


def _averaged(runs: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    rows = []
    for same in zip(*runs, strict=True):
        unlike = [r["entries unlike joint training"] for r in same]
        rows.append(
            {
                **{k: same[0][k] for k in ("task", "split", "read-out")},
                "last": float(np.mean([r["last"] for r in same])),
                "average": float(np.mean([r["average"] for r in same])),
                "deviation of last": float(np.std([r["last"] for r in same])),
                "entries unlike joint training": None if unlike[0] is None else sum(unlike),
                "curve": np.mean([r["curve"] for r in same], axis=0).tolist(),
            }
        )
    return rows


if __name__ == "__main__":
    main()
