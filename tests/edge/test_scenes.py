"""Laws of the synthesiser: finite, bounded, deterministic, and things stay themselves."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge.errors import MisuseError
from edge.scenes import (
    BACKGROUNDS,
    SOUNDS,
    TEN_TEST_SOUNDS,
    Instrument,
    background,
    impulse_response,
    make_scene,
    mix_at_snr,
    scene_from_clips,
)
from edge.sounds.blocks import buzz, struck, tone
from edge.sounds.rooms import rms

RATE = 16_000
names = st.sampled_from(sorted(SOUNDS))
seeds = st.integers(0, 2**32 - 1)


def spectrum(x: NDArray[np.float32]) -> NDArray[np.float64]:
    """Unit vector of the log energy in 40 log-spaced bands."""
    power = np.abs(np.fft.rfft(x, 4 * RATE)) ** 2
    edges = np.geomspace(60.0, 7900.0, 41) * 4
    bands = np.add.reduceat(power, edges.astype(int))[:40]
    level = np.log10(bands / bands.sum() + 1e-4)
    return np.asarray((level - level.mean()) / np.linalg.norm(level - level.mean()))


def examples_of(thing: Instrument, n: int, seed: int) -> list[NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    return [thing.example(rng, RATE) for _ in range(n)]


def test_the_catalogue_is_broad() -> None:
    kinds = {recipe.kind for recipe in SOUNDS.values()}
    assert len(SOUNDS) >= 50
    assert kinds == {"tonal", "impulsive", "machine", "living"}
    assert len(set(TEN_TEST_SOUNDS)) == 10 and set(TEN_TEST_SOUNDS) <= set(SOUNDS)
    assert {SOUNDS[name].kind for name in TEN_TEST_SOUNDS} == {"tonal", "impulsive"}


@pytest.mark.parametrize("name", sorted(SOUNDS))
@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
def test_every_sound_is_finite_bounded_and_audible(name: str, rate: int) -> None:
    rng = np.random.default_rng(sum(name.encode()))
    for _ in range(3):
        x = SOUNDS[name].instance(rng).example(rng, rate)
        assert x.dtype == np.float32 and x.ndim == 1
        assert 0.299 <= len(x) / rate <= 3.001
        assert np.isfinite(x).all()
        assert 0.39 <= np.max(np.abs(x)) <= 0.91
        assert rms(x) > 0.004


@given(names, seeds, st.sampled_from([8_000, 16_000, 22_050, 48_000]))
def test_the_same_generator_gives_the_same_samples(name: str, seed: int, rate: int) -> None:
    first, second = (SOUNDS[name].instance(rng).example(rng, rate) for rng in map(np.random.default_rng, (seed, seed)))
    assert first.tobytes() == second.tobytes()


@given(names, seeds)
@settings(max_examples=25)
def test_examples_of_one_thing_vary(name: str, seed: int) -> None:
    one, other = examples_of(SOUNDS[name].instance(np.random.default_rng(seed)), 2, seed)
    assert one.tobytes() != other.tobytes()


def spread(name: str) -> tuple[float, float]:
    """Return the mean spectral distance within a thing and between things of one kind."""
    rng = np.random.default_rng(5)
    things = [SOUNDS[name].instance(rng) for _ in range(8)]
    heard = np.array([[spectrum(x) for x in examples_of(thing, 4, i)] for i, thing in enumerate(things)])
    likeness = np.einsum("iad,jbd->ijab", heard, heard)
    same = np.mean([likeness[i, i][np.triu_indices(4, 1)].mean() for i in range(8)])
    different = np.mean([likeness[i, j].mean() for i in range(8) for j in range(8) if i != j])
    return float(1.0 - same), float(1.0 - different)


@pytest.mark.parametrize("name", sorted(SOUNDS))
def test_things_differ_more_between_than_within(name: str) -> None:
    within, between = spread(name)
    assert between > 1.5 * within, (within, between)


def test_kinds_can_be_told_apart_by_their_spectrum_alone() -> None:
    """A nearest-mean rule on one spectrum per sound already finds the thing far above chance."""
    rng = np.random.default_rng(9)
    things = [SOUNDS[name].instance(rng) for name in sorted(SOUNDS)]
    means = np.array([np.mean([spectrum(x) for x in examples_of(t, 3, 1)], axis=0) for t in things])
    right = [int(np.argmax(means @ spectrum(examples_of(t, 1, 77)[0]))) == i for i, t in enumerate(things)]
    assert np.mean(right) > 0.8


def test_struck_equals_the_sum_of_damped_sines() -> None:
    f, a, d = np.array([440.0, 1234.5, 3000.0]), np.array([1.0, 0.5, 0.25]), np.array([0.5, 0.2, 1.0])
    t = np.arange(9_001) / RATE
    wanted = (a * np.sin(2.0 * np.pi * np.outer(t, f)) * 1000.0 ** (-np.outer(t, 1.0 / d))).sum(axis=1)
    assert np.max(np.abs(struck(f, a, d, 9_001 / RATE, RATE) - wanted)) < 1e-6


def test_nothing_folds_back_at_the_nyquist_frequency() -> None:
    assert not struck([9_000.0], 1.0, 1.0, 0.5, RATE).any()
    square = buzz(np.full(RATE, 3_000.0), 1.0 / np.arange(1, 30), RATE)
    power = np.abs(np.fft.rfft(square * np.hanning(RATE))) ** 2
    harmonic = np.zeros(len(power), dtype=bool)
    for k in (1, 2):
        harmonic[3_000 * k - 40 : 3_000 * k + 40] = True
    assert power[~harmonic].sum() < 1e-4 * power.sum()


def test_tone_has_the_frequency_asked_for() -> None:
    power = np.abs(np.fft.rfft(tone(np.full(RATE, 1_000.0), RATE)))
    assert int(np.argmax(power)) == 1_000


@pytest.mark.parametrize("kind", BACKGROUNDS)
def test_backgrounds_are_steady_and_bounded(kind: str) -> None:
    x = background(kind, 6.0, np.random.default_rng(2), RATE)
    assert len(x) == 6 * RATE and x.dtype == np.float32
    assert np.isfinite(x).all() and np.max(np.abs(x)) <= 0.9001
    seconds = np.sqrt(np.mean(np.square(x.reshape(6, -1)), axis=1))
    assert seconds.min() > 0.1 * seconds.max()
    assert x.tobytes() == background(kind, 6.0, np.random.default_rng(2), RATE).tobytes()


def test_an_unknown_background_is_refused_with_the_known_ones() -> None:
    with pytest.raises(MisuseError, match="fan, hum"):
        background("opera", 1.0, np.random.default_rng(0), RATE)


@given(seeds, st.floats(0.05, 1.5))
@settings(max_examples=15)
def test_a_room_decays_by_sixty_decibels_in_its_time(seed: int, seconds: float) -> None:
    response = impulse_response(np.random.default_rng(seed), RATE, seconds)
    assert np.isfinite(response).all() and np.sum(np.square(response, dtype=np.float64)) == pytest.approx(1.0, rel=1e-3)
    assert int(np.argmax(np.abs(response))) == 0
    n = len(response)
    early, late = rms(response[n // 8 : n // 4]), rms(response[-n // 8 :])
    assert late < early / 30.0


@given(seeds, st.floats(-20.0, 40.0))
@settings(max_examples=20)
def test_mixing_keeps_the_ratio_asked_for_and_stays_bounded(seed: int, snr_db: float) -> None:
    rng = np.random.default_rng(seed)
    sound, other = (0.3 * rng.standard_normal(RATE).astype(np.float32) for _ in range(2))
    sound = sound / np.float32(max(1.0, np.max(np.abs(sound))))
    mixed = mix_at_snr(sound, other, snr_db)
    assert np.max(np.abs(mixed)) <= 1.0 + 1e-6
    basis = np.stack([sound, other]).astype(np.float64).T
    a, b = np.linalg.lstsq(basis, mixed.astype(np.float64), rcond=None)[0]
    assert 20.0 * np.log10(a * rms(sound) / (b * rms(other))) == pytest.approx(snr_db, abs=0.05)


def test_mixing_with_silence_changes_nothing_and_lengths_must_agree() -> None:
    x = np.full(100, 0.5, dtype=np.float32)
    assert np.array_equal(mix_at_snr(x, np.zeros_like(x), 10.0), x)
    with pytest.raises(MisuseError, match="cut them to one length"):
        mix_at_snr(x, x[:50], 0.0)


@given(seeds, st.integers(0, 3), st.integers(0, 3), st.sampled_from([None, *BACKGROUNDS]))
@settings(max_examples=15)
def test_a_scene_tells_the_truth(seed: int, n_known: int, n_unknown: int, kind: str | None) -> None:
    rng = np.random.default_rng(seed)
    chosen = [SOUNDS[name].instance(rng) for name in rng.permutation(sorted(SOUNDS))[: n_known + n_unknown]]
    known, unknown = chosen[:n_known], chosen[n_known:]
    scene = make_scene(rng, RATE, known, unknown, background_kind=kind, snr_db=40.0)
    assert np.isfinite(scene.samples).all() and np.max(np.abs(scene.samples), initial=0.0) <= 1.0
    labels = [occurrence.label for occurrence in scene.truth]
    assert sorted(x for x in labels if x is not None) == sorted(2 * [thing.name for thing in known])
    assert labels.count(None) == n_unknown
    edges = [0, *(edge for o in scene.truth for edge in (o.onset, o.offset)), len(scene.samples)]
    assert edges == sorted(edges)
    for occurrence in scene.truth:
        inside = rms(scene.samples[occurrence.onset : occurrence.offset])
        before = rms(scene.samples[occurrence.onset - RATE // 10 : occurrence.onset])
        assert inside > 2.0 * before


def test_a_scene_of_nothing_is_background_alone() -> None:
    scene = scene_from_clips(np.random.default_rng(0), RATE, [])
    assert scene.truth == () and rms(scene.samples) > 0.0 and scene.seconds > 1.0


def test_importing_the_synthesiser_brings_numpy_only() -> None:
    script = (
        "import sys, edge.scenes;"
        "heavy = {'scipy', 'torch', 'soundfile', 'soxr', 'onnxruntime', 'rich', 'sounddevice'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
