"""A stream of sessions: the backbone adapts where it may, the analytic classifier learns, both can be read any time.

While the backbone still moves, old sessions are never embedded again: the classifier's statistics mix f_1 .. f_T.
That is what PACE measures. A device gets statistics computed anew under the final backbone; ``recomputed`` gives
those, so that the gap can be told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.analytic import AnalyticClassifier, AnalyticSettings
from trainer.backbones.backbone import Backbone
from trainer.pace.adaptation import Adaptation, AfterEpoch, SessionReport
from trainer.pace.embedding import embed_features
from trainer.pace.fitting import Fitting, Lesson
from trainer.pace.memory import Say
from trainer.pace.settings import PaceSettings
from trainer.parallel import World


class ClassStream:
    """What learns class after class. ``adaptation`` owns the backbone, ``classifier`` what was learnt.

    features: of every window there is (n, ...), rows of which are given to ``learn``. name: of the run, for its space.
    """

    def __init__(
        self,
        backbone: Backbone,
        features: Tensor,
        settings: PaceSettings,
        analytic: AnalyticSettings,
        *,
        name: str,
        clock: Callable[[], float],
        world: World = World(),
        say: Say = lambda words: None,
    ) -> None:
        self.adaptation = Adaptation(backbone, settings, clock=clock, world=world, say=say)
        self.classifier = AnalyticClassifier(
            backbone.dim, settings=analytic, space_name=name, device=next(backbone.parameters()).device
        )
        self._features, self._analytic, self._name, self._world, self._say = features, analytic, name, world, say
        self._learnt: list[tuple[NDArray[np.int64], list[str]]] = []

    def learn(
        self,
        number: int,
        rows: NDArray[np.int64],
        labels: Sequence[str],
        *,
        n_clips: int,
        after_epoch: AfterEpoch = lambda fitting, terms: None,
        resume: Callable[[Fitting], None] = lambda fitting: None,
    ) -> SessionReport:
        """One session. rows: of its windows. labels: the class of each. n_clips: clips that the windows are of."""
        lesson = self.lesson(number, rows, labels)
        known = set(self.classifier.statistics.labels)
        repeated = sorted(known & set(labels))
        if repeated:
            self._say(f"session {number} repeats {', '.join(repeated[:5])}; what is known of them grows")
        report = self.adaptation.learn(lesson, n_clips=n_clips, after_epoch=after_epoch, resume=resume)
        self.take_in(rows, labels)
        return report

    def lesson(self, number: int, rows: NDArray[np.int64], labels: Sequence[str]) -> Lesson:
        """The samples of a session as the training wants them."""
        names = sorted(set(labels))
        place = {name: i for i, name in enumerate(names)}
        targets = torch.tensor([place[label] for label in labels], dtype=torch.int64)
        return Lesson(number, self._features[torch.from_numpy(rows)], targets, len(names))

    def take_in(self, rows: NDArray[np.int64], labels: Sequence[str]) -> None:
        """Embed windows with the backbone as it is and add them to what the classifier knows."""
        self._learnt.append((rows, list(labels)))
        if len(rows):
            self.classifier.learn_together(self.embed(rows), list(labels), self._world)

    def embed(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Embeddings (r, dim) float32 of some windows under the backbone as it is."""
        features = self._features[torch.from_numpy(rows)]
        return embed_features(self.adaptation.current, features, world=self._world, say=self._say).numpy()

    def recomputed(self) -> AnalyticClassifier:
        """The classifier of all that was learnt, every window embedded by the backbone as it is now."""
        fresh = AnalyticClassifier(
            self.adaptation.current.dim,
            settings=self._analytic,
            space_name=f"{self._name} recomputed",
            device=self.classifier.device,
        )
        for rows, labels in self._learnt:
            if len(rows):
                fresh.learn_together(self.embed(rows), labels, self._world)
        return fresh

    def figures(self) -> dict[str, Any]:
        """What the sessions did to the backbone, for a result."""
        reports = self.adaptation.reports
        seconds: dict[str, float] = {}
        for report in reports:
            for part, value in report.seconds.items():
                seconds[part] = round(seconds.get(part, 0.0) + value, 2)
        return {
            "memory_bytes": self.classifier.memory_bytes,
            "adapted_sessions": [r.session for r in reports if r.what in ("first", "later")],
            "lowest_block": self.adaptation.lowest_block,
            "cka": [round(s, 4) for r in reports for s in r.similarities],
            "boundary_points": [r.boundary_points for r in reports if r.what in ("first", "later")],
            "adaptation_seconds": seconds,
        }
