"""Windows of features: the same places as windows of sound, the same gaps, the same loudness, the same embeddings."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge.audio_stream import AudioBlock
from edge.embedder import Embedder
from edge.errors import BundleError
from edge.feature_input import FeatureInput
from edge.hearing import Levels
from edge.recent import RecentSound
from edge.windows import Windower
from export.features import add_features, cut_at_band_powers
from firmware_bridge.feature_windows import FeatureBlock, FeatureWindower, feature_block
from tests.simulators.small_backbone import HOP_LENGTH, WINDOW_LENGTH, small_backbone, write_small_bundle

TAKES = FeatureInput("band_powers", 2, 8, 400, 160, "0" * 64)
LENGTH = 400 + 7 * 160


def frames(n: int, start: int = 0) -> NDArray[np.float32]:
    """Frames that tell their own number."""
    return np.stack([np.arange(start, start + n), np.ones(n)], axis=1).astype(np.float32)


@given(st.lists(st.tuples(st.integers(1, 30), st.booleans()), min_size=1, max_size=12), st.integers(1, 8))
@settings(max_examples=60, deadline=None)
def test_windows_lie_where_windows_of_the_same_sound_lie(cuts: list[tuple[int, bool]], frames_per_hop: int) -> None:
    """cuts: frames in a block, and whether something was lost before it."""
    windower = FeatureWindower(TAKES, frames_per_hop * 160)
    whole = [list(part) for _, part in itertools.groupby(_stretches(cuts), key=lambda item: item[0])]
    got, place = [], 0
    wanted: list[int] = []
    for stretch in whole:
        lost = 160 * 5 if place else 0
        begin = place + lost
        sound = Windower(LENGTH, frames_per_hop * 160)
        n_frames = sum(n for _, n in stretch)
        wanted += [begin + w.start_sample for w in sound.push(AudioBlock(np.zeros(n_frames * 160 + 240, "f4"), 0))]
        first = 0
        for i, (_, n) in enumerate(stretch):
            block = feature_block(frames(n, first), 160, begin + 160 * first, lost if i == 0 else 0)
            for window in windower.push(block):
                assert window.features is not None and window.heard is window.features
                at = (window.start_sample - begin) // 160
                np.testing.assert_array_equal(window.features[0], np.arange(at, at + 8))
                got.append(window.start_sample)
            first += n
            place = block.end_sample
    assert got == wanted
    assert windower.n_gaps == len(whole) - 1


def _stretches(cuts: list[tuple[int, bool]]) -> list[tuple[int, int]]:
    number, found = 0, []
    for i, (n, gap) in enumerate(cuts):
        number += gap and i > 0
        found.append((number, n))
    return found


def test_a_hop_that_is_no_whole_number_of_frames_is_refused() -> None:
    with pytest.raises(BundleError, match="multiple of 160"):
        FeatureWindower(TAKES, 200)


def test_a_block_is_as_loud_as_the_sound_was_and_silence_stays_silent(tmp_path: Path) -> None:
    from trainer.backbones.log_mel import FrontEndSettings, LogMel

    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    sine = 0.2 * np.sin(2 * np.pi * 1000.0 * np.arange(WINDOW_LENGTH) / 16_000)
    front = LogMel(FrontEndSettings())
    for sound in (sine, 0.1 * rng.standard_normal(WINDOW_LENGTH), 1e-3 * sine):
        wave = torch.tensor(sound, dtype=torch.float32)[None, None]
        spectrum = torch.nn.functional.conv1d(wave, front.kernels, stride=160)
        real, imaginary = spectrum.split(257, dim=1)
        powers = torch.matmul(front.filters, real * real + imaginary * imaginary)[0].T.numpy()
        loud = Levels.of(feature_block(powers, 160, 0, 0).samples[None])
        assert 10 * np.log10(loud.power[0] / np.mean(sound**2)) == pytest.approx(0.0, abs=1.0)
    silent = Levels.of(feature_block(np.zeros((98, 64), "f4"), 160, 0, 0).samples[None])
    assert not silent.audible()[0]


def test_an_ear_hears_the_same_through_features_and_nothing_is_kept_as_sound(tmp_path: Path) -> None:
    bundle = add_features(write_small_bundle(tmp_path / "plain"), tmp_path / "small")
    embedder = Embedder(bundle, takes_features=True)
    takes = embedder.features
    assert takes is not None
    rng = np.random.default_rng(1)
    sound = (0.1 * rng.standard_normal(3 * WINDOW_LENGTH)).astype(np.float32)
    cut = cut_at_band_powers(small_backbone(3 * WINDOW_LENGTH), "waveform", "embedding", 3 * WINDOW_LENGTH)
    session = onnxruntime.InferenceSession(cut.front, providers=["CPUExecutionProvider"])
    powers = session.run(None, {"waveform": sound[None]})[0][0].T
    windower = FeatureWindower(takes, HOP_LENGTH)
    heard = windower.push(feature_block(powers, takes.frame_hop, 0, 0))
    wanted = Windower(WINDOW_LENGTH, HOP_LENGTH).push(AudioBlock(sound, 0))
    assert [w.start_sample for w in heard] == [w.start_sample for w in wanted] and len(heard) == 9
    recent = RecentSound(bundle.space, 60.0, keep_audio=True)
    recent.hold_audio = True
    for ours, theirs in zip(heard, wanted, strict=True):
        np.testing.assert_allclose(embedder.embed(ours.heard[None]), embedder.embed(theirs.samples[None]), atol=2e-4)
        recent.push(ours, embedder.quantized(ours.heard[None])[0])
    last = recent.last(2.0)
    assert len(last) == 5 and last.audio is None and last.samples is None
    assert last.levels.carry_sound().all()


def test_a_block_of_features_is_a_block() -> None:
    block = feature_block(frames(3), 160, 480, 160)
    assert isinstance(block, FeatureBlock) and block.end_sample == 960 and block.samples.dtype == np.float32
