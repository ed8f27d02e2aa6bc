"""The same clips as a worse microphone in a worse room would have heard them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.audio import read_audio
from edge.sounds.rooms import impulse_response, reverberated

Samples = NDArray[np.float32]
Change = Callable[[int, Samples], Samples]
REVERBERATION_SECONDS = 0.5
SNR_DB = 10.0


def gain(db: float) -> Change:
    """Louder or softer; what passes full scale is clipped, as a converter does."""
    return lambda _, x: np.clip(x * np.float32(10.0 ** (db / 20.0)), -1.0, 1.0)


def noisy_room(noises: Sequence[Path], sample_rate: int) -> Change:
    """A made-up room of 0.5 s reverberation, and a recorded noise 10 dB below the clip's loudest second.

    noises: recordings; clip i takes the (i mod n)th, from a place drawn with seed i.
    """
    recorded = [read_audio(path, sample_rate) for path in noises]

    def change(i: int, x: Samples) -> Samples:
        rng = np.random.default_rng(i)
        wet = reverberated(x, impulse_response(rng, sample_rate, REVERBERATION_SECONDS))[: len(x)]
        noise = recorded[i % len(recorded)]
        noise = np.resize(np.roll(noise, -int(rng.integers(len(noise)))), len(x))
        ratio = loudest_second(wet, sample_rate) / max(loudest_second(noise, sample_rate), 1e-9)
        mixed = wet + noise * np.float32(ratio * 10.0 ** (-SNR_DB / 20.0))
        return np.asarray(np.clip(mixed, -1.0, 1.0), dtype=np.float32)

    return change


def loudest_second(x: Samples, sample_rate: int) -> float:
    """RMS of the loudest of the seconds that x (n,) is cut into; of all of it when it is shorter."""
    seconds = [x[i : i + sample_rate] for i in range(0, max(1, len(x) - sample_rate + 1), sample_rate)]
    return max(float(np.sqrt(np.mean(np.square(s, dtype=np.float64)))) for s in seconds) if len(x) else 0.0


def conditions(noises: Sequence[Path], sample_rate: int) -> Mapping[str, Change]:
    """The changed conditions by name; each name stands for its change in the cache."""
    return {"10 dB SNR, reverberant": noisy_room(noises, sample_rate), "-20 dB": gain(-20.0), "+6 dB": gain(6.0)}
