"""The linear probe: softmax regression on all frozen embeddings seen so far, the usual reference for an embedding.

It keeps every embedding and fits anew after each session, so it shows what a linear layer can do on this backbone, not
what can be learnt without keeping data.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edge.errors import ConfigurationError
from trainer.harness.method import MethodContext, MethodKind
from trainer.harness.settings import keys_of, settings_from
from trainer.protocols import Session


@dataclass(frozen=True)
class ProbeSettings:
    """iterations: L-BFGS steps of a fit, which begins at the last one. decay: weight of half the squared weights."""

    iterations: int = 60
    decay: float = 1e-3

    def __post_init__(self) -> None:
        if self.iterations < 1 or not 0.0 <= self.decay < 1e6:
            raise ConfigurationError(
                f"linear-probe has iterations {self.iterations} and decay {self.decay}; wanted at least 1 and 0"
            )


class LinearProbe:
    """Jointly fitted softmax regression on embeddings that are standardised over what was seen.

    Loss: mean cross-entropy + decay/2 |W|^2, by L-BFGS (Liu and Nocedal 1989). It starts at zero: no seed matters.
    """

    def __init__(self, name: str, context: MethodContext, settings: ProbeSettings) -> None:
        self.name = name
        self._context = context
        self._settings = settings
        self._rows = np.zeros(0, dtype=np.int64)
        self._labels: tuple[str, ...] = ()
        self._weights = torch.zeros((0, context.backbone.dim + 1))
        self._mean = np.zeros(context.backbone.dim, dtype=np.float32)
        self._deviation = np.ones(context.backbone.dim, dtype=np.float32)
        self._is_fitted = True

    def learn(self, session: Session) -> None:
        self._rows = np.concatenate([self._rows, self._context.material.rows(session.train)])
        self._is_fitted = False

    def scores(self, rows: NDArray[np.int64]) -> tuple[tuple[str, ...], NDArray[np.float64]]:
        if not self._is_fitted:
            self._fit()
        x = self._inputs(rows)
        return self._labels, np.asarray((x @ self._weights.T).double().numpy())

    def figures(self) -> dict[str, Any]:
        kept = 4 * len(self._rows) * self._context.backbone.dim
        return {
            "memory_bytes": kept + 4 * self._weights.numel(),
            "stored_embeddings": len(self._rows),
            "settings": asdict(self._settings),
        }

    def _inputs(self, rows: NDArray[np.int64]) -> torch.Tensor:
        x = (self._context.embeddings()[rows] - self._mean) / self._deviation
        return torch.from_numpy(np.hstack([x, np.ones((len(x), 1), dtype=np.float32)]))

    def _fit(self) -> None:
        names = self._context.material.labels_of_rows(self._rows)
        labels = tuple(sorted(set(names)))
        own = self._context.embeddings()[self._rows]
        if len(own):
            self._mean, self._deviation = own.mean(axis=0), own.std(axis=0) + np.float32(1e-6)
        before = {label: self._weights[i] for i, label in enumerate(self._labels)}
        zero = torch.zeros(self._context.backbone.dim + 1)
        weights = torch.stack([before.get(label, zero) for label in labels]) if labels else self._weights
        self._labels, self._is_fitted = labels, True
        if len(labels) > 1:
            place = {label: i for i, label in enumerate(labels)}
            weights = self._descend(weights, self._inputs(self._rows), torch.tensor([place[n] for n in names]))
        self._weights = weights

    def _descend(self, start: torch.Tensor, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        weights = start.clone().requires_grad_(True)
        descent = torch.optim.LBFGS([weights], max_iter=self._settings.iterations, line_search_fn="strong_wolfe")

        def loss() -> torch.Tensor:
            descent.zero_grad()
            value = torch.nn.functional.cross_entropy(x @ weights.T, target)
            value = value + 0.5 * self._settings.decay * weights[:, :-1].square().sum()
            value.backward()
            return value

        descent.step(loss)
        return weights.detach()


def _build(context: MethodContext) -> LinearProbe:
    return LinearProbe("linear-probe", context, settings_from(ProbeSettings, context.settings))


LINEAR_PROBE = MethodKind("linear-probe", _build, keys_of(ProbeSettings), uses_embeddings=True)
