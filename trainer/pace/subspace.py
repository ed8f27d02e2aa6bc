"""Where an update may go: the leading subspace of what an adapted layer receives, and the projection on to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainer.backbones.backbone import Backbone
from trainer.pace.lora import LiveLora
from trainer.pace.settings import Projection


def input_rows(module: nn.Module, received: Tensor) -> Tensor:
    """What a linear or convolutional layer multiplies its weight with, as rows (n, fan_in).

    A convolution's rows are the patches under its kernel, so that both kinds are weight @ row.
    """
    if isinstance(module, nn.Conv2d):
        assert isinstance(module.padding, tuple)
        patches = nn.functional.unfold(
            received, module.kernel_size, dilation=module.dilation, padding=module.padding, stride=module.stride
        )
        return patches.transpose(1, 2).flatten(0, 1)
    return received.flatten(0, -2)


def uncentred_covariances(
    model: Backbone, names: Sequence[str], features: Tensor, *, batch_size: int = 32
) -> dict[str, Tensor]:
    """Mean of x x' over every row that each named module receives, (fan_in, fan_in) float64, by full module name.

    features: of the current session (n, ...), on any device. Source: Liu and Chang 2025 (LoRA subtraction), as PACE
    uses it: uncentred covariance of the layer's input.
    """
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = dict.fromkeys(names, 0)
    device = next(model.parameters()).device

    def keep(name: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        rows = input_rows(module, inputs[0])
        gram = (rows.T @ rows).double()
        sums[name] = sums[name] + gram if name in sums else gram
        counts[name] += len(rows)

    handles = [model.get_submodule(n).register_forward_pre_hook(lambda m, i, n=n: keep(n, m, i)) for n in names]
    try:
        with torch.no_grad():
            for start in range(0, len(features), batch_size):
                model.tokens(features[start : start + batch_size].to(device).float())
    finally:
        for handle in handles:
            handle.remove()
    return {name: sums[name] / counts[name] for name in names}


def leading_subspace(covariance: Tensor, kept_share: float) -> Tensor:
    """Orthonormal basis U (d, k) of the leading eigenvectors that together hold ``kept_share`` of the trace.

    k is the smallest that reaches it, at least 1. covariance: (d, d), symmetric, positive semi-definite.
    """
    values, vectors = torch.linalg.eigh(covariance.double())
    values, vectors = values.flip(0).clamp(min=0.0), vectors.flip(1)
    total = float(values.sum())
    reached = torch.cumsum(values, 0) >= (kept_share - 1e-12) * total
    k = int(torch.argmax(reached.int())) + 1 if bool(reached.any()) else len(values)
    basis: Tensor = vectors[:, :k]
    return basis


@dataclass(frozen=True, eq=False)
class UpdateProjection:
    """P for each adapted module. bases: U (fan_in, k) float32; P = U U', or I - U U' for ``complement``."""

    bases: Mapping[str, Tensor]
    kind: Projection
    project_up: bool = False

    @property
    def ranks(self) -> dict[str, tuple[int, int]]:
        """(k, fan_in) by module."""
        return {n: (u.shape[1], u.shape[0]) for n, u in self.bases.items()}

    def down(self, name: str, matrix: Tensor) -> Tensor:
        """A (r, ...) times P: rows of A live where the layer's input lives."""
        rows: Tensor = self._onto(self.bases[name].to(matrix), matrix.flatten(1))
        return rows.reshape(matrix.shape)

    def up(self, name: str, matrix: Tensor) -> Tensor:
        """P times B (out, r, ...), each block of fan_in rows by itself; unchanged where out is no multiple of it."""
        basis = self.bases[name].to(matrix)
        if not self.project_up or matrix.shape[0] % basis.shape[0]:
            return matrix
        parts = matrix.flatten(1).split(basis.shape[0])
        return torch.cat([self._onto(basis, part.T).T for part in parts]).reshape(matrix.shape)

    def _onto(self, basis: Tensor, rows: Tensor) -> Tensor:
        inside = (rows @ basis) @ basis.T
        return inside if self.kind == "leading" else rows - inside

    def start(self, lora: LiveLora) -> None:
        """Replace each A by A P, in place."""
        with torch.no_grad():
            for name, a in lora.down.items():
                a.copy_(self.down(name, a))

    def step(self, lora: LiveLora, before: Sequence[Tensor]) -> None:
        """Project what an optimiser just did. before: copies of ``lora.parameters()`` from before its step."""
        with torch.no_grad():
            for i, name in enumerate(lora.down):
                a, b = lora.down[name], lora.up[name]
                a.copy_(before[2 * i] + self.down(name, a - before[2 * i]))
                b.copy_(before[2 * i + 1] + self.up(name, b - before[2 * i + 1]))
