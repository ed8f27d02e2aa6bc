"""Where sounds happen: steady backgrounds, reverberation, and mixing at a level. NumPy only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from numpy.random import Generator

from edge.errors import MisuseError
from edge.sounds.blocks import (
    Samples,
    bands,
    buzz,
    filtered,
    layout,
    length_of,
    noise,
    peak_normalized,
    resonances,
    rolloff,
    wander,
)
from edge.sounds.living import spoken_word


def _fan(n: int, rng: Generator, sample_rate: int) -> Samples:
    blades = rng.uniform(60.0, 220.0) * (1.0 + 0.003 * wander(n, rng, sample_rate, 2.0))
    air = filtered(noise(n, rng), bands((60, 0), (400, -3), (2500, -20), (8000, -36)), sample_rate)
    return air + np.float32(rng.uniform(0.02, 0.15)) * buzz(blades, rolloff(8, 1.2), sample_rate)


def _rain(n: int, rng: Generator, sample_rate: int) -> Samples:
    count = int(n / sample_rate * rng.uniform(80.0, 400.0))
    drops = np.zeros(n, dtype=np.float32)
    drops[rng.integers(0, n, count)] = rng.exponential(1.0, count) * rng.choice([-1.0, 1.0], count)
    patter = filtered(drops, resonances([2200.0, 4800.0], [1500.0, 2500.0], [25.0, 20.0]), sample_rate)
    hiss = filtered(noise(n, rng), bands((200, -24), (1500, -3), (5000, 0), (8000, -3)), sample_rate)
    return patter + np.float32(0.5) * hiss


def _hum(n: int, rng: Generator, sample_rate: int) -> Samples:
    mains = float(rng.choice([50.0, 60.0]))
    amplitudes = rolloff(12, rng.uniform(0.6, 1.5)) * rng.uniform(0.2, 1.0, 12)
    steady = buzz(np.full(n, mains), amplitudes, sample_rate)
    return steady + np.float32(0.05) * filtered(noise(n, rng), bands((80, 0), (1000, -20)), sample_rate)


def _traffic(n: int, rng: Generator, sample_rate: int) -> Samples:
    road = filtered(noise(n, rng), bands((40, -6), (120, 0), (900, -8), (3000, -28), (8000, -45)), sample_rate)
    passing = 1.0 + 0.8 * np.maximum(0.0, wander(n, rng, sample_rate, 0.4))
    return road * passing.astype(np.float32)


def _murmur(n: int, rng: Generator, sample_rate: int) -> Samples:
    speakers = [spoken_word(rng) for _ in range(5)]
    words = []
    for speaker in speakers:
        at = float(rng.uniform(0.0, 0.5))
        while at < n / sample_rate:
            word = peak_normalized(speaker(rng, sample_rate), float(rng.uniform(0.3, 1.0)))
            words.append((at, word))
            at += len(word) / sample_rate + float(rng.exponential(0.3))
    return filtered(layout(n, sample_rate, words), bands((100, -6), (400, 0), (2500, -10), (8000, -30)), sample_rate)


_BACKGROUNDS: Mapping[str, Callable[[int, Generator, int], Samples]] = MappingProxyType(
    {"fan": _fan, "hum": _hum, "murmur": _murmur, "rain": _rain, "traffic": _traffic}
)
BACKGROUNDS: tuple[str, ...] = tuple(_BACKGROUNDS)
"""Kinds of background that ``background`` makes."""


def rms(x: Samples) -> float:
    """Return the root mean square of x (n,); 0 for no samples."""
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64)))) if len(x) else 0.0


def background(kind: str, seconds: float, rng: Generator, sample_rate: int) -> Samples:
    """Return ``seconds`` of a steady background, (n,) float32 with peak 0.9. Raises MisuseError for an unknown kind."""
    if kind not in _BACKGROUNDS:
        raise MisuseError(f"there is no background {kind!r}; choose one of {', '.join(BACKGROUNDS)}")
    return peak_normalized(_BACKGROUNDS[kind](length_of(seconds, sample_rate), rng, sample_rate), 0.9)


def impulse_response(rng: Generator, sample_rate: int, seconds: float) -> Samples:
    """Return the response of a made-up room: direct sound, a few early echoes, a tail that falls 60 dB in ``seconds``.

    The highs die first. Returns (n,) float32 with unit energy and its direct sound at sample 0.
    Source: Moorer 1979, About this reverberation business (exponentially decaying noise).
    """
    n = length_of(seconds, sample_rate)
    t = np.arange(n) / sample_rate
    response = np.zeros(n, dtype=np.float32)
    for band, share in (((100, 0), (1200, 0), (2400, -40)), 1.0), (((1200, -40), (2400, 0), (8000, 0)), 0.55):
        decay = np.exp(-np.log(1000.0) * t / (seconds * share)).astype(np.float32)
        response += filtered(noise(n, rng), bands(*band), sample_rate) * decay
    response[: length_of(0.005, sample_rate)] = 0.0
    tail = rms(response) * np.sqrt(n)
    response *= np.float32(rng.uniform(0.25, 0.8) / max(tail, 1e-9))
    for delay in rng.uniform(0.002, 0.03, 6):
        response[min(n - 1, length_of(delay, sample_rate))] += np.float32(rng.uniform(-0.25, 0.25))
    response[0] = 1.0
    return np.asarray(response / np.float32(np.sqrt(np.sum(np.square(response, dtype=np.float64)))), dtype=np.float32)


def reverberated(x: Samples, response: Samples) -> Samples:
    """Convolve x (n,) with an impulse response (m,). Returns (n + m - 1,) float32."""
    n = len(x) + len(response) - 1
    size = 1 << (n - 1).bit_length()
    return np.fft.irfft(np.fft.rfft(x, size) * np.fft.rfft(response, size), size)[:n].astype(np.float32)


def mix_at_snr(sound: Samples, other: Samples, snr_db: float) -> Samples:
    """Add ``other`` under ``sound``, both (n,), so that the ratio of their RMS levels is ``snr_db``.

    Where the sum would pass full scale, the whole mix is turned down. Raises MisuseError when the lengths differ.
    """
    if len(sound) != len(other):
        raise MisuseError(f"the sound has {len(sound)} samples and the other {len(other)}; cut them to one length")
    level = rms(other)
    gain = 0.0 if level == 0.0 else rms(sound) / level * 10.0 ** (-snr_db / 20.0)
    mixed = sound + np.float32(gain) * other
    return peak_normalized(mixed) if float(np.max(np.abs(mixed), initial=0.0)) > 1.0 else mixed
