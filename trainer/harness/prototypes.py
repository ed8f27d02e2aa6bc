"""Methods that keep one mean for each class: SimpleCIL, and TEEN, which draws new means towards old ones.

Means come from sums of whole numbers on the grid, so the order of learning changes no bit of them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.errors import ConfigurationError
from edge.space import Grid, l2_normalize
from trainer.harness.method import MethodContext, MethodKind
from trainer.harness.settings import keys_of, settings_from
from trainer.protocols import Session

Array = NDArray[np.float64]
GRID = Grid()


@dataclass(frozen=True)
class PrototypeSettings:
    """There is nothing to set."""


@dataclass(frozen=True)
class TeenSettings:
    """alpha: share of the base classes in a new class's row. temperature: of the softmax over them."""

    alpha: float = 0.5
    temperature: float = 16.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.alpha <= 1.0 or not 0.0 < self.temperature < 1e6:
            raise ConfigurationError(
                f"teen has alpha {self.alpha} and temperature {self.temperature}; wanted alpha from 0 to 1 and a "
                f"positive temperature"
            )


class Prototypes:
    """Nearest mean by cosine (SimpleCIL).

    A row is the mean of L2-normalised embeddings, normalised again. Nothing is trained. Source: Zhou et al. 2023
    (Revisiting Class-Incremental Learning with Pre-Trained Models).
    """

    def __init__(self, name: str, context: MethodContext) -> None:
        self.name = name
        self._context = context
        self._sums: dict[str, NDArray[np.int64]] = {}
        self._counts: dict[str, int] = {}

    def learn(self, session: Session) -> None:
        rows = self._context.material.rows(session.train)
        points, _ = GRID.quantize(l2_normalize(self._context.embeddings()[rows]))
        names = np.array(self._context.material.labels_of_rows(rows), dtype=object)
        for label in sorted(set(names.tolist())):
            own = points[names == label].astype(np.int64)
            self._sums[label] = self._sums.get(label, np.zeros(own.shape[1], dtype=np.int64)) + own.sum(axis=0)
            self._counts[label] = self._counts.get(label, 0) + len(own)

    def rows_of_classes(self) -> tuple[tuple[str, ...], Array]:
        """Labels (k,) sorted, and a unit vector for each (k, d)."""
        labels = tuple(sorted(self._sums))
        means = [self._sums[label] / self._counts[label] for label in labels]
        return labels, _unit(np.reshape(np.array(means, dtype=np.float64), (len(labels), self._context.backbone.dim)))

    def scores(self, rows: NDArray[np.int64]) -> tuple[tuple[str, ...], Array]:
        labels, prototypes = self.rows_of_classes()
        return labels, l2_normalize(self._context.embeddings()[rows]) @ prototypes.T

    def figures(self) -> dict[str, Any]:
        return {"memory_bytes": 8 * len(self._sums) * (self._context.backbone.dim + 1), "settings": {}}


class Teen(Prototypes):
    """Prototypes in which each later class is mixed with the base classes that it is like.

    Base classes: those of the first session that had clips. For a new mean p: w = softmax_b(temperature * cos(p, b)),
    q = normalise(sum_b w_b b), row = (1 - alpha) p + alpha q. Source: Wang et al. 2023 (Few-Shot Class-Incremental
    Learning via Training-Free Prototype Calibration), whose base rows are means, too.
    """

    def __init__(self, name: str, context: MethodContext, settings: TeenSettings) -> None:
        super().__init__(name, context)
        self._settings = settings
        self._base: tuple[str, ...] = ()

    def learn(self, session: Session) -> None:
        super().learn(session)
        if not self._base:
            self._base = tuple(sorted(self._sums))

    def rows_of_classes(self) -> tuple[tuple[str, ...], Array]:
        labels, means = super().rows_of_classes()
        is_base = np.array([label in self._base for label in labels], dtype=np.bool_)
        if not is_base.any():
            return labels, means
        base, settings = means[is_base], self._settings
        logits = settings.temperature * (means @ base.T)
        likeness = np.exp(logits - logits.max(axis=1, keepdims=True))
        mixed = _unit(likeness / likeness.sum(axis=1, keepdims=True) @ base)
        drawn = _unit((1.0 - settings.alpha) * means + settings.alpha * mixed)
        return labels, np.where(is_base[:, None], means, drawn)

    def figures(self) -> dict[str, Any]:
        return {**super().figures(), "settings": asdict(self._settings), "n_base_classes": len(self._base)}


def _unit(x: Array) -> Array:
    length = np.sqrt(np.einsum("ij,ij->i", x, x))
    return np.asarray(x / np.where(length > 0.0, length, 1.0)[:, None])


def _build_ncm(context: MethodContext) -> Prototypes:
    settings_from(PrototypeSettings, context.settings)
    return Prototypes("ncm", context)


def _build_teen(context: MethodContext) -> Teen:
    return Teen("teen", context, settings_from(TeenSettings, context.settings))


NCM = MethodKind("ncm", _build_ncm, (), uses_embeddings=True)
TEEN = MethodKind("teen", _build_teen, keys_of(TeenSettings), uses_embeddings=True)
