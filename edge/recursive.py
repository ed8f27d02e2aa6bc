"""Live heads: known from the next window on, without solving.

``RecursiveHead`` is the detector of ``edge.heads.fit_detection``, ``RecursiveRidge`` the one-hot ridge of
``fit_ridge``, each carried along window by window. Both know the exact integers behind them, so they can say how far
they are off.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge.carried import MAX_STEP_ROWS, RE_ANCHOR_ABOVE, CarriedSolution, relative_residual
from edge.errors import SpaceMismatchError
from edge.heads import Background, DetectionHead, LinearHead
from edge.scatter import pivoted, ridge_term
from edge.statistics import SufficientStatistics, require_exact, require_features
from edge.symmetric import Array, KernelName, filled


class RecursiveHead(CarriedSolution):
    """The detector of the taught classes, updated per window or burst.

    A is the within-class scatter of taught classes and background plus the ridge term; window x of a class with n
    samples and mean mu adds n/(n+1) (x - mu)(x - mu)'. W are the columns A^-1 (mu_c - m0), one per class; C0 W, which
    normalises the scores, is carried by the same step. A class's first window adds a column and no scatter.

    What is kept exactly: counts, an integer pivot per class (its first window, or its rounded mean after an anchor),
    sums and scatter about the pivots. Removing, merging and renaming go through ``re_anchor``.
    """

    def __init__(
        self,
        taught: SufficientStatistics,
        background: Background,
        *,
        ridge: float,
        kernel: KernelName = "auto",
        re_anchor_above: float = RE_ANCHOR_ABOVE,
    ) -> None:
        """Start from what was learnt; zero classes are fine. Raises SpaceMismatchError, ConfigurationError.

        re_anchor_above: residual that triggers a solve; ``math.inf`` never does.
        """
        super().__init__(taught.dim, ridge_term(taught.space, ridge), kernel=kernel, re_anchor_above=re_anchor_above)
        self.ridge = ridge
        self._background = background
        self._spread: Array = np.zeros((taught.dim, 0), order="F")
        self.re_anchor(taught, background)

    def re_anchor(
        self, taught: SufficientStatistics, background: Background | None = None, *, ridge: float | None = None
    ) -> None:
        """Start again from exact statistics: after removal, merge, rename, ignoring, or a new ridge."""
        background = self._background if background is None else background
        if background.space != taught.space:
            raise SpaceMismatchError(
                f"a background of feature space {background.space.sha256[:12]} cannot serve "
                f"{taught.space.sha256[:12]}; build it in the space of the statistics"
            )
        if ridge is not None:
            self._ridge_term, self.ridge = ridge_term(taught.space, ridge), ridge
        parts = pivoted(taught.counts, taught.sums, taught.gram)
        require_exact("scatter", np.diagonal(parts.scatter), np.diagonal(background.scatter))
        self.space = taught.space
        self._background = background
        self._index = {label: i for i, label in enumerate(taught.labels)}
        self._counts = taught.counts.copy()
        self._pivots, self._rests = parts.pivots, parts.rests
        self._scatter: Array = np.array(parts.scatter + background.scatter, order="F")
        self._anchor()

    @property
    def labels(self) -> tuple[str, ...]:
        """Taught classes, sorted."""
        return tuple(sorted(self._index))

    @property
    def n_samples(self) -> int:
        return int(np.sum(self._counts))

    def update(self, features: NDArray[np.int16], label: str) -> None:
        """Learn n windows (n, d) int16 of one class.

        Raises MisuseError, StatisticsOverflowError; then nothing was learnt.
        """
        require_features(features, self.space.dim)
        if len(features) == 0:
            return
        rows = features.astype(np.float64, order="C")
        known = self._index.get(label)
        pivot = rows[0] if known is None else self._pivots[known]
        shifted = rows - pivot
        require_exact("scatter", np.diagonal(self._scatter), np.square(shifted).sum(axis=0))
        if known is None:
            known = self._begin(label, pivot)
            shifted = shifted[1:]
        for start in range(0, len(shifted), MAX_STEP_ROWS):
            self._extend(known, shifted[start : start + MAX_STEP_ROWS])
        self._learnt(len(features))

    def head(self) -> DetectionHead:
        """Read the detector as it is now, classes sorted, in O(d k). Raises NotExactError above a residual of 1e-11."""
        self._require_exact()
        order = [self._index[label] for label in self.labels]
        mass = float(np.sum(self._counts)) + self._background.n_samples + self.ridge
        return DetectionHead.from_columns(
            self.labels,
            self._columns[:, order],
            self._spread[:, order],
            self._steps()[order],
            self._background,
            mass,
        )

    def statistics(self) -> SufficientStatistics:
        """The exact statistics behind the head, equal to the bit to those of the same windows summed up."""
        order = [self._index[label] for label in self.labels]
        pivots, rests, counts = self._pivots[order], self._rests[order], self._counts[order]
        sums = rests + counts[:, None] * pivots
        gram = filled(self._scatter) - self._background.scatter + pivots.T @ sums + rests.T @ pivots
        require_exact("gram", np.diagonal(gram), np.zeros(len(gram)))
        return SufficientStatistics(self.space, self.labels, counts, sums, gram)

    def residual(self) -> float:
        """The larger of the residuals of W and of C0 W."""
        covariance = self._background.covariance
        error = self._spread - covariance @ self._columns
        return max(super().residual(), relative_residual(error, covariance, self._columns, self._spread))

    def system(self) -> tuple[Array, Array]:
        """A (d, d), whole, and Q (d, k), columns in the order of teaching, from exact integers."""
        between = (self._rests / self._counts[:, None]).T @ self._rests
        matrix = filled(self._scatter) - (between + between.T) / 2.0
        matrix[np.diag_indices(len(matrix))] += self._ridge_term
        return matrix, self._steps().T

    def _product(self, columns: Array) -> Array:
        between = self._rests.T @ ((self._rests @ columns) / self._counts[:, None])
        return self._kernels.multiply(self._scatter, columns) - between + self._ridge_term * columns

    def _follow_columns(self) -> None:
        self._spread = self._spread_of(self._columns)

    def _spread_of(self, columns: Array) -> Array:
        return np.asfortranarray(self._background.covariance @ columns)

    def _begin(self, label: str, first: Array) -> int:
        """A new class with one window (d,): a column, no scatter. Returns its index."""
        column = self._solve_column(first - self._background.mean)
        spread = self._spread_of(column)
        self._columns = np.asfortranarray(np.hstack([self._columns, column]))
        self._spread = np.asfortranarray(np.hstack([self._spread, spread]))
        self._counts = np.append(self._counts, 1.0)
        self._pivots = np.vstack([self._pivots, first])
        self._rests = np.vstack([self._rests, np.zeros_like(first)])
        self._index[label] = len(self._index)
        return self._index[label]

    def _extend(self, known: int, shifted: Array) -> None:
        """Windows about the pivot, (m, d) exact integers, of class ``known``: m rank-1 steps taken together."""
        n = self._counts[known] + np.arange(len(shifted))
        before = self._rests[known] + np.tri(len(shifted), k=-1) @ shifted
        rate = 1.0 / np.sqrt(n * (n + 1.0))
        rows = (n[:, None] * shifted - before) * rate[:, None]
        right = rows @ self._columns
        right[:, known] -= rate
        try:
            step, solved = self._grow(rows, right)
        except np.linalg.LinAlgError:
            step = None
        self._kernels.add_outer(self._scatter, shifted, 1.0)
        self._rests[known] += shifted.sum(axis=0)
        self._counts[known] += len(shifted)
        if step is None:
            self.n_reanchored += 1
            self._anchor()
            return
        self._kernels.subtract_product(self._columns, step.T, solved)
        self._kernels.subtract_product(self._spread, self._spread_of(step.T), solved)

    def _steps(self) -> Array:
        """mu_c - m0 of each class, (k, d), in the order of teaching."""
        return np.asarray((self._pivots - self._background.mean) + self._rests / self._counts[:, None])


class RecursiveRidge(CarriedSolution):
    """One-hot ridge regression, updated per window or burst: A = gram + ridge term, W = A^-1 sums'."""

    def __init__(
        self,
        stats: SufficientStatistics,
        *,
        ridge: float,
        kernel: KernelName = "auto",
        re_anchor_above: float = RE_ANCHOR_ABOVE,
    ) -> None:
        """Start from what was learnt; zero classes are fine. Raises ConfigurationError.

        re_anchor_above: residual that triggers a solve; ``math.inf`` never does.
        """
        super().__init__(stats.dim, ridge_term(stats.space, ridge), kernel=kernel, re_anchor_above=re_anchor_above)
        self.re_anchor(stats)

    def re_anchor(self, stats: SufficientStatistics) -> None:
        """Start again from exact statistics: after removal, merge or rename."""
        self.space = stats.space
        self._index = {label: i for i, label in enumerate(stats.labels)}
        self._counts, self._sums = stats.counts.copy(), stats.sums.copy()
        self._gram: Array = np.array(stats.gram, order="F")
        self._anchor()

    def update(self, features: NDArray[np.int16], label: str) -> None:
        """Learn n windows (n, d) int16 of one class.

        Raises MisuseError, StatisticsOverflowError; then nothing was learnt.
        """
        require_features(features, self.space.dim)
        if len(features) == 0:
            return
        rows = features.astype(np.float64, order="C")
        known = self._index.get(label)
        require_exact("gram", np.diagonal(self._gram), np.square(rows).sum(axis=0))
        require_exact("sums", np.zeros(1) if known is None else self._sums[known], rows.sum(axis=0))
        if known is None:
            known = self._index[label] = len(self._index)
            self._counts = np.append(self._counts, 0.0)
            self._sums = np.vstack([self._sums, np.zeros(self.space.dim)])
            self._columns = np.asfortranarray(np.hstack([self._columns, np.zeros((self.space.dim, 1))]))
        for start in range(0, len(rows), MAX_STEP_ROWS):
            self._extend(known, rows[start : start + MAX_STEP_ROWS])
        self._learnt(len(rows))

    def head(self) -> LinearHead:
        """Read the ridge head as it is now, classes sorted. Raises NotExactError above a residual of 1e-11."""
        self._require_exact()
        labels = tuple(sorted(self._index))
        order = [self._index[label] for label in labels]
        return LinearHead(labels, np.ascontiguousarray(self._columns[:, order]), np.zeros(len(labels)))

    def statistics(self) -> SufficientStatistics:
        """The exact statistics behind the head."""
        labels = tuple(sorted(self._index))
        order = [self._index[label] for label in labels]
        return SufficientStatistics(self.space, labels, self._counts[order], self._sums[order], filled(self._gram))

    def system(self) -> tuple[Array, Array]:
        """A (d, d), whole, and Q (d, k), columns in the order of teaching, from exact integers."""
        matrix = filled(self._gram)
        matrix[np.diag_indices(len(matrix))] += self._ridge_term
        return matrix, self._sums.T

    def _product(self, columns: Array) -> Array:
        return self._kernels.multiply(self._gram, columns) + self._ridge_term * columns

    def _extend(self, known: int, rows: Array) -> None:
        right = rows @ self._columns
        right[:, known] -= 1.0
        try:
            step, solved = self._grow(rows, right)
        except np.linalg.LinAlgError:
            step = None
        self._kernels.add_outer(self._gram, rows, 1.0)
        self._sums[known] += rows.sum(axis=0)
        self._counts[known] += len(rows)
        if step is None:
            self.n_reanchored += 1
            self._anchor()
            return
        self._kernels.subtract_product(self._columns, step.T, solved)
