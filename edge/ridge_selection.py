"""Choosing the ridge when the device is idle: two folds of records, with generalised cross-validation as comparison.

Windows of one record are neighbours in time, so whole records change folds. A class's records are ordered by the hash
of their ids and dealt out in turn: the order of teaching plays no part. Teaching itself never runs any of this.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.errors import ConfigurationError, CorruptionError, NotEnoughSamplesError
from edge.heads import Background, fit_detection
from edge.scatter import require_power_of_two
from edge.space import FeatureSpace
from edge.statistics import StatisticsAccumulator, SufficientStatistics
from edge.symmetric import Array

CANDIDATES = tuple(2.0**e for e in range(-8, 11))
_VERSION = 1


@dataclass(frozen=True, eq=False)
class TaughtRecord:
    """What the choice needs of a record. features: (n, d) int16 on the grid, in the feature space of the head."""

    id: str
    label: str
    features: NDArray[np.int16]


@dataclass(frozen=True)
class CalibrationRecord:
    """The ridge that was chosen, from what, and why. It is a setting of the read-out, not part of what was learnt.

    ridge: chosen, isotropic windows. gcv_ridge: what generalised cross-validation would take for one-hot ridge.
    candidates, accuracy: balanced accuracy of the other fold's records for each candidate; empty if too few records.
    standard_error: of the best accuracy. n_records: records that were judged. statistics_sha256: what was learnt then.
    """

    ridge: float
    gcv_ridge: float
    candidates: tuple[float, ...]
    accuracy: tuple[float, ...]
    standard_error: float
    n_records: int
    statistics_sha256: str

    def to_dict(self) -> dict[str, Any]:
        """Return the stored form: JSON values only."""
        return {"version": _VERSION, **asdict(self)}

    @classmethod
    def from_dict(cls, value: Any) -> CalibrationRecord:
        """Read what ``to_dict`` gave, also after a trip through JSON. Raises CorruptionError."""
        try:
            if not isinstance(value, Mapping) or value.get("version") != _VERSION:
                raise ValueError("it is no calibration of version 1")
            record = cls(
                ridge=float(value["ridge"]),
                gcv_ridge=float(value["gcv_ridge"]),
                candidates=tuple(map(float, value["candidates"])),
                accuracy=tuple(map(float, value["accuracy"])),
                standard_error=float(value["standard_error"]),
                n_records=int(value["n_records"]),
                statistics_sha256=str(value["statistics_sha256"]),
            )
            require_power_of_two("ridge", record.ridge)
        except (ValueError, KeyError, TypeError, ConfigurationError) as e:
            raise CorruptionError(f"the stored calibration cannot be read ({e}); calibrate again") from e
        return record


def fold_of_records(records: Sequence[TaughtRecord]) -> Array:
    """Return 0.0 or 1.0 for each record: by class, in the order of the hashes of the ids, alternately."""
    fold = np.zeros(len(records))
    by_label: dict[str, list[tuple[str, int]]] = {}
    for i, record in enumerate(records):
        name = hashlib.sha256(b"soundkeep fold\0" + record.id.encode("utf-8")).hexdigest()
        by_label.setdefault(record.label, []).append((name, i))
    for members in by_label.values():
        for turn, (_, i) in enumerate(sorted(members)):
            fold[i] = float(turn % 2)
    return fold


def select_ridge(
    records: Iterable[TaughtRecord],
    background: Background,
    *,
    default: float,
    candidates: Sequence[float] = CANDIDATES,
) -> CalibrationRecord:
    """Choose the ridge of the detector by two-fold cross-validation over records.

    records: taught ones, without the ignored. background: as served. default: the bundle's ridge, kept unless another
    candidate's balanced accuracy beats it by more than one standard error; among equals the nearest to it is taken.
    A class with a single record cannot be judged but is trained on. Raises ConfigurationError for a ridge that is no
    power of two, NotEnoughSamplesError when there is no record at all.
    """
    require_power_of_two("ridge", default)
    records = sorted(records, key=lambda r: r.id)
    if not records:
        raise NotEnoughSamplesError("no sound was taught yet, so no ridge can be chosen; teach a sound first")
    ordered = tuple(sorted({default, *candidates}))
    folds = fold_of_records(records)
    halves = [
        _summed(background.space, [r for r, f in zip(records, folds, strict=True) if f == half]) for half in (0, 1)
    ]
    whole = halves[0] + halves[1]
    common = set(halves[0].labels) & set(halves[1].labels)
    judged = [(r, int(f)) for r, f in zip(records, folds, strict=True) if r.label in common]
    gcv_ridge = ordered[int(np.argmin(gcv_scores(whole, ordered)))]
    if len(common) < 2:
        return CalibrationRecord(default, gcv_ridge, (), (), 0.0, len(judged), whole.sha256)
    accuracy = [_balanced_accuracy(judged, halves, background, ridge) for ridge in ordered]
    best = max(accuracy)
    error = math.sqrt(best * (1.0 - best) / len(judged))
    if accuracy[ordered.index(default)] >= best - error:
        ridge = default
    else:
        ridge = min(
            (r for r, a in zip(ordered, accuracy, strict=True) if a == best), key=lambda r: _distance(r, default)
        )
    return CalibrationRecord(ridge, gcv_ridge, ordered, tuple(accuracy), error, len(judged), whole.sha256)


def gcv_scores(stats: SufficientStatistics, candidates: Sequence[float]) -> Array:
    """Generalised cross-validation of one-hot ridge regression, from the statistics alone; smaller is better.

    n RSS / (n - tr H)^2 with one eigendecomposition of the gram for all candidates. candidates: (m,) ridges.
    Returns (m,) float64. Source: Golub, Heath and Wahba 1979.
    """
    values, vectors = np.linalg.eigh(stats.gram)
    values = np.maximum(values, 0.0)
    power = np.sum((stats.sums @ vectors) ** 2, axis=0)
    unit = stats.space.embedding.grid.scale**2 / stats.dim
    n = float(stats.n_samples)
    scores = []
    for ridge in candidates:
        shifted = values + ridge * unit
        rss = max(0.0, n - float(np.sum(power * (shifted + ridge * unit) / shifted**2)))
        scores.append(n * rss / max(n - float(np.sum(values / shifted)), 1e-9 * n) ** 2)
    return np.array(scores)


def _summed(space: FeatureSpace, records: Sequence[TaughtRecord]) -> SufficientStatistics:
    accumulator = StatisticsAccumulator(SufficientStatistics.zero(space))
    for record in records:
        accumulator.add(record.features, record.label)
    return accumulator.snapshot()


def _balanced_accuracy(
    judged: Sequence[tuple[TaughtRecord, int]],
    halves: Sequence[SufficientStatistics],
    background: Background,
    ridge: float,
) -> float:
    """Mean over classes of the share of records that the head of the other fold names rightly."""
    heads = [fit_detection(half, background, ridge=ridge) for half in halves]
    hits: dict[str, list[bool]] = {}
    for record, fold in judged:
        head = heads[1 - fold]
        answer = head.labels[int(np.argmax(head.lda_scores(record.features).mean(axis=0)))]
        hits.setdefault(record.label, []).append(answer == record.label)
    return float(np.mean([np.mean(answers) for answers in hits.values()]))


def _distance(ridge: float, default: float) -> tuple[float, float]:
    return abs(math.log2(ridge / default)), -ridge
