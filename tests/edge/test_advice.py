"""Advice: each kind appears when it should and stays away when it should not."""

from __future__ import annotations

import numpy as np

from edge.advice import Advice, about_class, about_level, about_likeness, about_variation
from edge.hearing import Example, hear, sounding_example
from edge.near_duplicates import mean_direction
from edge.records import Record
from tests.bundles import SpectrumEmbedder, noise, tone

EAR = SpectrumEmbedder()


def example(level: float, *, clip: bool = False) -> Example:
    sound = tone(900.0, 1.0, np.random.default_rng(0), level=level)
    return sounding_example(hear(np.clip(4.0 * sound, -1, 1) if clip else sound, EAR), {"file": "bell.wav"})


def kinds(advice: list[Advice]) -> list[str]:
    return [a.kind for a in advice]


def test_a_good_recording_gets_no_advice() -> None:
    assert about_level(example(0.3)) == []


def test_too_quiet_and_clipped() -> None:
    assert kinds([*about_level(example(0.001))]) == ["too_quiet"]
    assert "dBFS" in about_level(example(0.001))[0].message
    assert kinds([*about_level(example(1.0, clip=True))]) == ["clipped"]


def test_the_same_example_and_nearly_the_same() -> None:
    rng = np.random.default_rng(1)
    one = Record(EAR.space.sha256, "bell", hear(tone(900.0, 1.0, rng), EAR).embeddings)
    nearly = Record(EAR.space.sha256, "bell", (one.embeddings + 1).astype(np.int16))
    other = Record(EAR.space.sha256, "bell", hear(noise(1.0, rng), EAR).embeddings)
    known = {one.id: mean_direction(one)}
    assert about_likeness(["x"], [one], {}) == []
    assert kinds(about_likeness(["x"], [one], known)) == ["duplicate"]
    assert kinds(about_likeness(["x"], [nearly], known)) == ["near_duplicate"]
    assert about_likeness(["x"], [other], known) == []
    assert kinds(about_likeness(["x", "y", "z"], [one, nearly, one], {})) == ["near_duplicate", "duplicate"]


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
