"""Things that are hit, dropped, snapped or broken: short onsets, ringing modes, hard surfaces."""

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
    resonances,
    rolloff,
    struck,
    times,
)
from edge.sounds.voice import Voice


def _rhythm(rng: Generator, gaps: np.ndarray, unevenness: float) -> list[float]:
    """Return the onsets (seconds) of hits whose gaps vary by ``unevenness`` (a share)."""
    return [0.0, *np.cumsum(gaps * rng.uniform(1.0 - unevenness, 1.0 + unevenness, len(gaps)))]


def knock(rng: Generator) -> Voice:
    """Knuckles on a door: three to five thuds of a wooden panel, in this visitor's rhythm."""
    modes = rng.uniform(90.0, 260.0) * np.array([1.0, 1.9, 3.1, 4.6, 6.9]) * rng.uniform(0.95, 1.05, 5)
    amplitudes = np.array([1.0, 0.7, 0.4, 0.25, 0.15]) * rng.uniform(0.6, 1.4, 5)
    gaps = rng.uniform(0.13, 0.3) * rng.choice([1.0, 1.0, 1.0, 2.0], int(rng.integers(2, 5)))
    decay, click = rng.uniform(0.06, 0.16), rng.uniform(0.1, 0.5)

    def play(rng: Generator, sample_rate: int) -> Samples:
        onsets = _rhythm(rng, gaps, 0.06)
        grains = []
        for at in onsets:
            thud = struck(modes, amplitudes * rng.uniform(0.85, 1.15, 5), decay, 0.2, sample_rate)
            knuckle = burst(len(thud), rng, sample_rate, attack=0.0005, decay=0.012)
            grains.append((at, np.float32(rng.uniform(0.75, 1.0)) * (thud + np.float32(click) * knuckle)))
        return layout(length_of(onsets[-1] + 0.25, sample_rate), sample_rate, grains)

    return play


def glass_clink(rng: Generator) -> Voice:
    """Two glasses touching: high, thin modes that ring."""
    modes = rng.uniform(1600.0, 3200.0) * np.array([1.0, 1.03, 2.3, 3.6, 4.1]) * rng.uniform(0.98, 1.02, 5)
    amplitudes, decay = rng.uniform(0.2, 1.0, 5), rng.uniform(0.25, 0.9)

    def play(rng: Generator, sample_rate: int) -> Samples:
        clink = struck(
            modes, amplitudes * rng.uniform(0.8, 1.2, 5), decay / np.sqrt(modes / modes[0]), 0.9, sample_rate
        )
        second = np.float32(rng.uniform(0.1, 0.4))
        return layout(len(clink), sample_rate, [(0.0, clink), (rng.uniform(0.04, 0.09), second * clink)])

    return play


def glass_breaking(rng: Generator) -> Voice:
    """A pane: a crack, then shards that fall and ring, each on its own note."""
    low, high, count = rng.uniform(1500.0, 2500.0), rng.uniform(5000.0, 7500.0), int(rng.integers(20, 45))

    def play(rng: Generator, sample_rate: int) -> Samples:
        n = length_of(1.4, sample_rate)
        crack = filtered(
            burst(n, rng, sample_rate, attack=0.001, decay=0.25), bands((300, -20), (2000, 0), (8000, 0)), sample_rate
        )
        grains = [(0.0, crack)]
        for at in rng.exponential(0.25, count):
            modes = np.exp(rng.uniform(np.log(low), np.log(high), 2))
            shard = struck(modes, [0.5, 0.3], rng.uniform(0.03, 0.2), 0.2, sample_rate)
            grains.append((float(at), np.float32(rng.uniform(0.2, 1.0) * np.exp(-1.2 * at)) * shard))
        return faded(layout(n, sample_rate, grains), sample_rate, 0.0005, 0.1)

    return play


def door_slam(rng: Generator) -> Voice:
    """A heavy door: latch click, low boom of the panel, the frame rattling after."""
    modes = rng.uniform(45.0, 95.0) * np.array([1.0, 2.2, 3.4, 5.1, 8.3]) * rng.uniform(0.95, 1.05, 5)
    decay, latch, rattle_hz = rng.uniform(0.3, 0.7), rng.uniform(0.03, 0.09), rng.uniform(15.0, 35.0)

    def play(rng: Generator, sample_rate: int) -> Samples:
        n = length_of(0.9, sample_rate)
        boom = struck(modes, np.array([1.0, 0.8, 0.5, 0.3, 0.2]) * rng.uniform(0.8, 1.2, 5), decay, 0.8, sample_rate)
        air = filtered(
            burst(n, rng, sample_rate, attack=0.004, decay=decay), bands((60, 0), (300, -3), (2500, -24)), sample_rate
        )
        shake = np.maximum(0.0, np.sin(2.0 * np.pi * rattle_hz * times(n, sample_rate))) ** 8
        frame = filtered(
            burst(n, rng, sample_rate, attack=0.05, decay=0.5), bands((500, -30), (1800, 0), (6000, -12)), sample_rate
        )
        click = burst(length_of(0.03, sample_rate), rng, sample_rate, attack=0.0005, decay=0.02)
        slam = layout(n, sample_rate, [(0.0, 0.3 * click), (latch, boom), (latch, air)])
        return slam + np.float32(0.25) * frame * shake.astype(np.float32)

    return play


def coin_drop(rng: Generator) -> Voice:
    """A coin that bounces faster and faster until it lies."""
    modes = rng.uniform(2500.0, 4200.0) * np.array([1.0, 1.52, 2.1]) * rng.uniform(0.98, 1.02, 3)
    bounce, first, decay = rng.uniform(0.6, 0.8), rng.uniform(0.2, 0.35), rng.uniform(0.1, 0.4)
    table = rng.uniform(200.0, 900.0)

    def play(rng: Generator, sample_rate: int) -> Samples:
        grains, at, gap, level = [], 0.0, first * rng.uniform(0.85, 1.15), 1.0
        while gap > 0.012 and at < 1.6:
            hit = struck(modes, rng.uniform(0.4, 1.0, 3), decay, 0.35, sample_rate)
            tap = struck([table, 2.3 * table], [0.3, 0.15], 0.03, 0.35, sample_rate)
            grains.append((at, np.float32(level) * (hit + tap)))
            at, gap, level = at + gap, gap * bounce, level * bounce
        return faded(layout(length_of(at + 0.3, sample_rate), sample_rate, grains), sample_rate, 0.0005)

    return play


def clapping(rng: Generator) -> Voice:
    """Hands: bursts of air in the cavity between two palms."""
    centre, period, count = rng.uniform(700.0, 1600.0), rng.uniform(0.2, 0.42), int(rng.integers(3, 7))

    def play(rng: Generator, sample_rate: int) -> Samples:
        onsets = _rhythm(rng, np.full(count - 1, period), 0.07)
        n = length_of(onsets[-1] + 0.15, sample_rate)
        grains = []
        for at in onsets:
            clap = burst(length_of(0.08, sample_rate), rng, sample_rate, attack=0.001, decay=0.05)
            palm = centre * rng.uniform(0.93, 1.07)
            grains.append(
                (
                    at,
                    np.float32(rng.uniform(0.7, 1.0))
                    * filtered(clap, resonances([palm, 2.6 * palm], [palm * 0.6, palm], [1.0, 0.5]), sample_rate),
                )
            )
        return layout(n, sample_rate, grains)

    return play


def footsteps(rng: Generator) -> Voice:
    """Heel and sole on this floor, in this person's pace."""
    pace, body, hardness = rng.uniform(0.42, 0.65), rng.uniform(70.0, 180.0), rng.uniform(0.1, 0.9)

    def play(rng: Generator, sample_rate: int) -> Samples:
        grains = []
        for i in range(4):
            heel = struck(body * np.array([1.0, 2.3, 4.2]), [1.0, 0.5, 0.3], 0.09, 0.12, sample_rate)
            tap = burst(len(heel), rng, sample_rate, attack=0.001, decay=0.02)
            sole = filtered(
                burst(length_of(0.12, sample_rate), rng, sample_rate, attack=0.03, decay=0.12),
                bands((300, -12), (1500, 0), (6000, -15)),
                sample_rate,
            )
            at = i * pace * rng.uniform(0.97, 1.03)
            grains += [(at, heel + np.float32(hardness) * tap), (at + 0.09, np.float32(0.3) * sole)]
        return layout(length_of(3 * pace + 0.35, sample_rate), sample_rate, grains)

    return play


def keyboard(rng: Generator) -> Voice:
    """Typing: key-down and key-up clicks in irregular, quick rhythm."""
    plate, speed, clack = rng.uniform(1500.0, 3800.0), rng.uniform(0.09, 0.18), rng.uniform(0.2, 0.8)

    def play(rng: Generator, sample_rate: int) -> Samples:
        grains, at = [], 0.0
        while at < 1.4:
            key = plate * rng.uniform(0.9, 1.1)
            click = burst(length_of(0.03, sample_rate), rng, sample_rate, attack=0.0005, decay=0.02)
            body = struck([key, 1.7 * key, 230.0], [0.6, 0.3, clack], 0.03, 0.04, sample_rate)
            level = np.float32(rng.uniform(0.5, 1.0))
            grains += [(at, level * click), (at, level * body), (at + rng.uniform(0.05, 0.08), 0.35 * level * click)]
            at += speed * rng.uniform(0.5, 1.7)
        return layout(length_of(1.5, sample_rate), sample_rate, grains)

    return play


def hammering(rng: Generator) -> Voice:
    """A hammer on a nail in a plank: metal on top, wood below, the pitch rising as the nail goes in."""
    metal, wood, period = rng.uniform(2000.0, 3800.0), rng.uniform(150.0, 380.0), rng.uniform(0.28, 0.5)

    def play(rng: Generator, sample_rate: int) -> Samples:
        grains = []
        for i in range(4):
            rise = 1.0 + 0.03 * i
            ring = struck(
                [metal * rise, 1.6 * metal * rise, wood, 2.4 * wood],
                [0.6, 0.4, 1.0, 0.5],
                [0.12, 0.07, 0.1, 0.06],
                0.25,
                sample_rate,
            )
            tap = burst(len(ring), rng, sample_rate, attack=0.0003, decay=0.01)
            grains.append((i * period * rng.uniform(0.98, 1.03), np.float32(rng.uniform(0.8, 1.0)) * (ring + tap)))
        return layout(length_of(3 * period + 0.35, sample_rate), sample_rate, grains)

    return play


def church_bell(rng: Generator) -> Voice:
    """A cast bell: hum, prime, tierce, quint, nominal and what lies above, beating slowly."""
    ratios = np.array([0.5, 1.0, 1.2, 1.5, 2.0, 2.67, 3.0, 4.0, 5.33])
    pitch = rng.uniform(180.0, 480.0)
    ratios = ratios * rng.uniform(0.99, 1.01, len(ratios))
    amplitudes = np.array([0.6, 0.8, 0.7, 0.3, 1.0, 0.4, 0.3, 0.25, 0.15]) * rng.uniform(0.6, 1.4, len(ratios))
    beat_hz = rng.uniform(0.5, 3.0)

    def play(rng: Generator, sample_rate: int) -> Samples:
        decays = 6.0 / (0.5 + ratios)
        hits = amplitudes * rng.uniform(0.88, 1.12, len(ratios))
        modes = np.concatenate([pitch * ratios, pitch * ratios + beat_hz])
        ring = struck(modes, np.concatenate([hits, 0.6 * hits]), np.tile(decays, 2), 2.4, sample_rate)
        return faded(ring, sample_rate, 0.0005, 0.3)

    return play


def dishes(rng: Generator) -> Voice:
    """Plates and cutlery being put away: a handful of ceramic and steel clatters."""
    plates = np.exp(rng.uniform(np.log(700.0), np.log(2600.0), 4))
    steel = np.exp(rng.uniform(np.log(3000.0), np.log(6500.0), 3))

    def play(rng: Generator, sample_rate: int) -> Samples:
        grains = []
        for at in np.sort(rng.uniform(0.0, 1.1, 9)):
            if rng.random() < 0.5:
                f = plates[int(rng.integers(4))]
                hit = struck(f * np.array([1.0, 1.6, 2.5]), [1.0, 0.6, 0.4], 0.15, 0.25, sample_rate)
            else:
                f = steel[int(rng.integers(3))]
                hit = struck(f * np.array([1.0, 1.3]), [0.5, 0.4], 0.25, 0.35, sample_rate)
            grains.append((float(at), np.float32(rng.uniform(0.3, 1.0)) * hit))
        return faded(layout(length_of(1.4, sample_rate), sample_rate, grains), sample_rate, 0.0005)

    return play


def balloon_pop(rng: Generator) -> Voice:
    """One sharp bang: the air of this balloon, and the answer of the small hard room it bursts in."""
    body, tail, dullness = rng.uniform(150.0, 1200.0), rng.uniform(0.2, 0.7), rng.uniform(-24.0, -3.0)
    room_modes = np.exp(rng.uniform(np.log(200.0), np.log(4000.0), 4))

    def play(rng: Generator, sample_rate: int) -> Samples:
        n = length_of(0.8, sample_rate)
        colour = bands((body / 3, -18), (body, 0), (8000, dullness))
        bang = filtered(burst(n, rng, sample_rate, attack=0.0003, decay=0.05), colour, sample_rate)
        answer = burst(n, rng, sample_rate, attack=0.01, decay=tail)
        room = filtered(answer, resonances(room_modes.tolist(), [60.0] * 4, [1.0] * 4), sample_rate)
        return bang + np.float32(0.4) * room

    return play


def clock_ticking(rng: Generator) -> Voice:
    """Tick, tock: two tiny clicks of different pitch, as regular as it gets."""
    tick = rng.uniform(1800.0, 4200.0)
    tock, period, decay = tick * rng.uniform(0.7, 0.92), rng.uniform(0.25, 0.55), rng.uniform(0.015, 0.04)

    def play(rng: Generator, sample_rate: int) -> Samples:
        grains = []
        for i in range(int(2.2 / period)):
            pitch = (tick if i % 2 == 0 else tock) * rng.uniform(0.995, 1.005)
            click = struck(pitch * np.array([1.0, 1.8, 0.35]), [1.0, 0.5, 0.4], decay, 0.06, sample_rate)
            scrape = burst(len(click), rng, sample_rate, attack=0.0003, decay=0.008)
            grains.append((i * period, click + np.float32(0.4) * scrape))
        return layout(length_of(2.2, sample_rate), sample_rate, grains)

    return play


def keys_jangling(rng: Generator) -> Voice:
    """A bunch of keys, shaken: many small bright rings."""
    modes = np.exp(rng.uniform(np.log(2800.0), np.log(7500.0), 10))
    shake = rng.uniform(0.15, 0.3)

    def play(rng: Generator, sample_rate: int) -> Samples:
        grains = []
        for i in range(int(1.3 / shake)):
            for at in i * shake + rng.exponential(0.03, 6):
                pair = modes[rng.integers(0, 10, 2)]
                ring = struck(pair, rng.uniform(0.2, 1.0, 2), rng.uniform(0.05, 0.2), 0.15, sample_rate)
                grains.append((float(at), ring))
        return faded(layout(length_of(1.5, sample_rate), sample_rate, grains), sample_rate, 0.001)

    return play


def drum(rng: Generator) -> Voice:
    """A hand drum: a skin whose pitch falls as it calms, in a pattern of its own."""
    skin, drop, slap = rng.uniform(70.0, 220.0), rng.uniform(0.15, 0.6), rng.uniform(0.1, 0.7)
    gaps = rng.choice([0.15, 0.3, 0.45], 4) * rng.uniform(0.8, 1.2)

    def play(rng: Generator, sample_rate: int) -> Samples:
        onsets, grains = _rhythm(rng, gaps, 0.04), []
        for at in onsets:
            n = length_of(0.35, sample_rate)
            falling = skin * (1.0 + drop * contour(n, (0.0, 1.0), (0.2, 0.2), (1.0, 0.0)))
            fall = np.exp(-6.9 * times(n, sample_rate) / 0.32).astype(np.float32)
            boom = fall * buzz(falling, rolloff(4, 1.8), sample_rate)
            hand = burst(n, rng, sample_rate, attack=0.0005, decay=0.03)
            grains.append((at, np.float32(rng.uniform(0.7, 1.0)) * (boom + np.float32(0.5 * slap) * hand)))
        return layout(length_of(onsets[-1] + 0.4, sample_rate), sample_rate, grains)

    return play


def water_drops(rng: Generator) -> Voice:
    """A dripping tap: each drop a short chirp of the bubble it makes."""
    bubble, period = rng.uniform(500.0, 1500.0), rng.uniform(0.25, 0.6)

    def play(rng: Generator, sample_rate: int) -> Samples:
        grains = []
        for at in _rhythm(rng, np.full(int(1.8 / period), period), 0.12):
            n = length_of(0.09, sample_rate)
            rise = bubble * rng.uniform(0.92, 1.08) * contour(n, (0.0, 1.0), (1.0, 1.35))
            fall = np.exp(-times(n, sample_rate) / 0.014).astype(np.float32)
            plop = fall * buzz(rise, [1.0, 0.05], sample_rate)
            splash = burst(n, rng, sample_rate, attack=0.0005, decay=0.01)
            grains.append((float(at), np.float32(rng.uniform(0.6, 1.0)) * (plop + np.float32(0.1) * splash)))
        return layout(length_of(2.2, sample_rate), sample_rate, grains)

    return play


def match_strike(rng: Generator) -> Voice:
    """Scratch along the box, then the flare."""
    scratch_hz, flare = rng.uniform(2500.0, 6000.0), rng.uniform(0.3, 0.9)

    def play(rng: Generator, sample_rate: int) -> Samples:
        n, m = length_of(0.22 * rng.uniform(0.85, 1.15), sample_rate), length_of(0.9, sample_rate)
        grit = np.abs(noise(n, rng)) ** 3 * np.sign(noise(n, rng))
        scratch = filtered(faded(grit, sample_rate, 0.02, 0.02), bands((800, -24), (scratch_hz, 0)), sample_rate)
        fire = filtered(
            burst(m, rng, sample_rate, attack=0.06, decay=1.1), bands((150, -6), (900, 0), (4000, -12)), sample_rate
        )
        return layout(n + m, sample_rate, [(0.0, 0.3 * scratch), (n / sample_rate, np.float32(flare) * fire)])

    return play
