"""Methods that change the backbone: PACE and its parts, fine-tuning in sequence, joint training as the upper bound."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.analytic import AnalyticClassifier, AnalyticSettings
from trainer.harness.method import MethodContext, MethodFactory
from trainer.harness.run import clip_scores
from trainer.harness.settings import keys_of, settings_from
from trainer.pace.settings import PaceSettings
from trainer.pace.stream import ClassStream
from trainer.protocols import Session

AT_END = ("joint",)
NAIVE: Mapping[str, Any] = {"first_session": "naive", "adapted_sessions": 1, "boundary_weight": 0.0}
IMPROVED: Mapping[str, Any] = {"adapted_sessions": 1, "boundary_weight": 0.0}
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "naive-fsa": NAIVE,
    "fsa-all-blocks": {**IMPROVED, "cka_threshold": None},
    "fsa": IMPROVED,
    "fsa-boundary": {"adapted_sessions": 1},
    "pace": {},
    "pace-no-boundary-loss": {"boundary_weight": 0.0},
    "pace-no-projection": {"projection": "none"},
    "pace-no-subtraction": {"subtraction": False},
    "pace-complement": {"projection": "complement"},
    "pace-all-blocks": {"cka_threshold": None},
}


class Streamed:
    """PACE, or a part of it, as a row of the table. The last session also gives the figures of a device."""

    def __init__(self, name: str, context: MethodContext, pace: PaceSettings, analytic: AnalyticSettings) -> None:
        self.name = name
        self._context = context
        self._said: list[str] = []
        self.stream = ClassStream(
            context.backbone,
            context.material.features,
            pace,
            analytic,
            name=f"{name} {context.course.order_seed} {context.seed}",
            clock=time.perf_counter,
            say=self._said.append,
        )
        self._asked: dict[int, NDArray[np.float32]] = {}

    def learn(self, session: Session) -> None:
        rows = self._context.material.rows(session.train)
        if not self.stream.adaptation.frozen:
            self._asked = {}
        labels = self._context.material.labels_of_rows(rows)
        self.stream.learn(session.number, rows, labels, n_clips=len(session.train))

    def scores(self, rows: NDArray[np.int64]) -> tuple[tuple[str, ...], NDArray[np.float64]]:
        return self.stream.classifier.scores(self._embedded(rows))

    def figures(self) -> dict[str, Any]:
        """``accuracy_mixed``: statistics over f_1 .. f_T; ``accuracy_recomputed``: under f_T, as a device has them."""
        mixed = self._accuracy(self.stream.classifier)
        recomputed = self._accuracy(self.stream.recomputed())
        found = {"accuracy_mixed": mixed, "accuracy_recomputed": recomputed, "gap": recomputed - mixed}
        return {**self.stream.figures(), **found, "said": self._said}

    def _embedded(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Embeddings of some windows; each window once, as long as the backbone stays as it is."""
        missing = np.array([r for r in dict.fromkeys(rows.tolist()) if r not in self._asked], dtype=np.int64)
        if len(missing):
            self._asked.update(zip(missing.tolist(), self.stream.embed(missing), strict=True))
        return np.stack([self._asked[r] for r in rows.tolist()]) if len(rows) else self.stream.embed(rows)

    def _accuracy(self, classifier: AnalyticClassifier) -> float:
        material = self._context.material
        known = set(classifier.statistics.labels)
        clips = [c for c in self._context.course.test if material.clips[c].label in known]
        if not clips:
            return 0.0
        rows = material.rows(clips)
        labels, scores = classifier.scores(self._embedded(rows))
        named = clip_scores(scores, material.clip[rows]).argmax(axis=1)
        return float(np.mean([labels[i] == material.clips[c].label for i, c in zip(named, clips, strict=True)]))


@dataclass(frozen=True)
class _Parts:
    """Words dealt to the two components that take them."""

    pace: PaceSettings
    analytic: AnalyticSettings


def _parts(words: Mapping[str, str], defaults: Mapping[str, Any], analytic: Mapping[str, Any]) -> _Parts:
    ours = {f.name for f in fields(AnalyticSettings)}
    return _Parts(
        settings_from(PaceSettings, {k: v for k, v in words.items() if k not in ours}, defaults),
        settings_from(AnalyticSettings, {k: v for k, v in words.items() if k in ours}, analytic),
    )


def _streamed(name: str, defaults: Mapping[str, Any], analytic: Mapping[str, Any]) -> MethodFactory:
    def build(context: MethodContext) -> Streamed:
        parts = _parts(context.settings, {**defaults, "seed": context.seed}, analytic)
        return Streamed(name, context, parts.pace, parts.analytic)

    return build


def trained_methods() -> dict[str, MethodFactory]:
    """Every method of this module, by name."""
    from trainer.harness.finetuned import film_method, joint_method, sequential_method

    lda = {"lift_dim": None, "read_out": "lda", "ridge": 256.0}
    return {
        **{name: _streamed(name, defaults, {}) for name, defaults in VARIANTS.items()},
        "fsa-lda": _streamed("fsa-lda", NAIVE, lda),
        "film-lda": film_method,
        "sequential": sequential_method,
        "joint": joint_method,
    }


def trained_settings() -> dict[str, tuple[str, ...]]:
    """Which settings each method takes."""
    keys = (*keys_of(PaceSettings), *keys_of(AnalyticSettings))
    return dict.fromkeys([*VARIANTS, "fsa-lda", "film-lda", "sequential", "joint"], keys)
