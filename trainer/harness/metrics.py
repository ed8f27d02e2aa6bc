"""Measures of class-incremental learning, and what two methods' difference is worth. Pure.

R is the matrix of ``Run.accuracy``: R[t, s] is the accuracy after session t on the classes of session s, NaN where
nothing was asked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from trainer.harness.run import Run

Array = NDArray[np.float64]
Verdict = Literal["better", "worse", "not separated"]
LEVEL = 0.95


@dataclass(frozen=True)
class Measures:
    """last: accuracy after the last session over all test clips, what PACE reports. average: mean over the sessions
    after which was asked. The others say None when they have no meaning, as forgetting after one session. Shares of 1.
    """

    last: float
    average: float
    forgetting: float | None
    new_class: float | None
    backward_transfer: float | None


def matrix(run: Run) -> Array:
    """R (T, T), NaN where nothing was asked."""
    return np.array([[math.nan if value is None else value for value in row] for row in run.accuracy], dtype=np.float64)


def measures(run: Run) -> Measures:
    """All measures of one run. Sources: each function's."""
    r = matrix(run)
    asked = [value for value in run.overall if value is not None]
    last = run.overall[-1]
    whole_course = len(asked) > 1 or len(run.overall) == 1
    return Measures(
        last if last is not None else math.nan,
        average_incremental(asked) if whole_course else math.nan,
        forgetting(r),
        new_class_accuracy(r),
        backward_transfer(r),
    )


def average_incremental(overall: Sequence[float]) -> float:
    """Mean over sessions of the accuracy on all classes seen so far. Source: Rebuffi et al. 2017 (iCaRL)."""
    return float(np.mean(overall)) if len(overall) else math.nan


def forgetting(r: Array) -> float | None:
    """Mean over all sessions but the last of the best accuracy at any time less the final one; 0 is none.

    Sessions asked only at the end tell nothing. Source: Chaudhry et al. 2018, as PyCIL and AudioCIL compute it (the
    best includes the final one).
    """
    told = [s for s in range(len(r) - 1) if not np.isnan(r[-1, s]) and not np.isnan(r[:-1, s]).all()]
    return _mean([np.nanmax(r[:, s]) - r[-1, s] for s in told])


def new_class_accuracy(r: Array) -> float | None:
    """Mean over sessions 2 to T of the accuracy on a session's classes right after it: how well the new is learnt."""
    return _mean([r[t, t] for t in range(1, len(r)) if not np.isnan(r[t, t])])


def backward_transfer(r: Array) -> float | None:
    """Mean over all sessions but the last of the final accuracy less the one right after the session.

    Negative when later sessions hurt. Source: Lopez-Paz and Ranzato 2017.
    """
    return _mean([r[-1, s] - r[s, s] for s in range(len(r) - 1) if not np.isnan(r[-1, s] - r[s, s])])


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if len(values) else None


@dataclass(frozen=True)
class Interval:
    """A mean of n differences and its 95 % interval; low and high are None for fewer than two."""

    mean: float
    low: float | None
    high: float | None
    n: int

    @property
    def sign(self) -> int:
        """1 or -1 when the interval excludes 0, else 0."""
        if self.low is None or self.high is None:
            return 0
        return int(self.low > 0.0) - int(self.high < 0.0)


def t_interval(differences: Sequence[float]) -> Interval:
    """Student's interval of the mean of paired differences: mean +- t(n - 1, 0.975) s / sqrt(n). Source: Student 1908.

    For five orders t = 2.776.
    """
    from scipy.special import stdtrit

    d = np.asarray(differences, dtype=np.float64)
    mean = float(np.mean(d)) if len(d) else math.nan
    if len(d) < 2:
        return Interval(mean, None, None, len(d))
    half = float(stdtrit(len(d) - 1, 0.5 + LEVEL / 2.0)) * float(np.std(d, ddof=1)) / math.sqrt(len(d))
    return Interval(mean, mean - half, mean + half, len(d))


@dataclass(frozen=True)
class Comparison:
    """How ``method`` stands to ``reference``. verdict: of last accuracy, from both intervals.

    orders: paired by order of classes. clips: paired by test clip, over the mean of the orders. The first cannot see
    that other test clips would give other figures, and has no width at all for methods that no order changes; so
    "better" and "worse" are said only when both exclude 0. average: of average accuracy, paired by order.
    """

    method: str
    reference: str
    orders: Interval
    clips: Interval
    average: Interval
    verdict: Verdict


def compare(runs: Sequence[Run], references: Sequence[Run]) -> Comparison:
    """Compare two methods over the same orders and test clips, which must be given in the same order of seeds."""
    pairs = list(zip(runs, references, strict=True))
    assert all(a.order_seed == b.order_seed and len(a.correct) == len(b.correct) for a, b in pairs)
    orders = t_interval([measures(a).last - measures(b).last for a, b in pairs])
    average = t_interval([measures(a).average - measures(b).average for a, b in pairs])
    clips = t_interval(list(np.mean([_letters(a) - _letters(b) for a, b in pairs], axis=0)))
    sign = orders.sign if orders.sign == clips.sign else 0
    verdict: Verdict = "better" if sign > 0 else "worse" if sign < 0 else "not separated"
    return Comparison(runs[0].method, references[0].method, orders, clips, average, verdict)


def _letters(run: Run) -> Array:
    return np.array([letter == "1" for letter in run.correct], dtype=np.float64)


def area_over_budgets(budgets: Sequence[float], accuracy: Sequence[float]) -> tuple[float, float]:
    """Area under accuracy over budget by trapezoids, and that area divided by the range: a mean accuracy.

    budgets: increasing, at least two. With average accuracy this is AUC-A, with last accuracy AUC-L. Source: Zhou et
    al. 2024 (Class-Incremental Learning: A Survey), who use MB.
    """
    x, y = np.asarray(budgets, dtype=np.float64), np.asarray(accuracy, dtype=np.float64)
    area = float(np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2.0))
    return area, area / (budgets[-1] - budgets[0])
