"""The live heads: equal to what is solved from the statistics, however long and however ill-conditioned the stream."""

from __future__ import annotations

import math
from typing import Any, TypeVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from benchmarks.streams import IllConditionedStream
from edge.carried import MAX_STEP_ROWS, RE_ANCHOR_ABOVE, REFUSE_ABOVE, CarriedSolution, relative_residual
from edge.errors import ConfigurationError, MisuseError, NotExactError, SpaceMismatchError, StatisticsOverflowError
from edge.heads import Background, fit_detection, fit_ridge
from edge.recursive import RecursiveHead, RecursiveRidge
from edge.scatter import ridge_term
from edge.statistics import EXACT_LIMIT, SufficientStatistics
from edge.symmetric import Array, KernelName
from tests.strategies import LABELS, Samples, feature_space, samples

Live = TypeVar("Live", RecursiveHead, RecursiveRidge)
KERNELS = pytest.mark.parametrize("kernel", ["scipy", "numpy"])
STREAM = IllConditionedStream(32, 10, seed=3)
N_EACH = 2000
RIDGE = 2.0**-14


def build(data: Samples) -> SufficientStatistics:
    return SufficientStatistics.from_samples(data.space, data.features, data.labels)


def bursts(data: Samples, sizes: list[int]) -> list[tuple[NDArray[np.int16], str]]:
    """Cut into runs of one label, then into bursts of the given sizes."""
    cut, start, turn = [], 0, 0
    while start < len(data):
        same = start + 1
        while same < len(data) and data.labels[same] == data.labels[start]:
            same += 1
        end = min(same, start + (sizes[turn % len(sizes)] if sizes else 1))
        cut.append((data.features[start:end], data.labels[start]))
        start, turn = end, turn + 1
    return cut


def some_background(data: Samples, ridge: float) -> Background:
    rng = np.random.default_rng(0)
    x = rng.integers(-9000, 9000, (30, data.space.dim)).astype(np.int16)
    prior = SufficientStatistics.from_samples(data.space, x, [f"prior {i % 4}" for i in range(30)])
    return Background.from_statistics(prior, 0.5, None, ridge, data.space)


@given(samples(), st.lists(st.integers(1, 5), max_size=5), st.sampled_from(["scipy", "numpy"]), st.booleans())
def test_any_stream_ends_at_the_solution_from_the_statistics(
    data: Samples, sizes: list[int], kernel: KernelName, with_prior: bool
) -> None:
    background = some_background(data, 1.0) if with_prior else Background.nothing(data.space, 1.0)
    zero = SufficientStatistics.zero(data.space)
    live = RecursiveHead(zero, background, ridge=1.0, kernel=kernel)
    ridge = RecursiveRidge(zero, ridge=1.0, kernel=kernel)
    for features, label in bursts(data, sizes):
        live.update(features, label)
        ridge.update(features, label)
    stats = build(data)
    assert live.statistics() == stats == ridge.statistics()
    assert live.labels == stats.labels
    assert live.n_samples == len(data)
    assert max(live.residual(), ridge.residual()) <= RE_ANCHOR_ABOVE
    fitted = fit_detection(stats, background, ridge=1.0)
    found, wanted = live.head().z(data.features), fitted.z(data.features)
    np.testing.assert_allclose(found, wanted, rtol=1e-7, atol=1e-7)
    if stats.labels:
        scores = fit_ridge(stats, ridge=1.0).scores(data.features)
        np.testing.assert_allclose(ridge.head().scores(data.features), scores, rtol=1e-7, atol=1e-7)


@KERNELS
def test_a_burst_equals_its_windows_one_by_one(kernel: KernelName) -> None:
    windows = STREAM.windows(0, 3 * MAX_STEP_ROWS + 5)
    space = feature_space(32)
    heads = [RecursiveHead(SufficientStatistics.zero(space), Background.nothing(space, 1.0), ridge=1.0, kernel=kernel)]
    heads.append(RecursiveHead(SufficientStatistics.zero(space), Background.nothing(space, 1.0), ridge=1.0))
    heads[0].update(windows, "bell")
    for i in range(len(windows)):
        heads[1].update(windows[i : i + 1], "bell")
    assert heads[0].statistics() == heads[1].statistics()
    np.testing.assert_allclose(heads[0].head().z(windows), heads[1].head().z(windows), rtol=1e-9, atol=1e-9)


def taught(head: Live, burst: int) -> Live:
    """Teach the whole class-sorted stream: 20,000 windows."""
    for index in range(STREAM.n_classes):
        windows = STREAM.windows(index, N_EACH)
        for start in range(0, N_EACH, burst):
            head.update(windows[start : start + burst], STREAM.label(index))
    return head


def fresh() -> NDArray[np.int16]:
    return np.vstack([STREAM.windows(index, 50, draw=1) for index in range(STREAM.n_classes)])


def live_head(kind: type[RecursiveHead] = RecursiveHead, above: float = math.inf, **options: Any) -> RecursiveHead:
    space = feature_space(32)
    background = Background.nothing(space, RIDGE)
    zero = SufficientStatistics.zero(space)
    return kind(zero, background, ridge=RIDGE, re_anchor_above=above, **options)


@pytest.mark.parametrize(("burst", "kernel"), [(1, "scipy"), (16, "scipy"), (16, "numpy")])
def test_twenty_thousand_class_sorted_windows_at_condition_1e9(burst: int, kernel: KernelName) -> None:
    head = live_head(kernel=kernel)
    taught(head, burst)
    matrix, _ = head.system()
    assert np.linalg.cond(matrix) > 1e9
    assert head.residual() <= 1e-14
    assert head.n_reanchored == 0
    batch = fit_detection(head.statistics(), Background.nothing(head.space, RIDGE), ridge=RIDGE)
    z, wanted = head.head().z(fresh()), batch.z(fresh())
    assert np.abs(z - wanted).max() <= 1e-9 * np.abs(wanted).max()
    assert np.array_equal(head.head().lda_scores(fresh()).argmax(axis=1), batch.lda_scores(fresh()).argmax(axis=1))


def test_the_ridge_recursion_on_the_same_stream() -> None:
    space = feature_space(32)
    head = RecursiveRidge(SufficientStatistics.zero(space), ridge=RIDGE, re_anchor_above=math.inf)
    taught(head, 16)
    assert head.residual() <= 1e-14
    batch = fit_ridge(head.statistics(), ridge=RIDGE)
    assert np.array_equal(head.head().scores(fresh()).argmax(axis=1), batch.scores(fresh()).argmax(axis=1))


class OneSided(RecursiveHead):
    """Form A, left alone: (D P)' stands in for P D', so that rounding makes P unsymmetric and feeds on itself."""

    def _grow(self, rows: Array, right: Array) -> tuple[Array, Array]:
        spread = rows @ self._inverse
        small = np.eye(len(rows)) + spread @ rows.T
        self._inverse -= spread.T @ np.linalg.solve(small, spread)
        return spread, np.linalg.solve(small, right)

    def check(self) -> float:
        return 0.0


class Uncorrected(RecursiveHead):
    """The symmetric form, left alone, whose solution takes the step of P as it is."""

    def _grow(self, rows: Array, right: Array) -> tuple[Array, Array]:
        step, solved = self._step(rows, self._kernels.multiply(self._inverse, rows.T), right)
        self._kernels.add_outer(self._inverse, step, -1.0)
        return step, solved

    def _solve_column(self, target: Array) -> Array:
        return self._kernels.multiply(self._inverse, target[:, None])

    def check(self) -> float:
        return 0.0


def test_without_symmetry_the_recursion_breaks() -> None:
    with np.errstate(all="ignore"):
        head = taught(live_head(OneSided, kernel="numpy"), 4)
    assert not head.residual() <= 1e3 * REFUSE_ABOVE


def test_without_the_correction_the_residual_follows_the_condition() -> None:
    head = taught(live_head(Uncorrected), 4)
    assert head.residual() > REFUSE_ABOVE


class Watched(RecursiveHead):
    """Counts the long bursts that went without a correction, and all of them."""

    n_plain = n_bursts = 0

    def _may_stay_plain(self, rows: Array, plain: Array, step: Array, solved: Array) -> bool:
        stays = super()._may_stay_plain(rows, plain, step, solved)
        self.n_plain += stays
        self.n_bursts += 1
        return stays


def test_long_bursts_are_corrected_where_the_condition_asks_for_it() -> None:
    ill = taught(live_head(Watched), 16)
    assert ill.n_plain < 0.2 * ill.n_bursts
    space = feature_space(32)
    well = Watched(SufficientStatistics.zero(space), Background.nothing(space, 64.0), ridge=64.0)
    rng = np.random.default_rng(0)
    for i in range(50):
        well.update(rng.integers(-3000, 3000, (16, 32)).astype(np.int16), LABELS[i % 4])
    assert well.n_plain == well.n_bursts == 50
    assert well.residual() <= RE_ANCHOR_ABOVE


def test_a_recursion_in_float32_breaks() -> None:
    space = feature_space(32)
    inverse = (np.eye(32) / ridge_term(space, RIDGE)).astype(np.float32)
    weights = np.zeros((32, 10), dtype=np.float32)
    exact = RecursiveRidge(SufficientStatistics.zero(space), ridge=RIDGE)
    for index in range(10):
        windows = STREAM.windows(index, N_EACH)
        target = np.zeros((16, 10), dtype=np.float32)
        target[:, index] = 1.0
        for start in range(0, N_EACH, 16):
            exact.update(windows[start : start + 16], STREAM.label(index))
            rows = windows[start : start + 16].astype(np.float32)
            spread = rows @ inverse
            factor = np.linalg.cholesky(np.eye(16, dtype=np.float32) + spread @ rows.T + 1e-3 * np.eye(16))
            step = np.linalg.solve(factor, spread)
            inverse -= (step.T @ step).astype(np.float32)
            weights += (step.T @ np.linalg.solve(factor, target - rows @ weights)).astype(np.float32)
    matrix, targets = exact.system()
    assert relative_residual(targets - matrix @ weights, matrix, weights.astype(np.float64), targets) > 1e-4
    assert exact.residual() <= 1e-14


class Disturbed(RecursiveHead):
    """The inverse loses digits now and then, as a flipped bit in memory might."""

    def disturb(self, by: float) -> None:
        self._inverse *= 1.0 + by

    def displace(self, by: float) -> None:
        self._columns *= 1.0 + by


def disturbed(above: float = RE_ANCHOR_ABOVE) -> Disturbed:
    space = feature_space(32)
    head = Disturbed(SufficientStatistics.zero(space), Background.nothing(space, 1.0), ridge=1.0, re_anchor_above=above)
    for index in range(3):
        head.update(STREAM.windows(index, 20), STREAM.label(index))
    return head


def test_a_wrong_solution_is_refined_or_solved_again() -> None:
    head = disturbed()
    head.displace(1e-9)
    assert head.residual() > REFUSE_ABOVE
    assert head.check() <= RE_ANCHOR_ABOVE
    assert head.n_reanchored == 0
    head.disturb(0.5)
    head.displace(1e-3)
    assert head.check() <= RE_ANCHOR_ABOVE
    assert head.n_reanchored == 1
    batch = fit_detection(head.statistics(), Background.nothing(head.space, 1.0), ridge=1.0)
    np.testing.assert_allclose(head.head().z(fresh()), batch.z(fresh()), rtol=1e-10, atol=1e-10)


def test_a_wrong_inverse_is_noticed_by_the_step_itself() -> None:
    head = disturbed()
    head.disturb(0.01)
    head.update(STREAM.windows(0, 5, draw=4), STREAM.label(0))
    assert head.n_reanchored == 1
    assert head.residual() <= RE_ANCHOR_ABOVE
    head.disturb(-3.0)
    head.update(STREAM.windows(0, 1, draw=5), STREAM.label(0))
    assert head.n_reanchored == 2


def test_what_may_not_re_anchor_refuses_to_call_itself_exact() -> None:
    head = disturbed(above=math.inf)
    head.disturb(0.5)
    head.displace(1e-3)
    head.check()
    with pytest.raises(NotExactError, match="above 1e-11"):
        head.head()
    head.re_anchor(head.statistics())
    assert head.head().labels == head.labels


def test_the_residual_is_looked_at_while_learning() -> None:
    head = disturbed()
    head.displace(1e-9)
    for start in range(0, 300, 10):
        head.update(STREAM.windows(1, 300, draw=6)[start : start + 10], STREAM.label(1))
    assert 0.0 < head.last_residual <= RE_ANCHOR_ABOVE
    assert head.residual() <= RE_ANCHOR_ABOVE


def test_a_collapse_of_the_solution_is_looked_at_at_once() -> None:
    """A class's first windows fill an empty direction: W shrinks by orders and would keep the old one's rounding."""
    space = feature_space(32)
    head = RecursiveHead(SufficientStatistics.zero(space), Background.nothing(space, RIDGE), ridge=RIDGE)
    windows = STREAM.windows(0, 60)
    for i in range(60):
        head.update(windows[i : i + 1], "bell")
        assert head.residual() <= RE_ANCHOR_ABOVE


def test_removing_and_ignoring_go_through_the_statistics() -> None:
    head = disturbed()
    first = SufficientStatistics.from_samples(head.space, STREAM.windows(0, 20), [STREAM.label(0)] * 20)
    without = head.statistics() - first
    head.re_anchor(without)
    assert head.statistics() == without
    assert head.labels == (STREAM.label(1), STREAM.label(2))
    ignored = SufficientStatistics.from_samples(head.space, STREAM.windows(5, 9), ["_background_"] * 9)
    background = Background.from_statistics(None, 0.0, ignored, 4.0, head.space)
    head.re_anchor(without, background, ridge=4.0)
    batch = fit_detection(without, background, ridge=4.0)
    np.testing.assert_allclose(head.head().z(fresh()), batch.z(fresh()), rtol=1e-10, atol=1e-10)


def test_classes_come_out_sorted_whatever_the_order_of_teaching() -> None:
    space = feature_space(32)
    head = RecursiveHead(SufficientStatistics.zero(space), Background.nothing(space, 1.0), ridge=1.0)
    ridge = RecursiveRidge(SufficientStatistics.zero(space), ridge=1.0)
    for i, label in enumerate(reversed(LABELS)):
        head.update(STREAM.windows(i, 3), label)
        ridge.update(STREAM.windows(i, 3), label)
    assert head.head().labels == ridge.head().labels == LABELS
    assert head.head().labels[int(head.head().z(STREAM.windows(0, 3)).sum(axis=0).argmax())] == LABELS[-1]


@pytest.mark.parametrize("kind", [RecursiveHead, RecursiveRidge])
def test_refusals_leave_everything_as_it_was(kind: type[CarriedSolution]) -> None:
    space = feature_space(2)
    rest = np.array([2.0**40]), np.zeros((1, 2))
    full = SufficientStatistics(space, ("bell",), *rest, np.diag(np.full(2, float(EXACT_LIMIT))))
    head: RecursiveHead | RecursiveRidge
    if kind is RecursiveHead:
        head = RecursiveHead(full, Background.nothing(space, 1.0), ridge=1.0)
    else:
        head = RecursiveRidge(full, ridge=1.0)
    before = head.solution
    one = np.array([[1, 1], [2, 3]], dtype=np.int16)
    for label in ("bell", "kettle"):
        with pytest.raises(StatisticsOverflowError):
            head.update(one, label)
    with pytest.raises(MisuseError):
        head.update(one.astype(np.int32), "bell")  # type: ignore[arg-type]
    head.update(one[:0], "kettle")
    assert head.statistics() == full
    assert np.array_equal(head.solution, before)


def test_spaces_do_not_mix() -> None:
    space, other = feature_space(2), feature_space(2, backbone="a")
    with pytest.raises(SpaceMismatchError):
        RecursiveHead(SufficientStatistics.zero(space), Background.nothing(other, 1.0), ridge=1.0)
    with pytest.raises(ConfigurationError):
        RecursiveHead(SufficientStatistics.zero(space), Background.nothing(space, 1.0), ridge=0.3)
