"""A linear system A W = Q whose inverse and solution are carried along while A grows, and the watch over its residual.

One step is A + D'D for m rows D. The symmetric form: U = P D', I + D U = L L', V = L^-1 U', P - V'V. Its rounding is
symmetric and P stays positive; the form that reuses (D P)' on one side feeds its own asymmetry back and diverges after
some ten thousand samples. P must follow its own U, or its error grows.

The solution need not share P's error. In float64 a product P D' is off by eps times the condition of A, and nothing in
the recursion takes that back from W. A itself is known exactly, so the step that W takes uses U corrected,
U + P (D' - A U), which squares the relative error; again, if the first correction was large. Sources: Woodbury's
identity; Ljung and Ljung 1985; Verhaegen 1989; iterative refinement, Wilkinson 1963.
"""

from __future__ import annotations

import math

import numpy as np

from edge.errors import NotExactError
from edge.scatter import too_small_ridge
from edge.symmetric import FEW_COLUMNS, Array, KernelName, kernels

RE_ANCHOR_ABOVE = 1e-13
REFUSE_ABOVE = 1e-11
MAX_CORRECTION = 1e-3
CORRECTED_BELOW = 1e-15
PLAIN_BUDGET = 2e-14
SAFETY = 4.0
MAX_CORRECTIONS = 5
MAX_STEP_ROWS = 64
CHECK_EVERY = 256
SHRINKAGE = 64.0
TINY = float(np.finfo(np.float64).tiny)


class CarriedSolution:
    """Inverse P (d, d) and solution W (d, k) of an exactly known system, updated without solving.

    Subclasses know A and Q from exact integers (``system``, ``_product``).

    The residual ||Q - A W|| / (||A|| ||W|| + ||Q||), in Frobenius norms, is looked at after ``max(256, 8 k)`` windows
    and when W shrank by a factor of 64, after one refinement, W + P (Q - A W). That costs less than the updates
    in between. Above ``re_anchor_above``, or when a step's correction passes 1e-3 of the step, P and W are solved again
    from the exact system; ``n_reanchored`` counts that. While the residual is above 1e-11, reading is refused.
    """

    def __init__(self, dim: int, ridge_term: float, *, kernel: KernelName, re_anchor_above: float) -> None:
        self.n_reanchored = 0
        self._kernels = kernels(kernel)
        self._re_anchor_above = re_anchor_above
        self._ridge_term = ridge_term
        self._columns: Array = np.zeros((dim, 0), order="F")
        self._inverse: Array = np.zeros((dim, dim), order="F")
        self._n_unchecked = 0
        self._largest = 0.0
        self._drift: float | None = None
        self._added_residual = 0.0
        self._last_residual = 0.0

    def system(self) -> tuple[Array, Array]:
        """Return A (d, d), the whole matrix, and Q (d, k), both from exact integers."""
        raise NotImplementedError

    def _product(self, columns: Array) -> Array:
        """A times columns (d, m), in Fortran order, from exact integers."""
        raise NotImplementedError

    @property
    def solution(self) -> Array:
        """W (d, k) as carried now, a copy; columns in the order of ``system``."""
        return self._columns.copy()

    @property
    def last_residual(self) -> float:
        """What the residual was when it was last looked at; 0 after an anchor."""
        return self._last_residual

    def residual(self) -> float:
        """Relative residual of W against the exact system, now. Costs O(d^2 k)."""
        return self._residual_in(*self.system())

    def _residual_in(self, matrix: Array, targets: Array) -> float:
        return relative_residual(targets - matrix @ self._columns, matrix, self._columns, targets)

    def check(self) -> float:
        """Refine W once, look at the residual, re-anchor if it is too large; return what it is afterwards."""
        matrix, targets = self.system()
        self._columns += self._kernels.multiply(self._inverse, np.asfortranarray(targets - matrix @ self._columns))
        self._follow_columns()
        self._drift, self._added_residual = None, 0.0
        self._last_residual = self._residual_in(matrix, targets)
        if not self._last_residual <= self._re_anchor_above:
            self.n_reanchored += 1
            self._anchor()
            self._last_residual = self._residual_in(matrix, targets)
        return self._last_residual

    def _anchor(self) -> None:
        """Solve for W and P from the exact system. Raises ConfigurationError when the ridge is too small for it."""
        matrix, targets = self.system()
        try:
            factor = self._kernels.cholesky(np.array(matrix, order="F"))
        except np.linalg.LinAlgError as e:
            raise too_small_ridge(self._ridge_term) from e
        self._columns = np.array(self._kernels.cholesky_solve(factor, np.asfortranarray(targets)), order="F")
        self._inverse = self._kernels.cholesky_inverse(factor)
        self._drift, self._last_residual, self._added_residual = None, 0.0, 0.0
        self._watch_from_here()
        self._follow_columns()

    def _follow_columns(self) -> None:
        """W was set anew: whatever is carried beside it has to be, too."""

    def _grow(self, rows: Array, right: Array) -> tuple[Array, Array]:
        """Carry P over A + rows' rows; A is still without the rows. rows: (m, d) C order. right: (m, k).

        Returns V (m, d) and L^-1 right (m, k), which W - V' (L^-1 right) takes. Raises LinAlgError when P has drifted:
        then nothing has changed.
        """
        plain = self._kernels.multiply(self._inverse, rows.T)
        step, solved = self._step(rows, plain, right)
        if len(rows) > FEW_COLUMNS and self._may_stay_plain(rows, plain, step, solved):
            self._kernels.add_outer(self._inverse, step, -1.0)
            return step, solved
        corrected, drift = self._corrected(plain, rows.T)
        if not drift <= MAX_CORRECTION and math.isfinite(self._re_anchor_above):
            raise np.linalg.LinAlgError("the carried inverse has drifted")
        self._kernels.add_outer(self._inverse, step, -1.0)
        return self._step(rows, corrected, right)

    def _may_stay_plain(self, rows: Array, plain: Array, step: Array, solved: Array) -> bool:
        """Whether a long burst can do without the correction: the residual it may add, together with what earlier ones
        added since W was last refined, stays below a budget. The drift of P is measured on the first of them."""
        if self._drift is None:
            self._drift = self._corrected(plain[:, -1:], rows[-1:].T)[1]
        change = math.sqrt(max(0.0, float(np.sum((step @ step.T) * (solved @ solved.T)))))
        added = SAFETY * self._drift * change / max(float(np.linalg.norm(self._columns)), TINY)
        if not self._added_residual + added <= PLAIN_BUDGET:
            return False
        self._added_residual += added
        return True

    def _step(self, rows: Array, spread: Array, right: Array) -> tuple[Array, Array]:
        """L^-1 spread' and L^-1 right, with L L' = I + rows spread."""
        small = rows @ spread
        small[np.diag_indices(len(small))] += 1.0
        if len(rows) == 1:
            if not small[0, 0] > 0.0:
                raise np.linalg.LinAlgError("the carried inverse is not positive")
            root = math.sqrt(small[0, 0])
            return spread.T / root, right / root
        factor = np.asarray(np.linalg.cholesky((small + small.T) / 2.0), dtype=np.float64)
        return self._kernels.lower_solve(factor, spread.T), self._kernels.lower_solve(factor, right)

    def _corrected(self, plain: Array, wanted: Array) -> tuple[Array, float]:
        """A^-1 wanted (d, m) from P wanted, and the relative size of the first correction, the error of P here.

        Each correction multiplies the error by that size, so it says how many are needed; always at least one.
        """
        correction = self._kernels.multiply(self._inverse, wanted - self._product(plain))
        drift = float(np.linalg.norm(correction)) / max(float(np.linalg.norm(plain)), TINY)
        corrected, error = plain + correction, drift * drift
        for _ in range(MAX_CORRECTIONS - 1):
            if not CORRECTED_BELOW < error < 1.0:
                break
            corrected += self._kernels.multiply(self._inverse, wanted - self._product(corrected))
            error *= drift
        return corrected, drift

    def _solve_column(self, target: Array) -> Array:
        """A^-1 target (d,) as (d, 1) in Fortran order."""
        wanted = target[:, None]
        return self._corrected(self._kernels.multiply(self._inverse, wanted), wanted)[0]

    def _learnt(self, n_windows: int) -> None:
        """Count what was learnt since the last look, and look when it is time."""
        self._n_unchecked += n_windows
        size = float(np.linalg.norm(self._columns))
        self._largest = max(self._largest, size)
        due = self._n_unchecked >= max(CHECK_EVERY, 8 * self._columns.shape[1])
        if due or not size * SHRINKAGE >= self._largest:
            self._watch_from_here()
            self.check()

    def _watch_from_here(self) -> None:
        self._n_unchecked = 0
        self._largest = float(np.linalg.norm(self._columns))

    def _require_exact(self) -> None:
        if not self._last_residual <= REFUSE_ABOVE:
            raise NotExactError(
                f"the live head's residual is {self._last_residual:.1e}, above {REFUSE_ABOVE:.0e}: it no longer equals "
                "the head solved from the statistics; re-anchor it, with a larger ridge if that does not help"
            )


def relative_residual(error: Array, matrix: Array, solution: Array, target: Array) -> float:
    """||error|| / (||A|| ||solution|| + ||target||) in Frobenius norms; zero for an empty or zero system."""
    size = float(np.linalg.norm(matrix)) * float(np.linalg.norm(solution)) + float(np.linalg.norm(target))
    norm = float(np.linalg.norm(error))
    if not math.isfinite(norm) or not math.isfinite(size):
        return math.inf
    return norm / size if size > 0.0 else 0.0
