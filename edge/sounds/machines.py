"""Motors, water and air: noise with a colour, harmonics with a speed, both modulated by what turns inside."""

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
    peak_normalized,
    resonances,
    rolloff,
    soft_clipped,
    struck,
    times,
    wander,
)
from edge.sounds.voice import Voice


def engine(rng: Generator) -> Voice:
    """A combustion engine idling and being revved once: firing pulses through an exhaust."""
    idle, slope, boom = rng.uniform(18.0, 45.0), rng.uniform(0.3, 0.9), rng.uniform(90.0, 260.0)
    rev, exhaust = rng.uniform(1.2, 2.2), rng.uniform(0.1, 0.5)

    def play(rng: Generator, sample_rate: int) -> Samples:
        n = length_of(2.0, sample_rate)
        speed = idle * contour(n, (0.0, 1.0), (0.3, 1.0), (0.55, rev), (1.0, 1.05)) * rng.uniform(0.96, 1.04)
        speed *= 1.0 + 0.02 * wander(n, rng, sample_rate, 12.0)
        pulses = buzz(speed, rolloff(60, slope), sample_rate)
        air = noise(n, rng) * np.maximum(peak_normalized(pulses), 0.0)
        mix = pulses + np.float32(exhaust) * air * np.max(np.abs(pulses))
        body = resonances([boom, 3.1 * boom, 9.0 * boom], [boom, 2 * boom, 5 * boom], [1.0, 0.7, 0.3])
        return faded(filtered(mix, body, sample_rate), sample_rate, 0.05, 0.1)

    return play


def pump(rng: Generator) -> Voice:
    """A water pump: a motor's hum that labours with every stroke."""
    hum, stroke_hz, depth = rng.choice([50.0, 60.0, 100.0, 120.0]), rng.uniform(1.5, 5.0), rng.uniform(0.4, 0.9)
    amplitudes = rolloff(30, rng.uniform(0.5, 1.1)) * rng.uniform(0.3, 1.0, 30)
    wet, colour = rng.uniform(0.1, 0.5), rng.uniform(400.0, 1600.0)

    def play(rng: Generator, sample_rate: int) -> Samples:
        n = length_of(1.8, sample_rate)
        cycle = times(n, sample_rate) * stroke_hz * rng.uniform(0.98, 1.02) + rng.random()
        load = (1.0 - depth * (0.5 + 0.5 * np.cos(2.0 * np.pi * cycle))).astype(np.float32)
        motor = peak_normalized(buzz(hum * (1.0 - 0.01 * load), amplitudes, sample_rate))
        water = filtered(noise(n, rng), resonances([colour], [colour], [0.4]), sample_rate)
        return faded(load * (motor + np.float32(wet) * water), sample_rate, 0.05, 0.05)

    return play


def drill(rng: Generator) -> Voice:
    """An electric drill: spin-up, whine under load, spin-down."""
    speed, slope, grit = rng.uniform(250.0, 600.0), rng.uniform(0.3, 0.9), rng.uniform(0.1, 0.5)
    rattle_hz = rng.uniform(20.0, 60.0)

    def play(rng: Generator, sample_rate: int) -> Samples:
        n = length_of(rng.uniform(1.4, 1.8), sample_rate)
        pitch = speed * contour(n, (0.0, 0.4), (0.15, 1.0), (0.5, 0.93), (0.85, 1.0), (1.0, 0.4))
        pitch *= 1.0 + 0.015 * wander(n, rng, sample_rate, 25.0)
        rattle = 1.0 + 0.5 * np.sign(np.sin(2.0 * np.pi * rattle_hz * times(n, sample_rate)))
        whine = peak_normalized(buzz(pitch, rolloff(24, slope), sample_rate))
        chips = filtered(noise(n, rng), bands((800, -20), (3000, 0), (8000, -3)), sample_rate)
        return faded(whine + np.float32(grit) * chips * rattle.astype(np.float32), sample_rate, 0.05, 0.05)

    return play


def electric_razor(rng: Generator) -> Voice:
    """A small motor at twice the mains' frequency, all buzz, close to the ear."""
    pitch, slope, shell = rng.uniform(100.0, 135.0), rng.uniform(0.2, 0.6), rng.uniform(900.0, 3000.0)

    def play(rng: Generator, sample_rate: int) -> Samples:
        n = length_of(1.3, sample_rate)
        frequency = pitch * (1.0 + 0.01 * wander(n, rng, sample_rate, 4.0))
        body = resonances([shell, 2.2 * shell], [shell / 3, shell / 2], [1.0, 0.6])
        buzzing = filtered(buzz(frequency, rolloff(50, slope), sample_rate), body, sample_rate)
        load = (1.0 + 0.3 * wander(n, rng, sample_rate, 5.0)).astype(np.float32)
        return faded(load * peak_normalized(buzzing) + np.float32(0.03) * noise(n, rng), sample_rate, 0.02, 0.02)

    return play


def coffee_grinder(rng: Generator) -> Voice:
    """Beans cracking over a rough motor, getting finer towards the end."""
    pitch, burr = rng.uniform(110.0, 240.0), rng.uniform(1500.0, 3500.0)

    def play(rng: Generator, sample_rate: int) -> Samples:
        n = length_of(1.8, sample_rate)
        speed = pitch * contour(n, (0.0, 0.7), (0.1, 1.0), (0.8, 1.08), (1.0, 0.8))
        motor = soft_clipped(buzz(speed, rolloff(20, 0.7), sample_rate), 1.5)
        cracks = noise(n, rng) * (np.abs(noise(n, rng)) > contour(n, (0.0, 2.0), (1.0, 1.0)))
        beans = filtered(cracks.astype(np.float32), bands((500, -12), (burr, 6), (8000, -3)), sample_rate)
        return faded(np.float32(0.5) * motor + np.float32(0.8) * beans, sample_rate, 0.04, 0.06)

    return play


def vacuum_cleaner(rng: Generator) -> Voice:
    """Broad rush of air with a turbine's whine that bends when the nozzle touches the floor."""
    whine, level, rush = rng.uniform(350.0, 900.0), rng.uniform(0.15, 0.5), rng.uniform(400.0, 1500.0)

    def play(rng: Generator, sample_rate: int) -> Samples:
        n = length_of(2.0, sample_rate)
        bend = whine * (1.0 + 0.04 * wander(n, rng, sample_rate, 1.5))
        air = filtered(noise(n, rng), bands((80, -9), (rush, 0), (4 * rush, -8), (8000, -24)), sample_rate)
        return faded(np.float32(level) * buzz(bend, rolloff(6, 1.0), sample_rate) + air, sample_rate, 0.1, 0.1)

    return play


def hair_dryer(rng: Generator) -> Voice:
    """A small fan close by: bright air, and the blades' note on top."""
    blades, colour = rng.uniform(700.0, 1800.0), rng.uniform(1500.0, 4500.0)

    def play(rng: Generator, sample_rate: int) -> Samples:
        n = length_of(1.6, sample_rate)
        air = filtered(noise(n, rng), bands((150, -18), (colour, 0), (8000, -10)), sample_rate)
        note = buzz(blades * contour(n, (0.0, 0.6), (0.25, 1.0), (1.0, 1.0)), [1.0, 0.4, 0.2], sample_rate)
        swell = contour(n, (0.0, 0.2), (0.2, 1.0), (1.0, 1.0)).astype(np.float32)
        return faded(swell * (air + np.float32(0.15) * note), sample_rate, 0.05, 0.05)

    return play


def running_tap(rng: Generator) -> Voice:
    """Water into a sink: hiss of the jet and a thousand bubbles."""
    jet, sink, count = rng.uniform(2500.0, 6000.0), rng.uniform(250.0, 700.0), int(rng.integers(40, 90))

    def play(rng: Generator, sample_rate: int) -> Samples:
        n = length_of(1.6, sample_rate)
        hiss = filtered(noise(n, rng), bands((200, -15), (jet, 0), (8000, -6)), sample_rate)
        basin = filtered(noise(n, rng), resonances([sink, 2.7 * sink], [80.0, 200.0], [2.5, 1.2]), sample_rate)
        pitches = np.exp(rng.uniform(np.log(400.0), np.log(2200.0), count))
        bubbles = [
            (float(at), np.float32(rng.uniform(0.5, 1.5)) * struck(f, 1.0, 0.06, 0.06, sample_rate))
            for at, f in zip(rng.uniform(0.0, 1.55, count), pitches, strict=True)
        ]
        flow = (1.0 + 0.25 * wander(n, rng, sample_rate, 8.0)).astype(np.float32)
        return faded(flow * (hiss + basin) + layout(n, sample_rate, bubbles), sample_rate, 0.05, 0.05)

    return play


def toilet_flush(rng: Generator) -> Voice:
    """A rush that swells, gurgles and drains away."""
    pipe, gurgle_hz = rng.uniform(180.0, 500.0), rng.uniform(4.0, 9.0)

    def play(rng: Generator, sample_rate: int) -> Samples:
        n = length_of(2.6, sample_rate)
        rush = contour(n, (0.0, 0.05), (0.12, 1.0), (0.5, 0.8), (1.0, 0.1))
        gurgle = 1.0 + 0.5 * wander(n, rng, sample_rate, gurgle_hz)
        water = filtered(noise(n, rng), bands((100, -6), (700, 0), (3000, -6), (8000, -20)), sample_rate)
        drain = filtered(noise(n, rng), resonances([pipe, 2.0 * pipe], [60.0, 120.0], [3.0, 2.0]), sample_rate)
        return faded((rush * gurgle).astype(np.float32) * (water + drain), sample_rate, 0.05, 0.2)

    return play


def frying(rng: Generator) -> Voice:
    """Fat in a pan: a soft hiss full of tiny pops."""
    density, colour = rng.uniform(60.0, 250.0), rng.uniform(3000.0, 7000.0)

    def play(rng: Generator, sample_rate: int) -> Samples:
        n = length_of(1.6, sample_rate)
        pops = np.zeros(n, dtype=np.float32)
        count = int(density * 1.6)
        pops[rng.integers(0, n, count)] = rng.standard_normal(count) * rng.exponential(1.0, count)
        crackle = filtered(pops, resonances([colour, 0.4 * colour], [1200.0, 700.0], [20.0, 12.0]), sample_rate)
        hiss = filtered(noise(n, rng), bands((500, -30), (colour, 0), (8000, -6)), sample_rate)
        return faded(crackle + np.float32(0.12) * hiss, sample_rate, 0.05, 0.05)

    return play


def sawing(rng: Generator) -> Voice:
    """A hand saw: to and fro, each stroke a rasp with its own pitch."""
    stroke, teeth_hz, wood = rng.uniform(0.28, 0.5), rng.uniform(90.0, 220.0), rng.uniform(900.0, 2800.0)

    def play(rng: Generator, sample_rate: int) -> Samples:
        grains, at = [], 0.0
        for i in range(int(1.9 / stroke)):
            n = length_of(0.85 * stroke * rng.uniform(0.92, 1.05), sample_rate)
            way = contour(n, (0.0, 0.5), (0.4, 1.1 if i % 2 == 0 else 0.9), (1.0, 0.5))
            rasp = noise(n, rng) * (0.4 + np.maximum(0.0, buzz(teeth_hz * way, [1.0, 0.5, 0.3], sample_rate)))
            shaped = filtered(rasp, resonances([wood, 2.4 * wood], [wood / 2, wood], [1.0, 0.7]), sample_rate)
            loud = contour(n, (0.0, 0.1), (0.3, 1.0), (0.8, 0.8), (1.0, 0.0)).astype(np.float32)
            grains.append((at, (0.7 + 0.3 * (i % 2)) * loud * shaped))
            at += stroke * rng.uniform(0.95, 1.05)
        return layout(length_of(at + 0.05, sample_rate), sample_rate, grains)

    return play


def spray_can(rng: Generator) -> Voice:
    """Short hisses of pressurised air."""
    nozzle, count = rng.uniform(3500.0, 7000.0), int(rng.integers(1, 4))

    def play(rng: Generator, sample_rate: int) -> Samples:
        grains, at = [], 0.0
        for _ in range(count):
            n = length_of(rng.uniform(0.25, 0.4), sample_rate)
            hiss = filtered(noise(n, rng), bands((800, -36), (nozzle, 0), (8000, -3)), sample_rate)
            grains.append((at, faded(hiss, sample_rate, 0.01, 0.04)))
            at += n / sample_rate + rng.uniform(0.12, 0.2)
        return layout(length_of(at, sample_rate), sample_rate, grains)

    return play


def zip_fastener(rng: Generator) -> Voice:
    """Teeth passing faster and faster: a rasp whose pitch climbs."""
    teeth, climb, colour = rng.uniform(60.0, 140.0), rng.uniform(1.8, 4.0), rng.uniform(2500.0, 5500.0)

    def play(rng: Generator, sample_rate: int) -> Samples:
        n = length_of(rng.uniform(0.5, 0.8), sample_rate)
        rate = teeth * contour(n, (0.0, 1.0), (0.8, climb), (1.0, climb * 0.9))
        clicks = np.maximum(0.0, buzz(rate, rolloff(30, 0.2), sample_rate))
        rasp = clicks * (0.5 + np.abs(noise(n, rng)))
        return faded(filtered(rasp, resonances([colour], [colour / 2], [1.0]), sample_rate), sample_rate, 0.02, 0.01)

    return play


def paper_crumpling(rng: Generator) -> Voice:
    """Irregular crackles in the grip of a hand."""
    stiffness, grip_hz = rng.uniform(1500.0, 5000.0), rng.uniform(2.0, 6.0)

    def play(rng: Generator, sample_rate: int) -> Samples:
        n = length_of(1.3, sample_rate)
        grip = np.maximum(0.0, wander(n, rng, sample_rate, grip_hz)) ** 2
        crackle = noise(n, rng) ** 3 * (rng.random(n) < 0.03 + 0.1 * grip)
        sheet = resonances([stiffness, 2.0 * stiffness], [stiffness / 2, stiffness], [1.0, 0.6])
        return faded(filtered((crackle * (0.1 + grip)).astype(np.float32), sheet, sample_rate), sample_rate, 0.02, 0.05)

    return play


def helicopter(rng: Generator) -> Voice:
    """Blades beating the air overhead."""
    beat_hz, body, sharpness = rng.uniform(9.0, 20.0), rng.uniform(70.0, 200.0), rng.uniform(2.0, 8.0)

    def play(rng: Generator, sample_rate: int) -> Samples:
        n = length_of(2.2, sample_rate)
        cycle = times(n, sample_rate) * beat_hz * rng.uniform(0.98, 1.02)
        chop = np.maximum(0.0, np.sin(2.0 * np.pi * cycle)) ** sharpness
        air = filtered(noise(n, rng), bands((body / 2, -6), (body, 0), (2000, -22), (8000, -40)), sample_rate)
        turbine = buzz(np.full(n, beat_hz * 30.0), rolloff(10, 1.0), sample_rate)
        return faded((0.1 + chop).astype(np.float32) * air + np.float32(0.04) * turbine, sample_rate, 0.1, 0.1)

    return play
