"""Whether a new ear does its work, counted in sound heard: faults, slow windows, lost sound, and the canary at the end.

Time is the number of windows, never a clock: an ear that hears nothing proves nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.bundle import Bundle
from edge.errors import BundleError
from edge.hearing import WindowEmbedder
from edge.space import EmbeddingSpace, l2_normalize

MIN_CANARY_COSINE = 0.999
MAX_SLOW = 0.01
MAX_LOST = 0.01
MAX_CANARIES = 8
AGAIN_SECONDS = 10.0


@dataclass
class HeardWindow:
    """One window on trial: what came of it, or what went wrong."""

    result: tuple[NDArray[np.int16], int] | None = None
    fault: str | None = None


class Trial:
    """Owned by the loop's thread. ended: called with None when the ear stays, else with what was wrong. Called once,
    unless it answers False: then the trial goes on and is looked at again after some more sound."""

    def __init__(
        self,
        space: EmbeddingSpace,
        seconds: float,
        *,
        ended: Callable[[str | None], bool | None],
        last_check: Callable[[], str | None] = lambda: None,
        n_lost: Callable[[], int] = lambda: 0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """seconds: of heard sound. last_check: what is wrong at the end, or None. n_lost: samples the source lost."""
        self._hop_seconds = space.hop_length / space.sample_rate
        self._hop_length = space.hop_length
        self._n_wanted = max(1, round(seconds / self._hop_seconds))
        self._n_slow_allowed = max(1, int(MAX_SLOW * self._n_wanted))
        self._ended = ended
        self._last_check = last_check
        self._n_lost = n_lost
        self._lost_before = n_lost()
        self._clock = clock
        self.n_heard = 0
        self.n_slow = 0
        self._over = False

    @contextmanager
    def window(self) -> Iterator[HeardWindow]:
        """Watch one window go through the ear. After a fault, ``ended`` has been called when this is left."""
        heard = HeardWindow()
        began = self._clock()
        yield heard
        took = self._clock() - began
        self.n_heard += 1
        self.n_slow += took > self._hop_seconds
        if heard.fault is not None:
            self._end(heard.fault)

    def settle(self) -> None:
        """Between two windows: end the trial when it is decided."""
        if self._over:
            return
        if self.n_slow > self._n_slow_allowed:
            self._end(
                f"{self.n_slow} of {self.n_heard} windows took longer than the {1e3 * self._hop_seconds:.0f} ms until "
                "the next one"
            )
        elif self.n_heard >= self._n_wanted:
            lost = self._n_lost() - self._lost_before
            share = lost / (lost + self.n_heard * self._hop_length)
            self._end(f"{100 * share:.1f} % of the sound was lost" if share >= MAX_LOST else self._last_check())

    def to_json(self) -> dict[str, Any]:
        """How far it has come, in seconds of sound."""
        return {
            "heard_s": round(self.n_heard * self._hop_seconds, 3),
            "wanted_s": round(self._n_wanted * self._hop_seconds, 3),
            "n_slow": self.n_slow,
        }

    def _end(self, wrong: str | None) -> None:
        if not self._over:
            self._over = True
            if self._ended(wrong) is False:
                self._over = False
                self._n_wanted = self.n_heard + max(1, round(AGAIN_SECONDS / self._hop_seconds))


def canary_fault(bundle: Bundle, embedder: WindowEmbedder) -> str | None:
    """Compare the ear with the canary that its bundle brings; what is wrong, or None."""
    canary = bundle.canary()
    if canary is None:
        return None
    waveforms, wanted = canary[0][:MAX_CANARIES], canary[1][:MAX_CANARIES]
    try:
        got, _ = embedder.quantized(waveforms)
    except BundleError as error:
        return str(error)
    cosine = float(np.einsum("ij,ij->i", l2_normalize(got.astype(np.float32)), l2_normalize(wanted)).min(initial=1.0))
    if cosine >= MIN_CANARY_COSINE:
        return None
    return f"its canary comes out with cosine {cosine:.4f}; wanted at least {MIN_CANARY_COSINE}"
