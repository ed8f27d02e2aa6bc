"""Linear CKA as a law, and the boundary that it gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from trainer.pace.cka import boundary_block, linear_cka


def drawn(seed: int, n: int, d: int) -> Tensor:
    return torch.tensor(np.random.default_rng(seed).standard_normal((n, d)), dtype=torch.float64)


def by_definition(x: Tensor, y: Tensor) -> float:
    """HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) with linear kernels and an explicit centring matrix."""
    n = len(x)
    h = np.eye(n) - 1.0 / n
    k, m = h @ (x @ x.T).numpy() @ h, h @ (y @ y.T).numpy() @ h
    return float(np.sum(k * m) / np.sqrt(np.sum(k * k) * np.sum(m * m)))


SHAPES = st.tuples(st.integers(0, 10**6), st.integers(2, 12), st.integers(1, 12), st.integers(1, 12))


@given(SHAPES)
def test_it_is_the_definition_in_both_forms_symmetric_and_a_share(shape: tuple[int, int, int, int]) -> None:
    """Small n takes the n x n form, small d the d x d form; d = 1..12 against n = 2..12 draws both."""
    seed, n, d1, d2 = shape
    x, y = drawn(seed, n, d1), drawn(seed + 1, n, d2)
    value = linear_cka(x, y)
    assert value == pytest.approx(by_definition(x, y), abs=1e-9)
    assert value == pytest.approx(linear_cka(y, x), abs=1e-9)
    assert 0.0 <= value <= 1.0


@given(SHAPES, st.floats(1e-3, 1e3))
def test_rotation_scale_and_shift_change_nothing(shape: tuple[int, int, int, int], scale: float) -> None:
    seed, n, d1, d2 = shape
    x, y = drawn(seed, n, d1), drawn(seed + 1, n, d2)
    rotation = torch.linalg.qr(drawn(seed + 2, d1, d1)).Q
    moved = scale * (x @ rotation) + 3.0
    assert linear_cka(x, moved) == pytest.approx(1.0, abs=1e-9)
    assert linear_cka(moved, y) == pytest.approx(linear_cka(x, y), abs=1e-9)


def test_columns_of_zeros_join_the_two_forms() -> None:
    """The same numbers as n < d and as n > d."""
    x, y = drawn(0, 6, 4), drawn(1, 6, 3)
    wide = torch.cat([x, torch.zeros(6, 5, dtype=torch.float64)], dim=1)
    assert linear_cka(wide, y) == pytest.approx(linear_cka(x, y), abs=1e-12)


def test_unrelated_representations_are_far_from_alike() -> None:
    assert linear_cka(drawn(0, 500, 3), drawn(1, 500, 3)) < 0.05


@pytest.mark.parametrize("shape", [(3, 2), (3, 7), (1, 4)])
def test_constant_representations(shape: tuple[int, int]) -> None:
    constant, other = torch.full(shape, 0.1), torch.full(shape, -7.3)
    assert linear_cka(constant, other) == 1.0
    if len(constant) > 1:
        moving = drawn(0, *shape).float()
        assert linear_cka(constant, moving) == linear_cka(moving, constant) == 0.0


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_numbers_near_the_ends_of_float32(scale: float) -> None:
    x = drawn(0, 9, 4).float() * scale
    assert linear_cka(x, x) == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize(
    ("similarities", "threshold", "block"),
    [
        ((0.99, 0.97, 0.93, 0.5), 0.94, 2),
        ((0.99, 0.5, 0.99, 0.4), 0.94, 1),
        ((0.99, 0.98, 0.97), 0.94, 2),
        ((0.1, 0.2), 0.94, 0),
        ((0.94, 0.94), 0.94, 1),
        ((0.99,), 0.5, 0),
        ((1.0, 1.0), 0.0, 1),
    ],
)
def test_the_first_block_below_the_threshold_or_the_last(
    similarities: tuple[float, ...], threshold: float, block: int
) -> None:
    assert boundary_block(similarities, threshold) == block
