"""`memory verify`: the chain of commands, and everything learnt anew in other orders, which must give the same bits."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge.errors import CorruptionError
from edge.learner import Learner
from edge.records import Record
from edge.space import FeatureSpace
from edge.statistics import SufficientStatistics

BURST = 64
MAX_BURST = 200


@dataclass(frozen=True)
class Verified:
    """n_records, n_windows: everything known, ignored sounds included. n_classes: taught classes."""

    statistics_sha256: str
    n_records: int
    n_windows: int
    n_classes: int
    n_rows: int

    def to_json(self) -> dict[str, Any]:
        """Return the answer of `soundkeep memory verify`."""
        return {
            "statistics_sha256": self.statistics_sha256,
            "n_records": self.n_records,
            "n_windows": self.n_windows,
            "n_classes": self.n_classes,
        }


def verify_memory(learner: Learner, *, rng: np.random.Generator | None = None) -> Verified:
    """Check everything. Raises CorruptionError that names what is damaged, or what came out differently."""
    report = learner.journal.verify()
    if not report.intact:
        named = "; ".join(finding.message for finding in report.findings[:5])
        raise CorruptionError(
            f"the memory is damaged: {named}; what is left is served, restore an export to get all back"
        )
    ids = list(learner.records)
    random = rng or np.random.default_rng(0)
    known = learner.statistics()
    backwards = refold(learner.space, (learner.records[i] for i in ids[::-1]), itertools.repeat(BURST))
    sizes = (int(random.integers(1, MAX_BURST + 1)) for _ in itertools.count())
    shuffled = refold(learner.space, (learner.records[ids[i]] for i in random.permutation(len(ids))), sizes)
    for words, again in (("backwards", backwards), ("in random bursts", shuffled)):
        if again != known:
            raise CorruptionError(
                f"learnt anew {words}, the statistics differ: please report this with the state directory"
            )
    return Verified(known.sha256, learner.n_records, learner.n_windows, len(learner.labels), report.n_rows)


def refold(space: FeatureSpace, records: Iterable[Record], sizes: Iterator[int]) -> SufficientStatistics:
    """Sum up records window by window, cut into bursts of the given sizes whatever record a window belongs to."""
    total = SufficientStatistics.zero(space)
    windows = ((row, record.label) for record in records for row in record.embeddings)
    while burst := list(itertools.islice(windows, next(sizes))):
        features, n_clipped = space.features(np.stack([row for row, _ in burst]))
        total = total + SufficientStatistics.from_samples(space, features, [label for _, label in burst], n_clipped)
    return total
