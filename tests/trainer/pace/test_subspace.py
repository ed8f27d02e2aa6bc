"""Covariances of what a layer receives, the subspace that leads in them, and updates that stay inside or outside."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.trainer.pace.small_lessons import KINDS, backbone_of, features_of, student
from trainer.backbones.backbone import adapted_modules
from trainer.pace.lora import with_lora
from trainer.pace.subspace import UpdateProjection, input_rows, leading_subspace, uncentred_covariances


@given(st.integers(1, 3), st.integers(1, 3), st.integers(0, 2), st.integers(1, 2), st.integers(0, 10**6))
def test_rows_times_weight_is_the_convolution(kernel: int, stride: int, padding: int, dilation: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Conv2d(3, 4, kernel, stride, padding, dilation, bias=False)
    x = torch.randn(2, 3, 9, 8, generator=generator)
    with torch.no_grad():
        wanted = layer(x)
        rows = input_rows(layer, x) @ layer.weight.flatten(1).T
    got = rows.reshape(2, *wanted.shape[2:], 4).permute(0, 3, 1, 2)
    assert torch.allclose(got, wanted, atol=1e-5)


def test_rows_times_weight_is_the_linear_layer() -> None:
    layer, x = nn.Linear(5, 3, bias=False), torch.randn(2, 7, 5)
    with torch.no_grad():
        assert torch.allclose(input_rows(layer, x) @ layer.weight.T, layer(x).flatten(0, 1), atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_covariance_is_the_mean_over_all_rows_whatever_the_batches(kind: str) -> None:
    backbone = backbone_of(kind)
    features, names = features_of(backbone, 5), adapted_modules(backbone, [len(backbone.blocks) - 1])
    received: dict[str, Tensor] = {}
    handles = [
        backbone.get_submodule(n).register_forward_pre_hook(
            lambda m, i, n=n: received.__setitem__(n, input_rows(m, i[0]).double())
        )
        for n in names
    ]
    with torch.no_grad():
        backbone.tokens(features)
    for handle in handles:
        handle.remove()
    found = uncentred_covariances(backbone, names, features, batch_size=2)
    assert set(found) == set(names)
    for name in names:
        rows = received[name]
        assert found[name].dtype == torch.float64
        assert torch.allclose(found[name], rows.T @ rows / len(rows), rtol=1e-4, atol=1e-6)
    assert not any(module._forward_pre_hooks for module in backbone.modules()), "hooks must be gone"


@given(st.integers(1, 8), st.floats(0.0, 1.0), st.integers(0, 10**6))
def test_the_subspace_is_the_smallest_that_holds_the_share(d: int, share: float, seed: int) -> None:
    rows = np.random.default_rng(seed).standard_normal((2 * d, d)) * np.geomspace(1.0, 1e-3, d)
    covariance = torch.tensor(rows.T @ rows)
    basis = leading_subspace(covariance, share)
    k = basis.shape[1]
    assert 1 <= k <= d
    assert torch.allclose(basis.T @ basis, torch.eye(k, dtype=torch.float64), atol=1e-9)
    held = float(torch.trace(basis.T @ covariance @ basis)) / float(torch.trace(covariance))
    assert held >= share - 1e-9
    smaller = basis[:, : k - 1]
    assert k == 1 or float(torch.trace(smaller.T @ covariance @ smaller)) / float(torch.trace(covariance)) < share


def test_subspaces_at_the_edges() -> None:
    assert leading_subspace(torch.zeros(3, 3), 0.99).shape == (3, 1)
    assert leading_subspace(torch.eye(4), 1.0).shape == (4, 4)
    first = torch.zeros(4, 4)
    first[2, 2] = 5.0
    assert torch.allclose(leading_subspace(first, 1.0).abs(), torch.eye(4, dtype=torch.float64)[:, [2]])


def test_leading_and_complement_divide_every_matrix() -> None:
    basis = torch.linalg.qr(torch.randn(12, 5, generator=torch.Generator().manual_seed(0))).Q
    a = torch.randn(3, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    inside, outside = (UpdateProjection({"m": basis}, kind).down("m", a) for kind in ("leading", "complement"))
    assert torch.allclose(inside + outside, a, atol=1e-6)
    assert float((outside.flatten(1) @ basis).abs().max()) < 1e-6
    again = UpdateProjection({"m": basis}, "leading").down("m", inside)
    assert torch.allclose(again, inside, atol=1e-6)
    assert float(torch.linalg.norm(inside)) > 0.1 and float(torch.linalg.norm(outside)) > 0.1
    assert UpdateProjection({"m": basis}, "leading").ranks == {"m": (5, 12)}


def test_b_is_projected_in_blocks_of_the_input_and_only_when_asked() -> None:
    basis = torch.linalg.qr(torch.randn(4, 2, generator=torch.Generator().manual_seed(0))).Q
    b = torch.randn(12, 3, generator=torch.Generator().manual_seed(1))
    assert torch.equal(UpdateProjection({"m": basis}, "leading").up("m", b), b)
    projection = UpdateProjection({"m": basis}, "leading", project_up=True)
    wanted = torch.cat([basis @ basis.T @ b[i : i + 4] for i in (0, 4, 8)])
    assert torch.allclose(projection.up("m", b), wanted, atol=1e-6)
    assert not torch.allclose(wanted, b, atol=1e-2)
    odd = torch.randn(6, 3)
    assert torch.equal(projection.up("m", odd), odd), "6 rows hold no whole number of inputs of 4"


def test_start_and_step_keep_the_adapter_inside() -> None:
    backbone = student()
    lora = with_lora(backbone, "s", [3], rank=4, alpha=4, seed=0)
    covariances = uncentred_covariances(backbone, list(lora.down), features_of(backbone, 8))
    bases = {n: leading_subspace(c, 0.9).float() for n, c in covariances.items()}
    projection = UpdateProjection(bases, "leading")

    def outside(name: str) -> float:
        a = lora.down[name].detach().flatten(1)
        return float(torch.linalg.norm(a - a @ bases[name] @ bases[name].T) / torch.linalg.norm(a))

    assert min(outside(n) for n in lora.down) > 0.05
    projection.start(lora)
    assert max(outside(n) for n in lora.down) < 1e-5
    before = [p.detach().clone() for p in lora.parameters()]
    with torch.no_grad():
        for parameter in lora.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    moved_b = [lora.up[n].detach().clone() for n in lora.down]
    assert min(outside(n) for n in lora.down) > 0.05
    projection.step(lora, before)
    assert max(outside(n) for n in lora.down) < 1e-5
    assert all(torch.allclose(lora.up[n], b, atol=1e-6) for n, b in zip(lora.down, moved_b, strict=True))
