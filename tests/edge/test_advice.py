"""Advice: each kind appears when it should and stays away when it should not."""

from __future__ import annotations

import numpy as np

from edge.advice import about_class, about_level, about_likeness, about_variation, mean_direction
from edge.hearing import Example, hear, sounding_example
from tests.bundles import SpectrumEmbedder, noise, tone

EAR = SpectrumEmbedder()


def example(level: float, *, clip: bool = False) -> Example:
    sound = tone(900.0, 1.0, np.random.default_rng(0), level=level)
    return sounding_example(hear(np.clip(4.0 * sound, -1, 1) if clip else sound, EAR), {"file": "bell.wav"})


def kinds(advice: list[object]) -> list[str]:
    return [getattr(a, "kind") for a in advice]


def test_a_good_recording_gets_no_advice() -> None:
    assert about_level(example(0.3)) == []


def test_too_quiet_and_clipped() -> None:
    assert kinds([*about_level(example(0.001))]) == ["too_quiet"]
    assert "dBFS" in about_level(example(0.001))[0].message
    assert kinds([*about_level(example(1.0, clip=True))]) == ["clipped"]


def test_the_same_example_and_nearly_the_same() -> None:
    rng = np.random.default_rng(1)
    one = hear(tone(900.0, 1.0, rng), EAR).embeddings
    other = hear(noise(1.0, rng), EAR).embeddings
    known = {"a" * 64: mean_direction(one)}
    assert about_likeness("x", one, {}, "b" * 64) == []
    assert kinds([*about_likeness("x", one, known, "a" * 64)]) == ["duplicate"]
    assert kinds([*about_likeness("x", one + 1, known, "b" * 64)]) == ["near_duplicate"]
    assert about_likeness("x", other, known, "b" * 64) == []


def test_nearly_the_same_as_another_class() -> None:
    own = np.array([20.0, 20.0])
    heard = np.array([19.0, 3.0])
    assert kinds([*about_class("x", "new", ("bell", "hum"), heard, own, threshold=5.0)]) == ["similar_class"]
    assert about_class("x", "bell", ("bell", "hum"), heard, own, threshold=5.0) == []
    assert about_class("x", "new", ("bell", "hum"), heard, own, threshold=30.0) == []
    assert about_class("x", "new", ("bell", "hum"), heard / 2.0, own, threshold=5.0) == []
    assert about_class("x", "new", (), np.zeros(0), np.zeros(0), threshold=5.0) == []


def test_a_class_that_varies_too_little() -> None:
    same = np.tile(np.eye(3, dtype=np.float32)[0], (3, 1))
    assert kinds([*about_variation("bell", same)]) == ["little_variation"]
    assert about_variation("bell", same[:2]) == []
    assert about_variation("bell", np.eye(3, dtype=np.float32)) == []
