"""From a kind of sound to one thing that makes it, and from that thing to one recording of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from edge.sounds.blocks import Samples, bands, faded, filtered, length_of, peak_normalized

Voice = Callable[[Generator, int], Samples]
"""(rng, sample_rate in Hz) -> (n,) float32: one utterance of one particular thing, at any level."""

_SHORTEST_S, _LONGEST_S = 0.3, 3.0
_CASING_HZ = (125.0, 400.0, 1200.0, 3500.0, 8000.0)


@dataclass(frozen=True)
class Instrument:
    """One particular thing: the neighbour's doorbell, this dog. Its examples differ a little, its parameters do not.

    casing_db: gains at 125 Hz to 8 kHz of the box, the wall and the distance that the thing always has around it.
    """

    name: str
    voice: Voice
    casing_db: tuple[float, ...]

    def example(self, rng: Generator, sample_rate: int) -> Samples:
        """Return one recording: (n,) float32, 0.3 to 3 s at ``sample_rate`` (Hz), peak between 0.4 and 0.9."""
        longest = length_of(_LONGEST_S, sample_rate)
        dry = self.voice(rng, sample_rate)[:longest]
        drift_db = rng.normal(0.0, 0.7, len(_CASING_HZ))
        points = zip(_CASING_HZ, np.add(self.casing_db, drift_db), strict=True)
        wet = faded(filtered(dry, bands(*points), sample_rate), sample_rate, 0.001, 0.01)
        out = np.zeros(max(len(wet), length_of(_SHORTEST_S, sample_rate)), dtype=np.float32)
        out[: len(wet)] = wet
        return peak_normalized(out, float(rng.uniform(0.4, 0.9)))


@dataclass(frozen=True)
class SoundRecipe:
    """A kind of sound; ``draw`` makes the voice of one thing of that kind."""

    name: str
    kind: str
    draw: Callable[[Generator], Voice]

    def instance(self, rng: Generator) -> Instrument:
        """Draw one thing of this kind."""
        casing_db = tuple(float(g) for g in rng.normal(0.0, 3.0, len(_CASING_HZ)))
        return Instrument(self.name, self.draw(rng), casing_db)
