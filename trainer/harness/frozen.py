"""Methods on a frozen backbone that read everything out of exact statistics: analytic ridge and LDA.

Learning is addition of whole numbers, so the classes may come in any order and any sessions: what is known after the
last one is the same to the bit, and so is every answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.analytic import AnalyticClassifier, AnalyticSettings
from trainer.harness.method import BudgetQuestion, MethodContext, MethodKind
from trainer.harness.settings import keys_of, settings_from
from trainer.protocols import Session

LIFTS = (8192, 4096, 2048, 1024, 512, 256)
ANALYTIC_DEFAULTS: dict[str, Any] = {}
LDA_DEFAULTS: dict[str, Any] = {"lift_dim": None, "read_out": "lda"}


class FrozenAnalytic:
    """Frozen backbone and ``AnalyticClassifier``. Source: McDonnell et al. 2023 (RanPAC without adaptation)."""

    def __init__(self, name: str, context: MethodContext, settings: AnalyticSettings) -> None:
        self.name = name
        self._context = context
        device = next(context.backbone.parameters()).device
        self.classifier = AnalyticClassifier(
            context.backbone.dim, settings=settings, space_name="frozen", device=device
        )

    def learn(self, session: Session) -> None:
        rows = self._context.material.rows(session.train)
        self.classifier.learn(self._context.embeddings()[rows], self._context.material.labels_of_rows(rows))

    def scores(self, rows: NDArray[np.int64]) -> tuple[tuple[str, ...], NDArray[np.float64]]:
        return self.classifier.scores(self._context.embeddings()[rows])

    def figures(self) -> dict[str, Any]:
        return {
            "memory_bytes": self.classifier.memory_bytes,
            "statistics_sha256": self.classifier.statistics.sha256,
            "settings": asdict(self.classifier.settings),
        }


def analytic_kind(name: str, defaults: Mapping[str, Any]) -> MethodKind:
    """A row of the table for a read-out of the statistics."""

    def build(context: MethodContext) -> FrozenAnalytic:
        return FrozenAnalytic(name, context, settings_from(AnalyticSettings, context.settings, defaults))

    def fit(words: Mapping[str, str], question: BudgetQuestion) -> dict[str, str] | None:
        settings = settings_from(AnalyticSettings, words, defaults)
        wanted = settings.lift_dim
        dims = [wanted, *(d for d in LIFTS if wanted is not None and question.dim < d < wanted), None]
        for dim in dims:
            if statistics_bytes(dim or question.dim, question.n_classes) <= question.n_bytes:
                return dict(words) if dim == wanted else {**words, "lift_dim": str(dim).lower()}
        return None

    return MethodKind(name, build, keys_of(AnalyticSettings), fit, uses_embeddings=True)


def statistics_bytes(dim: int, n_classes: int) -> int:
    """Counts, sums and one triangle of the gram in float64: what ``AnalyticClassifier.memory_bytes`` will say."""
    return 8 * (n_classes + n_classes * dim + dim * (dim + 1) // 2)
