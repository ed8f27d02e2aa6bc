"""What was learnt, as a sum: class counts, class sums and one second-moment matrix of features on an integer grid.

Every entry is an integer held in float64, so addition is exact: order of learning, burst size, merge tree and removal
change no bit. Learning is ``+``, forgetting is ``-``, two devices merge with ``+``. Read-outs live in ``edge.heads``.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge.errors import MisuseError, SpaceMismatchError, StatisticsOverflowError
from edge.space import FeatureSpace
from edge.symmetric import Array, KernelName, filled, kernels

EXACT_LIMIT = 2**53
BLOCK_ROWS = 2048


@dataclass(frozen=True, eq=False)
class SufficientStatistics:
    """Counts, sums and second moment of n feature vectors in k classes; d features.

    labels: sorted, unique, each with a count of at least 1. counts: (k,) float64. sums: (k, d) float64.
    gram: (d, d) float64, symmetric, one for all classes. All hold exact integers and are read-only from here on.
    n_clipped: features that the grid clipped; told to people, but no part of equality or of the hash.
    Equality is equality of every bit. Under ``+`` these are a commutative monoid with ``zero``; ``-`` undoes ``+``.
    """

    space: FeatureSpace
    labels: tuple[str, ...]
    counts: Array
    sums: Array
    gram: Array
    n_clipped: int = 0

    def __post_init__(self) -> None:
        k, d = len(self.labels), self.space.dim
        shapes = self.counts.shape, self.sums.shape, self.gram.shape
        if shapes != ((k,), (k, d), (d, d)) or any(a.dtype != np.float64 for a in (self.counts, self.sums, self.gram)):
            raise MisuseError(
                f"statistics of {k} classes have arrays of shape {shapes}; wanted float64 of {((k,), (k, d), (d, d))}"
            )
        if list(self.labels) != sorted(set(self.labels)) or (k and not np.min(self.counts) >= 1.0):
            raise MisuseError("labels of statistics are sorted and unique, and each class holds at least one sample")
        for name in ("counts", "sums", "gram"):
            view = getattr(self, name).view()
            view.flags.writeable = False
            object.__setattr__(self, name, view)

    @classmethod
    def zero(cls, space: FeatureSpace) -> SufficientStatistics:
        """Nothing learnt: the neutral element of ``+``."""
        d = space.dim
        return cls(space, (), np.zeros(0), np.zeros((0, d)), np.zeros((d, d)))

    @classmethod
    def from_samples(
        cls,
        space: FeatureSpace,
        features: NDArray[np.int16],
        labels: Sequence[str],
        n_clipped: int = 0,
        *,
        kernel: KernelName = "auto",
    ) -> SufficientStatistics:
        """Sum up n samples. features: (n, d) int16 on the grid. labels: n names.

        Raises MisuseError for a wrong shape or type, StatisticsOverflowError past 2^53.
        """
        if len(labels) != len(features):
            raise MisuseError(f"{len(features)} feature vectors came with {len(labels)} labels; give one label to each")
        accumulator = StatisticsAccumulator(cls.zero(space), kernel=kernel)
        names = np.array(labels, dtype=object)
        for label in sorted(set(labels)):
            accumulator.add(features[names == label], label)
        accumulator.n_clipped += n_clipped
        return accumulator.snapshot()

    @property
    def dim(self) -> int:
        """Number of features d."""
        return self.space.dim

    @property
    def n_samples(self) -> int:
        """Number of samples n over all classes."""
        return int(np.sum(self.counts))

    @functools.cached_property
    def means(self) -> Array:
        """Class means (k, d), in grid units."""
        return np.asarray(self.sums / self.counts[:, None])

    @functools.cached_property
    def sha256(self) -> str:
        """Name of what was learnt, in hex: the same for the same samples in any order of learning."""
        from edge.statistics_file import hashed_bytes

        return hashlib.sha256(hashed_bytes(self)).hexdigest()

    def to_bytes(self) -> bytes:
        """Return the stored form (``edge.statistics_file``): a versioned header, int64, SHA-256."""
        from edge.statistics_file import write

        return write(self)

    @classmethod
    def from_bytes(cls, space: FeatureSpace, data: bytes) -> SufficientStatistics:
        """Read what ``to_bytes`` wrote. Raises CorruptionError, StateError, SpaceMismatchError."""
        from edge.statistics_file import read

        return read(space, data)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SufficientStatistics):
            return NotImplemented
        return (
            self.space == other.space
            and self.labels == other.labels
            and np.array_equal(self.counts, other.counts)
            and np.array_equal(self.sums, other.sums)
            and np.array_equal(self.gram, other.gram)
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"SufficientStatistics({len(self.labels)} classes, {self.n_samples} samples, {self.dim} features)"

    def __add__(self, other: SufficientStatistics) -> SufficientStatistics:
        """Merge. Raises SpaceMismatchError, StatisticsOverflowError (from the operands, before anything is added)."""
        self._require_same_space(other)
        labels = tuple(sorted({*self.labels, *other.labels}))
        (counts_a, sums_a), (counts_b, sums_b) = self._aligned(labels), other._aligned(labels)
        require_exact("gram", np.diagonal(self.gram), np.diagonal(other.gram))
        require_exact("sums", sums_a, sums_b)
        return SufficientStatistics(
            self.space,
            labels,
            counts_a + counts_b,
            sums_a + sums_b,
            self.gram + other.gram,
            self.n_clipped + other.n_clipped,
        )

    def __sub__(self, other: SufficientStatistics) -> SufficientStatistics:
        """Forget ``other``, which must be part of this. Raises SpaceMismatchError, MisuseError when it is not."""
        self._require_same_space(other)
        labels = tuple(sorted({*self.labels, *other.labels}))
        (counts_a, sums_a), (counts_b, sums_b) = self._aligned(labels), other._aligned(labels)
        counts, sums, gram = counts_a - counts_b, sums_a - sums_b, self.gram - other.gram
        kept = counts != 0.0
        require_possible(counts, sums, gram)
        return SufficientStatistics(
            self.space,
            tuple(label for label, keep in zip(labels, kept, strict=True) if keep),
            counts[kept],
            sums[kept],
            gram,
            max(0, self.n_clipped - other.n_clipped),
        )

    def relabel(self, mapping: Mapping[str, str]) -> SufficientStatistics:
        """Rename classes; classes that get the same name are merged. Names absent from ``mapping`` stay."""
        renamed = [mapping.get(label, label) for label in self.labels]
        labels = tuple(sorted(set(renamed)))
        position = {label: i for i, label in enumerate(labels)}
        target = np.array([position[label] for label in renamed], dtype=np.intp)
        counts, sums = np.zeros(len(labels)), np.zeros((len(labels), self.dim))
        for old, new in enumerate(target):
            require_exact("sums", sums[new], self.sums[old])
            counts[new] += self.counts[old]
            sums[new] += self.sums[old]
        return SufficientStatistics(self.space, labels, counts, sums, self.gram, self.n_clipped)

    def _require_same_space(self, other: SufficientStatistics) -> None:
        if self.space != other.space:
            raise SpaceMismatchError(
                f"statistics of feature space {other.space.sha256[:12]} cannot meet those of {self.space.sha256[:12]}; "
                "embed the sounds again with one backbone"
            )

    def _aligned(self, labels: tuple[str, ...]) -> tuple[Array, Array]:
        """Counts (K,) and sums (K, d) of this under ``labels``, which hold all of its own; zero for the others."""
        position = {label: i for i, label in enumerate(labels)}
        rows = [position[label] for label in self.labels]
        counts, sums = np.zeros(len(labels)), np.zeros((len(labels), self.dim))
        counts[rows], sums[rows] = self.counts, self.sums
        return counts, sums


class StatisticsAccumulator:
    """One mutable statistics, updated in place: what a live learner owns.

    A refused operation leaves everything as it was. Results equal those of the operators on values, to the bit.
    """

    def __init__(self, statistics: SufficientStatistics, *, kernel: KernelName = "auto") -> None:
        self.space = statistics.space
        self.n_clipped = statistics.n_clipped
        self._kernels = kernels(kernel)
        self._counts = dict(zip(statistics.labels, statistics.counts.tolist(), strict=True))
        self._sums = {label: statistics.sums[i].copy() for i, label in enumerate(statistics.labels)}
        self._gram: Array = np.array(statistics.gram, order="F")

    @property
    def n_samples(self) -> int:
        return int(sum(self._counts.values()))

    def add(self, features: NDArray[np.int16], label: str, n_clipped: int = 0) -> None:
        """Learn n samples (n, d) int16 of one class. Raises MisuseError, StatisticsOverflowError."""
        require_features(features, self.space.dim)
        if len(features) == 0:
            return
        total, squares = _totals(features)
        require_exact("gram", np.diagonal(self._gram), squares)
        require_exact("sums", self._sums.get(label, np.zeros(1)), total)
        self._accumulate(features, 1.0)
        self._counts[label] = self._counts.get(label, 0.0) + len(features)
        self._sums[label] = self._sums.get(label, 0.0) + total
        self.n_clipped += n_clipped

    def remove(self, features: NDArray[np.int16], label: str, n_clipped: int = 0) -> None:
        """Forget n samples (n, d) int16 that were learnt under ``label``.

        Raises MisuseError when they cannot be part of what was learnt; samples that never were but might have been
        are not noticed: the journal knows.
        """
        require_features(features, self.space.dim)
        if len(features) == 0:
            return
        total, squares = _totals(features)
        count = self._counts.get(label, 0.0) - len(features)
        sums = self._sums.get(label, np.zeros(self.space.dim)) - total
        diagonal = np.diagonal(self._gram) - squares
        if count < 0.0 or np.any(diagonal < 0.0) or (count == 0.0 and np.any(sums)):
            raise MisuseError(
                f"{len(features)} samples of {label!r} are not among the {self._counts.get(label, 0):g} learnt; "
                "remove what was taught"
            )
        self._accumulate(features, -1.0)
        self._counts[label], self._sums[label] = count, sums
        if count == 0.0:
            del self._counts[label], self._sums[label]
        self.n_clipped = max(0, self.n_clipped - n_clipped)

    def snapshot(self) -> SufficientStatistics:
        """Return what was learnt so far as a value of its own."""
        labels = tuple(sorted(self._counts))
        sums = np.zeros((len(labels), self.space.dim))
        for i, label in enumerate(labels):
            sums[i] = self._sums[label]
        counts = np.array([self._counts[label] for label in labels], dtype=np.float64)
        return SufficientStatistics(self.space, labels, counts, sums, filled(self._gram), self.n_clipped)

    def _accumulate(self, features: NDArray[np.int16], sign: float) -> None:
        for rows in _blocks(features):
            self._kernels.add_outer(self._gram, rows, sign)


def require_features(features: NDArray[np.int16], dim: int) -> None:
    """Raise MisuseError unless features are (n, dim) int16."""
    if features.dtype != np.int16 or features.ndim != 2 or features.shape[1] != dim:
        raise MisuseError(
            f"features are {features.dtype} of shape {features.shape}; wanted int16 (n, {dim}), on the grid"
        )


def require_exact(name: str, a: Array, b: Array) -> None:
    """Raise StatisticsOverflowError when an entry of a + b would pass 2^53; computed without rounding."""
    largest = np.abs(a.astype(np.int64) + b.astype(np.int64)).max(initial=0)
    if largest > EXACT_LIMIT:
        raise StatisticsOverflowError(
            f"{name} of the result would reach {largest}, above 2^53 = {EXACT_LIMIT}, where float64 stops being exact; "
            "forget something or use a coarser grid"
        )


def require_possible(counts: Array, sums: Array, gram: Array) -> None:
    """Raise MisuseError unless samples could exist that have these statistics (necessary conditions, cheap ones)."""
    diagonal = np.diagonal(gram)
    slack = 1.0 + 2.0**-40
    possible = bool(np.all(counts >= 0.0) and np.all(diagonal >= 0.0) and not np.any(sums[counts == 0.0]))
    if possible:
        between = np.sum(sums**2 / np.maximum(counts, 1.0)[:, None], axis=0)
        root = np.sqrt(diagonal) * slack
        possible = bool(np.all(between <= diagonal * slack) and np.all(np.abs(gram) <= np.outer(root, root)))
    if not possible:
        raise MisuseError("these statistics cannot come from samples: what is taken away was not all learnt before")


def _blocks(features: NDArray[np.int16]) -> Iterator[Array]:
    for start in range(0, len(features), BLOCK_ROWS):
        yield features[start : start + BLOCK_ROWS].astype(np.float64, order="C")


def _totals(features: NDArray[np.int16]) -> tuple[Array, Array]:
    """Column sums and column sums of squares, (d,) each, exact."""
    total, squares = np.zeros(features.shape[1]), np.zeros(features.shape[1])
    for rows in _blocks(features):
        total += rows.sum(axis=0)
        squares += np.square(rows).sum(axis=0)
    return total, squares
