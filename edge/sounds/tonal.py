"""Signals that people build to be noticed: bells, alarms, horns, ringers, whistles.

Every function draws one device (its pitch, pattern and timbre) and returns the voice of that device.
"""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from edge.sounds.blocks import (
    Samples,
    bands,
    buzz,
    contour,
    faded,
    filtered,
    layout,
    length_of,
    noise,
    rolloff,
    soft_clipped,
    struck,
    times,
    tone,
    wander,
)
from edge.sounds.voice import Voice

_SEMITONE = 2.0 ** (1.0 / 12.0)


def doorbell(rng: Generator) -> Voice:
    """Two struck bars, the second lower: ding dong."""
    high = rng.uniform(480.0, 1100.0)
    low = high * _SEMITONE ** -rng.integers(3, 6)
    ratios = np.array([1.0, 2.76 * rng.uniform(0.97, 1.03), 5.4 * rng.uniform(0.95, 1.05), 2.0])
    amplitudes = np.array([1.0, rng.uniform(0.1, 0.5), rng.uniform(0.02, 0.25), rng.uniform(0.0, 0.2)])
    decay, gap = rng.uniform(0.7, 1.8), rng.uniform(0.3, 0.6)

    def play(rng: Generator, sample_rate: int) -> Samples:
        decays = decay * rng.uniform(0.95, 1.05) / np.sqrt(ratios)
        hits = rng.uniform(0.85, 1.15, (2, 4)) * amplitudes
        n = length_of(gap + 1.2, sample_rate)
        second = gap * rng.uniform(0.9, 1.1)
        return layout(
            n,
            sample_rate,
            [
                (0.0, struck(high * ratios, hits[0], decays, 1.5, sample_rate)),
                (second, struck(low * ratios, hits[1], decays, 1.2, sample_rate)),
            ],
        )

    return play


def _beeper(pitch: float, slope: float, on: float, off: float, count: int, *, warble: float = 0.0) -> Voice:
    """Return equal beeps of a piezo: an odd-harmonic tone switched on and off."""
    amplitudes = rolloff(9, slope) * (np.arange(9) % 2 == 0)

    def play(rng: Generator, sample_rate: int) -> Samples:
        n = length_of(on, sample_rate)
        frequency = pitch * (1.0 + 0.003 * rng.standard_normal() + warble * contour(n, (0.0, -1.0), (1.0, 1.0)))
        beep = faded(buzz(frequency * np.ones(n), amplitudes, sample_rate), sample_rate)
        total = length_of(count * (on + off), sample_rate)
        return layout(total, sample_rate, [(i * (on + off), beep) for i in range(count)])

    return play


def smoke_alarm(rng: Generator) -> Voice:
    """Shrill piezo near 3 kHz in groups of three."""
    return _beeper(
        rng.uniform(2600.0, 3500.0), rng.uniform(0.6, 1.6), rng.uniform(0.25, 0.45), rng.uniform(0.15, 0.3), 3
    )


def microwave_beep(rng: Generator) -> Voice:
    """A few polite beeps below 2.5 kHz."""
    return _beeper(
        rng.uniform(900.0, 2400.0),
        rng.uniform(1.2, 3.0),
        rng.uniform(0.12, 0.35),
        rng.uniform(0.1, 0.35),
        int(rng.integers(2, 5)),
    )


def alarm_clock(rng: Generator) -> Voice:
    """Rapid chirping beeps of a bedside clock."""
    return _beeper(
        rng.uniform(1500.0, 3200.0),
        rng.uniform(0.5, 1.5),
        rng.uniform(0.04, 0.08),
        rng.uniform(0.03, 0.08),
        int(rng.integers(8, 16)),
        warble=rng.uniform(0.0, 0.06),
    )


def reversing_truck(rng: Generator) -> Voice:
    """Slow, even, loud beeps through a horn loudspeaker."""
    return _beeper(
        rng.uniform(1000.0, 1500.0), rng.uniform(0.4, 0.9), rng.uniform(0.4, 0.55), rng.uniform(0.35, 0.5), 2
    )


def phone_ring(rng: Generator) -> Voice:
    """Two tones warbling fast, in one or two bursts."""
    low = rng.uniform(400.0, 1100.0)
    high, rate = low * rng.uniform(1.15, 1.4), rng.uniform(12.0, 26.0)
    amplitudes = rolloff(8, rng.uniform(0.8, 2.0))
    burst_s, pause_s = rng.uniform(0.35, 0.8), rng.uniform(0.15, 0.35)

    def play(rng: Generator, sample_rate: int) -> Samples:
        n = length_of(burst_s * rng.uniform(0.97, 1.03), sample_rate)
        switch = np.floor(times(n, sample_rate) * rate * 2.0) % 2
        ring = faded(buzz(np.where(switch > 0, high, low), amplitudes, sample_rate), sample_rate, 0.01, 0.05)
        return layout(
            length_of(2 * burst_s + pause_s, sample_rate), sample_rate, [(0.0, ring), (burst_s + pause_s, ring)]
        )

    return play


def appliance_melody(rng: Generator) -> Voice:
    """The tune with which a washing machine says that it is done: its own notes, its own rhythm."""
    scale = np.array([0, 2, 4, 5, 7, 9, 11, 12])
    notes = rng.uniform(500.0, 1000.0) * _SEMITONE ** rng.choice(scale, size=int(rng.integers(4, 8))).astype(float)
    steps = rng.choice([0.12, 0.18, 0.24, 0.36], size=len(notes))
    amplitudes, decay = rolloff(6, rng.uniform(1.0, 2.5)), rng.uniform(0.3, 1.2)

    def play(rng: Generator, sample_rate: int) -> Samples:
        tempo, start, grains = rng.uniform(0.96, 1.04), 0.0, []
        for note, step in zip(notes, steps, strict=True):
            harmonics = note * np.arange(1, 7)
            hits = amplitudes * rng.uniform(0.85, 1.15, 6)
            grains.append((start, faded(struck(harmonics, hits, decay, 0.5, sample_rate), sample_rate)))
            start += step * tempo
        return layout(length_of(start + 0.4, sample_rate), sample_rate, grains)

    return play


def siren(rng: Generator) -> Voice:
    """A pitch that wails up and down, or jumps between two notes."""
    low = rng.uniform(400.0, 800.0)
    high, rate, jumps = low * rng.uniform(1.3, 2.4), rng.uniform(0.5, 3.0), rng.random() < 0.4
    amplitudes = rolloff(14, rng.uniform(0.8, 1.6))

    def play(rng: Generator, sample_rate: int) -> Samples:
        n = length_of(rng.uniform(1.8, 2.4), sample_rate)
        cycle = (times(n, sample_rate) * rate + rng.random()) % 1.0
        height = (cycle < 0.5).astype(float) if jumps else 0.5 - 0.5 * np.cos(2.0 * np.pi * cycle)
        return faded(buzz(low * (high / low) ** height, amplitudes, sample_rate), sample_rate, 0.05, 0.1)

    return play


def car_horn(rng: Generator) -> Voice:
    """Two reeds about a third apart, rough and loud."""
    low = rng.uniform(300.0, 480.0)
    interval, amplitudes = rng.uniform(1.18, 1.29), rolloff(24, rng.uniform(0.5, 1.0))
    count = int(rng.integers(1, 3))

    def play(rng: Generator, sample_rate: int) -> Samples:
        n = length_of(rng.uniform(0.35, 0.7), sample_rate)
        rise = contour(n, (0.0, 0.96), (0.05, 1.0), (1.0, 1.0))
        both = buzz(low * rise, amplitudes, sample_rate) + buzz(low * interval * rise, amplitudes, sample_rate)
        honk = faded(soft_clipped(both, 2.0), sample_rate, 0.015, 0.04)
        pause = rng.uniform(0.1, 0.2)
        length = len(honk) / sample_rate + pause
        return layout(length_of(count * length, sample_rate), sample_rate, [(i * length, honk) for i in range(count)])

    return play


def kettle_whistle(rng: Generator) -> Voice:
    """Steam that begins to sing: a rising, slightly unsteady whistle in a hiss."""
    pitch, rise, breath = rng.uniform(1400.0, 3000.0), rng.uniform(0.05, 0.3), rng.uniform(0.02, 0.15)
    second = rng.uniform(0.1, 0.5)

    def play(rng: Generator, sample_rate: int) -> Samples:
        n = length_of(rng.uniform(1.5, 2.2), sample_rate)
        frequency = pitch * (contour(n, (0.0, 1.0 - rise), (0.5, 1.0), (1.0, 1.01)))
        frequency *= 1.0 + 0.006 * wander(n, rng, sample_rate, 18.0)
        hiss = filtered(noise(n, rng), bands((500, -40), (pitch, 0), (8000, -6)), sample_rate)
        whistle = tone(frequency, sample_rate) + np.float32(second) * tone(1.5 * frequency, sample_rate)
        loudness = contour(n, (0.0, 0.2), (0.4, 1.0), (1.0, 1.0)).astype(np.float32)
        return faded(loudness * (whistle + np.float32(breath) * hiss), sample_rate, 0.05, 0.08)

    return play


def whistling(rng: Generator) -> Voice:
    """A person whistling a call of two to four notes, each sliding into the next."""
    count = int(rng.integers(2, 5))
    notes = rng.uniform(900.0, 1600.0) * _SEMITONE ** rng.integers(-5, 8, count).astype(float)
    vibrato_hz, depth, breath = rng.uniform(4.0, 7.0), rng.uniform(0.002, 0.015), rng.uniform(0.02, 0.1)

    def play(rng: Generator, sample_rate: int) -> Samples:
        n = length_of(0.32 * count * rng.uniform(0.9, 1.1), sample_rate)
        position = np.linspace(0.0, count, n, endpoint=False)
        index = position.astype(int)
        slide = np.clip((position - index) / 0.2, 0.0, 1.0)
        frequency = notes[np.maximum(index - 1, 0)] ** (1.0 - slide) * notes[index] ** slide
        frequency *= rng.uniform(0.985, 1.015) * (
            1.0 + depth * np.sin(2.0 * np.pi * vibrato_hz * times(n, sample_rate))
        )
        loudness = (0.55 + 0.45 * np.sin(np.pi * (position - index))).astype(np.float32)
        air = filtered(noise(n, rng), bands((600, -30), (1500, 0), (3000, -12), (8000, -24)), sample_rate)
        return faded(loudness * (tone(frequency, sample_rate) + np.float32(breath) * air), sample_rate, 0.03, 0.05)

    return play


def music_box(rng: Generator) -> Voice:
    """A comb of tiny steel tongues: five to eight thin, bright notes."""
    count = int(rng.integers(5, 9))
    notes = rng.uniform(1000.0, 1800.0) * _SEMITONE ** rng.choice([0, 2, 4, 7, 9, 12, 16], count).astype(float)
    stretch, step = rng.uniform(5.6, 6.4), rng.uniform(0.14, 0.26)

    def play(rng: Generator, sample_rate: int) -> Samples:
        tempo = step * rng.uniform(0.95, 1.05)
        grains = [
            (i * tempo, struck([f, f * stretch], rng.uniform(0.8, 1.2, 2) * [1.0, 0.25], [0.9, 0.2], 0.7, sample_rate))
            for i, f in enumerate(notes)
        ]
        return faded(layout(length_of(count * tempo + 0.5, sample_rate), sample_rate, grains), sample_rate)

    return play


def dial_tones(rng: Generator) -> Voice:
    """Telephone keys: pairs of sines, one number always the same."""
    rows, columns = np.array([697.0, 770.0, 852.0, 941.0]), np.array([1209.0, 1336.0, 1477.0])
    digits = rng.integers(0, 12, int(rng.integers(4, 7)))
    on, off = rng.uniform(0.08, 0.15), rng.uniform(0.05, 0.12)

    def play(rng: Generator, sample_rate: int) -> Samples:
        n, pace = length_of(on, sample_rate), rng.uniform(0.9, 1.15)
        grains = []
        for i, digit in enumerate(digits):
            pair = struck([rows[digit // 3], columns[digit % 3]], 1.0, 60.0, n / sample_rate, sample_rate)
            grains.append((i * (on + off) * pace, faded(pair, sample_rate, 0.004, 0.004)))
        return layout(length_of(len(digits) * (on + off) * pace, sample_rate), sample_rate, grains)

    return play
