"""Waveform augmentation: what a room, a microphone and the rest of the house do to a sound. NumPy only, seeded."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Samples = NDArray[np.float32]


def rms(x: Samples) -> float:
    """Root mean square of x (n,), never below 1e-9."""
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))) + 1e-9)


def mix(target: Samples, other: Samples, snr_db: float) -> Samples:
    """Add ``other`` to ``target``, both (n,), at the given ratio of their RMS levels."""
    return np.asarray(target + other * np.float32(rms(target) / rms(other) * 10.0 ** (-snr_db / 20.0)))


def change_speed(x: Samples, factor: float) -> Samples:
    """Resample by linear interpolation: pitch and tempo together, ``factor`` > 1 is faster. Returns (n / factor,)."""
    positions = np.arange(0.0, len(x) - 1, factor)
    return np.asarray(np.interp(positions, np.arange(len(x)), x), dtype=np.float32)


def random_filter(x: Samples, rng: Generator, *, max_db: float = 9.0) -> Samples:
    """Apply a smooth random frequency response, as another microphone or a wall would; sometimes a low or high cut."""
    n = len(x)
    spectrum = np.fft.rfft(x)
    octave = np.log2(np.maximum(np.arange(len(spectrum)), 1) / len(spectrum)) + 8.0
    knots = np.linspace(0.0, 8.0, 6)
    gain_db = np.interp(octave, knots, rng.uniform(-max_db, max_db, len(knots)))
    if rng.random() < 0.25:
        corner = rng.uniform(4.5, 7.0)
        gain_db = gain_db - 24.0 * np.maximum(0.0, octave - corner)
    if rng.random() < 0.25:
        corner = rng.uniform(1.0, 4.0)
        gain_db = gain_db - 18.0 * np.maximum(0.0, corner - octave)
    return np.fft.irfft(spectrum * 10.0 ** (gain_db / 20.0), n).astype(np.float32)


def reverberate(x: Samples, rng: Generator, sample_rate: int) -> Samples:
    """Convolve with a synthetic room: a direct path and an exponentially decaying noise tail (Moorer 1979)."""
    rt60 = rng.uniform(0.08, 0.7)
    n = int(rt60 * sample_rate)
    tail = rng.standard_normal(n) * np.exp(-6.9 * np.arange(n) / n)
    tail *= 10.0 ** (rng.uniform(-12.0, 4.0) / 20.0) / np.sqrt(np.sum(tail**2))
    tail[: int(rng.uniform(0.001, 0.02) * sample_rate)] = 0.0
    tail[0] = 1.0
    size = 1 << (len(x) + n - 1).bit_length()
    wet = np.fft.irfft(np.fft.rfft(x, size) * np.fft.rfft(tail, size), size)[: len(x)]
    return wet.astype(np.float32)


def coloured_noise(n: int, rng: Generator, *, slope: float | None = None) -> Samples:
    """Return n samples of noise of unit RMS whose amplitude falls as frequency^-slope: 0 white, 0.5 pink, 1 brown.

    slope: drawn between -0.3 and 1.2 if not given.
    """
    spectrum = np.fft.rfft(rng.standard_normal(n))
    slope = rng.uniform(-0.3, 1.2) if slope is None else slope
    frequency = np.maximum(np.arange(len(spectrum)), 1.0)
    noise = np.fft.irfft(spectrum * frequency**-slope, n)
    return np.asarray(noise / (np.std(noise) + 1e-12), dtype=np.float32)


def cut_window(x: Samples, length: int, rng: Generator) -> Samples:
    """Cut (length,) out of a clip at a random place that carries sound; a shorter clip is placed at random in zeros."""
    if len(x) <= length:
        out = np.zeros(length, dtype=np.float32)
        start = int(rng.integers(0, length - len(x) + 1))
        out[start : start + len(x)] = x
        return out
    energy = np.concatenate([[0.0], np.cumsum(np.square(x, dtype=np.float64))])
    starts = np.arange(0, len(x) - length + 1, max(1, length // 16))
    level = energy[starts + length] - energy[starts]
    loud = starts[level >= 0.02 * level.max()]
    start = int(rng.choice(loud)) + int(rng.integers(0, max(1, length // 16)))
    start = min(start, len(x) - length)
    return x[start : start + length].copy()


def set_level(x: Samples, rng: Generator) -> Samples:
    """Scale to a random peak between -40 and -1 dBFS and round to 16 bits, as a microphone would deliver it."""
    peak = float(np.max(np.abs(x)))
    if peak == 0.0:
        return x
    scaled = x * np.float32(10.0 ** (rng.uniform(-40.0, -1.0) / 20.0) / peak)
    return np.asarray(np.rint(scaled * 32767.0) / 32768.0, dtype=np.float32)
