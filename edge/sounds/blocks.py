"""Building blocks of sound synthesis: modes that ring, wave tables that buzz, noise that is shaped.

Pure functions of arrays, NumPy only. Times are seconds, frequencies Hz, samples float32 mono. Anything above the
Nyquist frequency is left out rather than folded back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray

Samples = NDArray[np.float32]
Response = Callable[[NDArray[np.float64]], NDArray[np.float64] | NDArray[np.complex128]]

_TABLE_LENGTH = 4096


def length_of(seconds: float, sample_rate: int) -> int:
    """Return the number of samples in ``seconds``, at least one."""
    return max(1, round(seconds * sample_rate))


def times(n: int, sample_rate: int) -> NDArray[np.float64]:
    """Return the time of each of n samples, (n,) seconds."""
    return np.arange(n) / sample_rate


def peak_normalized(x: Samples, peak: float = 1.0) -> Samples:
    """Scale x (n,) so that its largest magnitude is ``peak``; silence stays silence."""
    largest = float(np.max(np.abs(x), initial=0.0))
    return x if largest == 0.0 else np.asarray(x * np.float32(peak / largest))


def contour(n: int, *points: tuple[float, float]) -> NDArray[np.float64]:
    """Interpolate through points (share of the length in [0, 1], value). Returns (n,)."""
    return np.asarray(np.interp(np.linspace(0.0, 1.0, n), *np.transpose(points)))


def wander(n: int, rng: Generator, sample_rate: int, rate_hz: float) -> NDArray[np.float64]:
    """Return a smooth random walk-about in about -1..1 that turns ``rate_hz`` times a second. Returns (n,)."""
    n_knots = max(2, int(np.ceil(n / sample_rate * rate_hz)) + 2)
    turn = np.arange(n) * (rate_hz / sample_rate)
    return np.asarray(np.interp(turn, np.arange(n_knots), rng.uniform(-1.0, 1.0, n_knots)))


def struck(
    frequencies: ArrayLike, amplitudes: ArrayLike, decays: ArrayLike, seconds: float, sample_rate: int
) -> Samples:
    """Modal synthesis: a sum of decaying sines, as of a bell, a glass or a plank that was hit.

    frequencies, amplitudes, decays: (m,); a decay is the time in which a mode falls by 60 dB. Returns (n,).
    A sampled damped sine is a geometric series: two tables of about sqrt(n) and one matrix product give n values.
    Source: Adrien 1991, The missing link: modal synthesis.
    """
    f, a, d = np.broadcast_arrays(
        np.atleast_1d(np.asarray(frequencies, dtype=np.float64)),
        np.asarray(amplitudes, dtype=np.float64),
        np.asarray(decays, dtype=np.float64),
    )
    audible = f < 0.48 * sample_rate
    pole = (2j * np.pi * f[audible] - np.log(1000.0) / np.maximum(d[audible], 1e-4)) / sample_rate
    n = length_of(seconds, sample_rate)
    block = int(np.ceil(np.sqrt(n)))
    coarse = np.exp(np.outer(np.arange(block) * block, pole)) * a[audible]
    fine = np.exp(np.outer(pole, np.arange(block)))
    return np.asarray((coarse @ fine).imag.ravel()[:n], dtype=np.float32)


def tone(frequency_hz: NDArray[np.float64], sample_rate: int) -> Samples:
    """Return a sine that follows a frequency contour (n,)."""
    cycles = np.cumsum(frequency_hz) / sample_rate
    return np.sin((2.0 * np.pi * (cycles - np.floor(cycles))).astype(np.float32))


def buzz(frequency_hz: NDArray[np.float64], amplitudes: ArrayLike, sample_rate: int) -> Samples:
    """Return a harmonic sound along a frequency contour (n,); amplitudes (m,): of the harmonics 1 to m.

    One period is summed into a table once, then read at the phase of each sample. Harmonics that would pass the
    Nyquist frequency at the contour's highest point are left out. Returns (n,).
    """
    a = np.atleast_1d(np.asarray(amplitudes, dtype=np.float64))
    n_audible = int(min(len(a), 0.48 * sample_rate / float(np.max(frequency_hz)), _TABLE_LENGTH // 4))
    spectrum = np.zeros(_TABLE_LENGTH // 2 + 1, dtype=np.complex128)
    spectrum[1 : n_audible + 1] = -0.5j * _TABLE_LENGTH * a[:n_audible]
    table = np.fft.irfft(spectrum, _TABLE_LENGTH).astype(np.float32)
    cycles = np.cumsum(frequency_hz) / sample_rate
    return np.take(table, ((cycles - np.floor(cycles)) * _TABLE_LENGTH).astype(np.intp), mode="wrap")


def rolloff(n_harmonics: int, slope: float) -> NDArray[np.float64]:
    """Return amplitudes k**-slope of harmonics k = 1..n; slope 1 is a sawtooth, 2 is mellow."""
    return np.asarray(np.arange(1.0, n_harmonics + 1.0) ** -slope)


def noise(n: int, rng: Generator) -> Samples:
    """Return n samples of white noise of unit variance."""
    return rng.standard_normal(n, dtype=np.float32)


def filtered(x: NDArray[np.floating[Any]], response: Response, sample_rate: int) -> Samples:
    """Filter x (n,) by a frequency response; the end is not wrapped round to the beginning. Returns (n,)."""
    size = 1 << int(len(x) + min(len(x), sample_rate // 8)).bit_length()
    frequency = np.asarray(np.fft.rfftfreq(size, 1.0 / sample_rate), dtype=np.float64)
    spectrum = np.fft.rfft(x, size)
    return np.asarray(np.fft.irfft(spectrum * response(frequency), size)[: len(x)], dtype=np.float32)


def bands(*points: tuple[float, float]) -> Response:
    """Return a response through points (Hz, dB), straight lines over log frequency, level outside."""
    octaves, gains = np.log2([p[0] for p in points]), [p[1] for p in points]

    def response(frequency: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(10.0 ** (np.interp(np.log2(np.maximum(frequency, 1.0)), octaves, gains) / 20.0))

    return response


def resonances(centres: Sequence[float], bandwidths: Sequence[float], gains: Sequence[float]) -> Response:
    """Return parallel two-pole band-passes, each with ``gain`` at its centre: formants, or the body of a box.

    Source: Klatt 1980, Software for a cascade/parallel formant synthesizer (parallel branch, continuous form).
    """

    def response(frequency: NDArray[np.float64]) -> NDArray[np.complex128]:
        total = np.zeros(len(frequency), dtype=np.complex128)
        for i, (centre, bandwidth, gain) in enumerate(zip(centres, bandwidths, gains, strict=True)):
            damping = 1j * frequency * bandwidth
            total += (-1.0) ** i * gain * damping / (centre**2 - frequency**2 + damping + 1e-12)
        return total

    return response


def burst(n: int, rng: Generator, sample_rate: int, *, attack: float, decay: float) -> Samples:
    """Return noise that rises in ``attack`` and falls by 60 dB in ``decay`` seconds. Returns (n,)."""
    t = times(n, sample_rate)
    envelope = np.minimum(t / max(attack, 1e-5), 1.0) * np.exp(-np.log(1000.0) / decay * np.maximum(t - attack, 0.0))
    return np.asarray(noise(n, rng) * envelope, dtype=np.float32)


def layout(n: int, sample_rate: int, grains: Iterable[tuple[float, Samples]]) -> Samples:
    """Add grains into n samples, each at its own time in seconds; what sticks out at the end is cut off."""
    out = np.zeros(n, dtype=np.float32)
    for at, grain in grains:
        start = round(at * sample_rate)
        if 0 <= start < n:
            end = min(n, start + len(grain))
            out[start:end] += grain[: end - start]
    return out


def faded(x: Samples, sample_rate: int, fade_in: float = 0.003, fade_out: float = 0.01) -> Samples:
    """Fade both ends linearly (seconds), so that nothing clicks. Returns a new (n,) array."""
    t = times(len(x), sample_rate)
    ramp = np.minimum(1.0, np.minimum(t / fade_in, t[::-1] / fade_out))
    return x * ramp.astype(np.float32)


def soft_clipped(x: Samples, drive: float) -> Samples:
    """Bend the peaks of x, as a hoarse throat or a cheap loudspeaker does."""
    return np.asarray(np.tanh(peak_normalized(x) * np.float32(drive)))
