"""The sum over a fleet, kept packed in int64 and in place: adding a device is one pass over the numbers of its file.

Integers have one sum, whatever the order and the tree, and taking a device out leaves the bits that were there without
it. The result equals ``+`` of the statistics to the bit; what ``+`` refuses (2^53) is refused here, before anything is
added.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from edge.errors import MisuseError, SpaceMismatchError, StatisticsOverflowError
from edge.space import FeatureSpace
from edge.statistics import EXACT_LIMIT, SufficientStatistics
from edge.statistics_file import PackedStatistics

NO_NAMES: Mapping[str, str] = MappingProxyType({})


class FleetSum:
    """A running total in one space. A refused operation leaves everything as it was."""

    number: ClassVar[type[Any]] = np.int64

    def __init__(self, space: FeatureSpace) -> None:
        d = space.dim
        self.space = space
        self.n_clipped = 0
        self._counts: dict[str, int] = {}
        self._sums: dict[str, NDArray[Any]] = {}
        self._gram = np.zeros(d * (d + 1) // 2, dtype=self.number)
        rows = np.arange(d)
        self._diagonal = rows * d - rows * (rows - 1) // 2

    @classmethod
    def of(cls, space: FeatureSpace, parts: Iterable[PackedStatistics]) -> FleetSum:
        """Sum up ``parts`` in the order in which they come."""
        total = cls(space)
        for part in parts:
            total.add(part)
        return total

    def add(self, part: PackedStatistics, names: Mapping[str, str] = NO_NAMES) -> None:
        """Add one device. names: its labels to the fleet's; those that get the same name are merged, others stay.

        Raises SpaceMismatchError, StatisticsOverflowError.
        """
        classes = self._changed(part, names, 1)
        self._refuse_overflow("gram", self._gram[self._diagonal] + part.gram[self._diagonal])
        for _, total in classes.values():
            self._refuse_overflow("sums", total)
        np.add(self._gram, part.gram, out=self._gram)
        self._keep(classes)
        self.n_clipped += part.n_clipped

    def subtract(self, part: PackedStatistics, names: Mapping[str, str] = NO_NAMES) -> None:
        """Take one device out again, with the ``names`` under which it was added.

        Raises SpaceMismatchError, MisuseError when it cannot be in the sum.
        """
        classes = self._changed(part, names, -1)
        diagonal = self._gram[self._diagonal] - part.gram[self._diagonal]
        if np.any(diagonal < 0) or any(n < 0 or (n == 0 and np.any(total)) for n, total in classes.values()):
            raise MisuseError("these statistics are not part of the fleet's sum; take away only what was added")
        np.subtract(self._gram, part.gram, out=self._gram)
        self._keep(classes)
        self.n_clipped = max(0, self.n_clipped - part.n_clipped)

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes of the fleet, sorted."""
        return tuple(sorted(self._counts))

    def packed(self) -> PackedStatistics:
        """Return the total as a value of its own."""
        labels = self.labels
        sums = np.zeros((len(labels), self.space.dim), dtype=np.int64)
        for i, label in enumerate(labels):
            sums[i] = self._sums[label]
        counts = np.array([self._counts[label] for label in labels], dtype=np.int64)
        return PackedStatistics(self.space, labels, counts, sums, self._gram.astype(np.int64), self.n_clipped)

    def statistics(self) -> SufficientStatistics:
        """Return the total as what heads are read out of."""
        return self.packed().unpacked()

    def _changed(
        self, part: PackedStatistics, names: Mapping[str, str], sign: int
    ) -> dict[str, tuple[int, NDArray[Any]]]:
        """New count and sum of every class that ``part`` touches."""
        if part.space != self.space:
            raise SpaceMismatchError(
                f"statistics of feature space {part.space.sha256[:12]} cannot meet those of {self.space.sha256[:12]}; "
                "each space has a sum of its own"
            )
        changed: dict[str, tuple[int, NDArray[Any]]] = {}
        for label, n, own in zip(part.labels, part.counts.tolist(), part.sums, strict=True):
            name = names.get(label, label)
            before = changed.get(name) or (self._counts.get(name, 0), self._sums.get(name, self._nothing))
            changed[name] = before[0] + sign * n, (before[1] + sign * own).astype(self.number, copy=False)
        return changed

    @property
    def _nothing(self) -> NDArray[Any]:
        return np.zeros(self.space.dim, dtype=self.number)

    def _keep(self, classes: Mapping[str, tuple[int, NDArray[Any]]]) -> None:
        for label, (n, total) in classes.items():
            self._counts[label], self._sums[label] = n, total
            if n == 0:
                del self._counts[label], self._sums[label]

    def _refuse_overflow(self, what: str, result: NDArray[Any]) -> None:
        """Both operands are at most 2^53, so their sum is exact in int64."""
        largest = int(np.abs(result).max(initial=0))
        if largest > EXACT_LIMIT:
            raise StatisticsOverflowError(
                f"{what} of the fleet would reach {largest}, above 2^53 = {EXACT_LIMIT}, where float64 stops being "
                "exact; remove a device or use a coarser grid"
            )
