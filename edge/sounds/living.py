"""Throats: people and animals. A buzzing source, and formants that shape it (source-filter model, Fant 1960)."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from edge.sounds.blocks import (
    Samples,
    bands,
    burst,
    buzz,
    contour,
    faded,
    filtered,
    layout,
    length_of,
    noise,
    peak_normalized,
    resonances,
    rolloff,
    soft_clipped,
    times,
    tone,
    wander,
)
from edge.sounds.voice import Voice

_VOWELS = {
    "a": (730.0, 1090.0, 2440.0),
    "e": (530.0, 1840.0, 2480.0),
    "i": (270.0, 2290.0, 3010.0),
    "o": (570.0, 840.0, 2410.0),
    "u": (300.0, 870.0, 2240.0),
    "er": (490.0, 1350.0, 1690.0),
}
"""First three formants of English vowels, Hz, men. Source: Peterson and Barney 1952."""


def _throat(
    pitch: np.ndarray,
    vowels: tuple[str, str],
    rng: Generator,
    sample_rate: int,
    *,
    tract: float,
    slope: float = 1.2,
    breath: float = 0.03,
    hoarse: float = 0.0,
) -> Samples:
    """Voice along a pitch contour (n,) while the mouth moves from one vowel to another; tract > 1 is a small head."""
    n = len(pitch)
    source = peak_normalized(buzz(pitch, rolloff(60, slope), sample_rate))
    if hoarse > 0.0:
        source = soft_clipped(source * (1.0 + hoarse * noise(n, rng)), 1.0 + 3.0 * hoarse)
    source = source + np.float32(breath) * noise(n, rng)
    shapes = []
    for vowel in vowels:
        formants = [tract * f for f in _VOWELS[vowel]]
        shapes.append(filtered(source, resonances(formants, [80.0, 110.0, 170.0], [1.0, 0.5, 0.25]), sample_rate))
    glide = contour(n, (0.0, 0.0), (0.3, 0.1), (0.8, 1.0), (1.0, 1.0)).astype(np.float32)
    return (1.0 - glide) * shapes[0] + glide * shapes[1]


def spoken_word(rng: Generator) -> Voice:
    """Two or three syllables that nobody has heard before, said by one speaker."""
    pitch = np.exp(rng.uniform(np.log(85.0), np.log(280.0)))
    tract, count = 0.9 + 0.35 * (pitch - 85.0) / 195.0, int(rng.integers(2, 4))
    names = sorted(_VOWELS)
    syllables = [
        (names[rng.integers(6)], names[rng.integers(6)], rng.integers(3), rng.uniform(0.8, 1.25)) for _ in range(count)
    ]
    hiss = rng.uniform(2500.0, 6000.0, count)

    def play(rng: Generator, sample_rate: int) -> Samples:
        pace, tune, at, grains = rng.uniform(0.9, 1.15), rng.uniform(0.94, 1.06), 0.0, []
        for (first, last, manner, height), colour in zip(syllables, hiss, strict=True):
            if manner > 0:
                length = (0.03 if manner == 1 else 0.1) * pace
                n = length_of(length, sample_rate)
                consonant = filtered(noise(n, rng), resonances([colour], [colour / 3], [0.25]), sample_rate)
                grains.append((at, faded(consonant, sample_rate, 0.002 if manner == 1 else 0.03, 0.01)))
                at += length
            n = length_of(rng.uniform(0.16, 0.2) * pace, sample_rate)
            melody = pitch * tune * height * contour(n, (0.0, 1.04), (0.3, 1.0), (1.0, 0.88))
            melody *= 1.0 + 0.01 * wander(n, rng, sample_rate, 30.0)
            vowel = _throat(melody, (first, last), rng, sample_rate, tract=tract)
            grains.append((at, faded(peak_normalized(vowel), sample_rate, 0.015, 0.04)))
            at += 0.95 * n / sample_rate
        return layout(length_of(at + 0.05, sample_rate), sample_rate, grains)

    return play


def baby_cry(rng: Generator) -> Voice:
    """Rising and falling wails with a breath between."""
    pitch, tract, wail_s = rng.uniform(350.0, 560.0), rng.uniform(1.35, 1.6), rng.uniform(0.6, 0.9)
    hoarse = rng.uniform(0.0, 0.25)

    def play(rng: Generator, sample_rate: int) -> Samples:
        grains, at = [], 0.0
        for _ in range(2):
            n = length_of(wail_s * rng.uniform(0.85, 1.15), sample_rate)
            melody = pitch * rng.uniform(0.95, 1.05) * contour(n, (0.0, 0.8), (0.25, 1.15), (0.7, 1.1), (1.0, 0.75))
            melody *= 1.0 + 0.015 * np.sin(2.0 * np.pi * 7.0 * times(n, sample_rate))
            wail = _throat(melody, ("a", "e"), rng, sample_rate, tract=tract, slope=0.8, hoarse=hoarse)
            grains.append((at, faded(peak_normalized(wail), sample_rate, 0.06, 0.12)))
            at += n / sample_rate + rng.uniform(0.15, 0.25)
        return layout(length_of(at, sample_rate), sample_rate, grains)

    return play


def laughter(rng: Generator) -> Voice:
    """Ha-ha-ha: breath and vowel in quick turn, the pitch stepping down."""
    pitch = np.exp(rng.uniform(np.log(130.0), np.log(420.0)))
    vowel, beat = ("a", "e", "er")[rng.integers(3)], rng.uniform(0.16, 0.24)

    def play(rng: Generator, sample_rate: int) -> Samples:
        grains = []
        for i in range(6):
            n = length_of(0.55 * beat, sample_rate)
            fall = pitch * rng.uniform(0.94, 1.06) * (1.15 - 0.05 * i) * contour(n, (0.0, 1.1), (1.0, 0.9))
            ha = _throat(fall, (vowel, vowel), rng, sample_rate, tract=0.95 + pitch / 1500.0, breath=0.15)
            air = filtered(
                noise(length_of(0.3 * beat, sample_rate), rng), bands((400, -12), (1500, 0), (6000, -12)), sample_rate
            )
            at = i * beat * rng.uniform(0.97, 1.03)
            grains += [
                (at, np.float32(0.08) * faded(air, sample_rate)),
                (at + 0.3 * beat, faded(peak_normalized(ha, 1.0 - 0.08 * i), sample_rate, 0.01, 0.03)),
            ]
        return layout(length_of(6.2 * beat, sample_rate), sample_rate, grains)

    return play


def cough(rng: Generator) -> Voice:
    """One or two explosions of breath, each with a short voiced end."""
    chest, count, pitch = rng.uniform(350.0, 800.0), int(rng.integers(1, 3)), rng.uniform(110.0, 260.0)

    def play(rng: Generator, sample_rate: int) -> Samples:
        grains = []
        for i in range(count):
            n = length_of(0.35, sample_rate)
            blast = filtered(
                burst(n, rng, sample_rate, attack=0.008, decay=0.3),
                resonances([chest, 2.4 * chest, 4.5 * chest], [chest, chest, 2 * chest], [1.0, 0.8, 0.5]),
                sample_rate,
            )
            voice = _throat(
                pitch * contour(n, (0.0, 1.3), (1.0, 0.8)), ("er", "a"), rng, sample_rate, tract=1.0, hoarse=0.5
            )
            voiced = contour(n, (0.0, 0.0), (0.25, 0.0), (0.4, 1.0), (1.0, 0.0)).astype(np.float32)
            both = peak_normalized(blast) + np.float32(0.35) * voiced * peak_normalized(voice)
            grains.append((i * 0.4 * rng.uniform(0.92, 1.1), both))
        return layout(length_of(0.4 * count + 0.1, sample_rate), sample_rate, grains)

    return play


def snoring(rng: Generator) -> Voice:
    """A slow breath that flutters."""
    flutter, nose = rng.uniform(22.0, 60.0), rng.uniform(250.0, 700.0)

    def play(rng: Generator, sample_rate: int) -> Samples:
        n = length_of(rng.uniform(1.3, 1.7), sample_rate)
        rate = (
            flutter * contour(n, (0.0, 0.9), (0.6, 1.1), (1.0, 0.8)) * (1.0 + 0.05 * wander(n, rng, sample_rate, 20.0))
        )
        flap = np.maximum(0.0, buzz(rate, rolloff(20, 0.5), sample_rate)) * (0.6 + 0.4 * np.abs(noise(n, rng)))
        shape = resonances([nose, 2.6 * nose, 5.0 * nose], [120.0, 250.0, 500.0], [1.0, 0.5, 0.2])
        swell = contour(n, (0.0, 0.0), (0.4, 0.7), (0.7, 1.0), (1.0, 0.0)).astype(np.float32)
        return swell * filtered(flap.astype(np.float32), shape, sample_rate)

    return play


def dog_bark(rng: Generator) -> Voice:
    """Two or three barks: a pitch that leaps up and falls, through a throat of this dog's size."""
    pitch = np.exp(rng.uniform(np.log(180.0), np.log(700.0)))
    tract, hoarse, gap = 0.7 + pitch / 700.0, rng.uniform(0.2, 0.8), rng.uniform(0.28, 0.5)
    count = int(rng.integers(2, 4))

    def play(rng: Generator, sample_rate: int) -> Samples:
        grains = []
        for i in range(count):
            n = length_of(rng.uniform(0.13, 0.19), sample_rate)
            leap = pitch * rng.uniform(0.94, 1.06) * contour(n, (0.0, 0.7), (0.25, 1.25), (1.0, 0.65))
            bark = _throat(leap, ("o", "a"), rng, sample_rate, tract=tract, slope=0.7, breath=0.1, hoarse=hoarse)
            grains.append((i * gap * rng.uniform(0.95, 1.05), faded(peak_normalized(bark), sample_rate, 0.012, 0.06)))
        return layout(length_of(count * gap + 0.1, sample_rate), sample_rate, grains)

    return play


def cat_meow(rng: Generator) -> Voice:
    """Mi-a-ow: a long arch of pitch while the mouth opens and closes."""
    pitch, tract = rng.uniform(380.0, 800.0), rng.uniform(1.3, 1.8)

    def play(rng: Generator, sample_rate: int) -> Samples:
        n = length_of(rng.uniform(0.6, 0.95), sample_rate)
        arch = pitch * rng.uniform(0.95, 1.05) * contour(n, (0.0, 0.8), (0.35, 1.2), (0.7, 1.05), (1.0, 0.7))
        half = n // 2
        opening = _throat(arch, ("i", "a"), rng, sample_rate, tract=tract, slope=1.0)
        closing = _throat(arch, ("a", "u"), rng, sample_rate, tract=tract, slope=1.0)
        turn = contour(n, (0.0, 0.0), (0.5, 0.0), (0.75, 1.0), (1.0, 1.0)).astype(np.float32)
        return faded((1.0 - turn) * opening + turn * closing, sample_rate, 0.08, min(0.25, half / sample_rate))

    return play


def cow_moo(rng: Generator) -> Voice:
    """Low, long, opening towards the end."""
    pitch, tract = rng.uniform(90.0, 180.0), rng.uniform(0.55, 0.8)

    def play(rng: Generator, sample_rate: int) -> Samples:
        n = length_of(rng.uniform(1.3, 1.8), sample_rate)
        melody = pitch * contour(n, (0.0, 0.85), (0.3, 1.05), (0.8, 1.1), (1.0, 0.8))
        melody *= 1.0 + 0.01 * wander(n, rng, sample_rate, 15.0)
        return faded(
            _throat(melody, ("u", "o"), rng, sample_rate, tract=tract, slope=0.9, hoarse=0.1), sample_rate, 0.1, 0.2
        )

    return play


def rooster(rng: Generator) -> Voice:
    """Cock-a-doodle-doo: three short notes and a long falling one, harsh."""
    pitch, tract, hoarse = rng.uniform(450.0, 850.0), rng.uniform(1.3, 1.8), rng.uniform(0.1, 0.4)

    def play(rng: Generator, sample_rate: int) -> Samples:
        grains, at = [], 0.0
        for length, height in ((0.13, 0.7), (0.16, 0.95), (0.2, 1.15), (0.75, 1.25)):
            n = length_of(length * rng.uniform(0.93, 1.07), sample_rate)
            note = pitch * height * contour(n, (0.0, 0.95), (0.2, 1.05), (0.7, 0.98), (1.0, 0.75))
            crow = _throat(note, ("e", "a"), rng, sample_rate, tract=tract, slope=0.6, hoarse=hoarse)
            grains.append((at, faded(peak_normalized(crow), sample_rate, 0.015, 0.04)))
            at += n / sample_rate + 0.04
        return layout(length_of(at, sample_rate), sample_rate, grains)

    return play


def crow(rng: Generator) -> Voice:
    """Two or three hoarse caws."""
    pitch, tract, count = rng.uniform(280.0, 480.0), rng.uniform(1.4, 2.0), int(rng.integers(2, 4))

    def play(rng: Generator, sample_rate: int) -> Samples:
        grains = []
        for i in range(count):
            n = length_of(rng.uniform(0.26, 0.36), sample_rate)
            caw = _throat(
                pitch * contour(n, (0.0, 0.9), (0.2, 1.05), (1.0, 0.85)),
                ("a", "a"),
                rng,
                sample_rate,
                tract=tract,
                slope=0.4,
                breath=0.2,
                hoarse=0.9,
            )
            grains.append((i * 0.5 * rng.uniform(0.95, 1.05), faded(peak_normalized(caw), sample_rate, 0.03, 0.08)))
        return layout(length_of(0.5 * count, sample_rate), sample_rate, grains)

    return play


def songbird(rng: Generator) -> Voice:
    """A phrase of chirps that this bird repeats: up, down, and a trill."""
    count = int(rng.integers(3, 6))
    starts, ends = rng.uniform(2000.0, 5500.0, count), rng.uniform(2000.0, 6500.0, count)
    lengths, trill_hz, trill = rng.uniform(0.06, 0.2, count), rng.uniform(20.0, 45.0), rng.uniform(0.0, 0.12, count)

    def play(rng: Generator, sample_rate: int) -> Samples:
        grains, at, tune = [], 0.0, rng.uniform(0.98, 1.02)
        for first, last, length, depth in zip(starts, ends, lengths, trill, strict=True):
            n = length_of(length * rng.uniform(0.92, 1.08), sample_rate)
            t = times(n, sample_rate)
            pitch = tune * contour(n, (0.0, first), (1.0, last)) * (1.0 + depth * np.sin(2.0 * np.pi * trill_hz * t))
            chirp = tone(np.minimum(pitch, 0.47 * sample_rate), sample_rate)
            grains.append((at, chirp * np.sin(np.pi * np.linspace(0.0, 1.0, n)).astype(np.float32)))
            at += length + rng.uniform(0.04, 0.07)
        phrase = layout(length_of(at, sample_rate), sample_rate, grains)
        again = at + 0.1
        return layout(len(phrase) + length_of(again, sample_rate), sample_rate, [(0.0, phrase), (again, phrase)])

    return play


def owl(rng: Generator) -> Voice:
    """Hoo, hu-hoo: soft, nearly pure, in the dark."""
    pitch = rng.uniform(280.0, 520.0)
    pattern = [(0.0, 0.35), (0.55, 0.12), (0.75, 0.5)] if rng.random() < 0.5 else [(0.0, 0.3), (0.45, 0.3)]
    vibrato = rng.uniform(0.0, 0.02)

    def play(rng: Generator, sample_rate: int) -> Samples:
        grains, tune = [], rng.uniform(0.985, 1.015)
        for at, length in pattern:
            n = length_of(length * rng.uniform(0.95, 1.05), sample_rate)
            shake = 1.0 + vibrato * np.sin(2.0 * np.pi * 9.0 * times(n, sample_rate))
            note = pitch * tune * contour(n, (0.0, 0.93), (0.3, 1.0), (1.0, 0.94)) * shake
            hoot = buzz(note, [1.0, 0.12, 0.05], sample_rate) + np.float32(0.03) * noise(n, rng)
            grains.append((at, faded(hoot, sample_rate, 0.05, 0.08)))
        return layout(length_of(1.35, sample_rate), sample_rate, grains)

    return play


def frog(rng: Generator) -> Voice:
    """Croaks: pulses in quick succession through a resonant sac."""
    rate, sac, croak_s = rng.uniform(25.0, 70.0), rng.uniform(500.0, 1700.0), rng.uniform(0.15, 0.35)

    def play(rng: Generator, sample_rate: int) -> Samples:
        grains = []
        for i in range(3):
            n = length_of(croak_s * rng.uniform(0.9, 1.1), sample_rate)
            pulses = buzz(
                rate * contour(n, (0.0, 0.85), (1.0, 1.1)) * rng.uniform(0.97, 1.03), rolloff(80, 0.1), sample_rate
            )
            croak = filtered(pulses, resonances([sac, 2.1 * sac], [90.0, 150.0], [1.0, 0.5]), sample_rate)
            grains.append((i * (croak_s + 0.2), faded(peak_normalized(croak), sample_rate, 0.03, 0.05)))
        return layout(length_of(3 * (croak_s + 0.2), sample_rate), sample_rate, grains)

    return play


def cricket(rng: Generator) -> Voice:
    """Chirps of three or four pulses of one high note, over and over."""
    pitch, pulse_hz, chirp_s = rng.uniform(2800.0, 6000.0), rng.uniform(25.0, 50.0), rng.uniform(0.25, 0.5)
    duty = rng.uniform(0.3, 0.6)

    def play(rng: Generator, sample_rate: int) -> Samples:
        n = length_of(1.8, sample_rate)
        t = times(n, sample_rate) + rng.random() * chirp_s
        pulses = np.maximum(0.0, np.sin(2.0 * np.pi * pulse_hz * t)) ** 0.5 * ((t % chirp_s) < duty * chirp_s)
        pure = tone(np.full(n, min(pitch * rng.uniform(0.99, 1.01), 0.47 * sample_rate)), sample_rate)
        return faded(pulses.astype(np.float32) * pure, sample_rate)

    return play
