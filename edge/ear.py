"""The ear in use, which may be changed while it hears: one object that everybody asks instead of keeping its parts.

A change happens on the loop's thread between two windows. While a new ear is on trial, the one before stays at hand:
what is taught is taught to both, and the first fault puts the old one back without losing the window at hand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edge.decision import DecisionSettings
from edge.errors import BundleError
from edge.hearing import WindowEmbedder
from edge.learner import Learner
from edge.space import EmbeddingSpace

if TYPE_CHECKING:
    from edge.bundle import Bundle
    from edge.sync.trial import Trial


@dataclass(frozen=True, eq=False)
class Worn:
    """One backbone with all that belongs to it. ridge: the one that calibration prefers; None: no calibration."""

    name: str
    embedder: WindowEmbedder
    learner: Learner
    decision: DecisionSettings
    ridge: float | None = None
    bundle: Bundle | None = None

    @property
    def space(self) -> EmbeddingSpace:
        return self.embedder.space


class Ear:
    """Owned by the loop's thread; other threads may read ``worn`` and ``before`` and must take each once."""

    def __init__(self, worn: Worn) -> None:
        self.worn = worn
        self.before: Worn | None = None
        """The ear to go back to, while a trial runs."""
        self.trial: Trial | None = None
        self._followers: list[Callable[[Worn], None]] = []

    @property
    def space(self) -> EmbeddingSpace:
        return self.worn.space

    @property
    def learner(self) -> Learner:
        return self.worn.learner

    @property
    def twin(self) -> WindowEmbedder | None:
        """The other ear, to which everything is taught too while a trial runs."""
        before = self.before
        return None if before is None else before.embedder

    def follow(self, changed: Callable[[Worn], None]) -> None:
        """Have ``changed`` called on the loop's thread whenever another ear is worn."""
        self._followers.append(changed)

    def quantized(self, windows: NDArray[np.float32]) -> tuple[NDArray[np.int16], int]:
        """Embed windows of the stream. On trial, an ear that fails is taken off and the one before hears them."""
        if self.trial is not None:
            self.trial.settle()  # between two windows: none is embedded by one ear and judged by the other
        if self.trial is None:
            return self.worn.embedder.quantized(windows)
        with self.trial.window() as heard:
            try:
                heard.result = self.worn.embedder.quantized(windows)
            except BundleError as error:
                heard.fault = str(error)
        return self.worn.embedder.quantized(windows) if heard.result is None else heard.result

    def judge(self, embeddings: NDArray[np.int16]) -> tuple[tuple[str, ...], NDArray[np.float64]]:
        return self.worn.learner.judge(embeddings)

    def save_snapshot(self) -> None:
        """Keep the sums of what is worn."""
        self.worn.learner.save_snapshot()

    # ---- changes, on the loop's thread ------------------------------------------------------------------------------

    def try_on(self, new: Worn, trial: Trial) -> None:
        """Wear another ear on trial, from the next window on. What was taught meanwhile it learns now."""
        new.learner.catch_up()
        self.before, self.trial = self.worn, trial
        self._wear(new)

    def go_back(self) -> None:
        """Wear the ear before again; it knows everything that was taught meanwhile."""
        before = self.before
        assert before is not None
        before.learner.catch_up()
        if not same_cut(before.space, self.space):
            raise BundleError(
                "the new ear was taken off again, and the one before cuts its windows differently; start the listener "
                "again"
            )
        self.before = self.trial = None
        self._wear(before)

    def stay(self) -> None:
        """The trial has ended well."""
        self.before = self.trial = None
        self._tell()

    def _wear(self, worn: Worn) -> None:
        self.worn = worn
        worn.learner.journal.space = worn.space
        self._tell()

    def _tell(self) -> None:
        for changed in self._followers:
            changed(self.worn)


def same_cut(one: EmbeddingSpace, other: EmbeddingSpace) -> bool:
    """Whether two ears cut the same windows out of the same samples, so that one can follow the other at once."""
    lengths = ((s.sample_rate, s.window_length, s.hop_length) for s in (one, other))
    return next(lengths) == next(lengths)
