"""Recordings as windows: kept in order, read once, and never confused with others."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from edge.errors import AudioError, MisuseError
from edge.windows import carries_sound, windows_of
from tests.trainer.harness.synthetic_material import N_FEATURES, PlainBackbone, clips_of, material_of
from tests.trainer.synthetic_sets import write_set
from trainer.datasets import Clip, ClipAudio, list_clips
from trainer.harness.material import Material, gather


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Clip]:
    return list_clips(write_set(tmp_path_factory.mktemp("sets") / "sounds", n_classes=2, n_groups=3, seconds=0.5))


def test_windows_that_carry_sound_in_the_order_of_the_clips(clips: list[Clip]) -> None:
    backbone = PlainBackbone()
    material = gather(clips, backbone, hop_length=800)
    for i, clip in enumerate(clips):
        _, windows = windows_of(ClipAudio(16000)[clip], 1600, 800)
        kept = windows[carries_sound(windows)]
        rows = material.rows([i])
        expected = backbone.features(torch.from_numpy(np.array(kept)))
        assert torch.equal(material.features[torch.from_numpy(rows)], expected)
        assert set(material.labels_of_rows(rows)) == {clip.label}
    assert material.features.shape[1:] == (N_FEATURES,)
    assert list(material.clip[material.rows([2, 0])]) == sorted(material.clip[material.rows([2, 0])], reverse=True)


def test_windows_without_sound_are_left_out(tmp_path: Path) -> None:
    import soundfile

    samples = np.concatenate([np.zeros(3200), 0.3 * np.sin(0.3 * np.arange(1600)), np.zeros(3200)])
    (tmp_path / "s" / "knock").mkdir(parents=True)
    soundfile.write(tmp_path / "s" / "knock" / "1.wav", samples, 16000)
    material = gather(list_clips(tmp_path / "s"), PlainBackbone(), hop_length=1600)
    assert len(material.clip) == 1
    assert material.features.min() > 0.1


def test_silence_is_not_lost(tmp_path: Path) -> None:
    import soundfile

    (tmp_path / "s" / "none").mkdir(parents=True)
    for n in range(3):
        soundfile.write(tmp_path / "s" / "none" / f"{n}.wav", np.zeros(4000), 16000)
    assert len(gather(list_clips(tmp_path / "s"), PlainBackbone(), hop_length=1600).clip) == 6


def test_at_most_so_many_windows_from_first_to_last(clips: list[Clip]) -> None:
    whole = gather(clips, PlainBackbone(), hop_length=100)
    few = gather(clips, PlainBackbone(), hop_length=100, max_windows_per_clip=3)
    assert np.bincount(few.clip).max() == 3
    assert torch.equal(few.features[few.rows([0])[0]], whole.features[whole.rows([0])[0]])
    assert torch.equal(few.features[few.rows([0])[-1]], whole.features[whole.rows([0])[-1]])


def test_the_second_time_nothing_is_heard_and_all_is_equal(clips: list[Clip], tmp_path: Path) -> None:
    first, second = PlainBackbone(), PlainBackbone(seed=9)
    a = gather(clips, first, hop_length=800, cache=tmp_path)
    b = gather(clips, second, hop_length=800, cache=tmp_path)
    plain = gather(clips, first, hop_length=800)
    assert first.n_heard > 0
    assert second.n_heard == 0
    assert torch.equal(a.features, b.features)
    assert torch.equal(a.features, plain.features)
    assert np.array_equal(a.clip, plain.clip)
    assert a.key == b.key == plain.key
    b.features[0] = 7.0
    assert not torch.equal(gather(clips, second, hop_length=800, cache=tmp_path).features, b.features)


def test_another_hop_or_another_recording_is_heard_anew(clips: list[Clip], tmp_path: Path) -> None:
    backbone = PlainBackbone()
    key = gather(clips, backbone, hop_length=800, cache=tmp_path).key
    assert gather(clips, backbone, hop_length=400, cache=tmp_path).key != key
    status = clips[0].path.stat()
    os.utime(clips[0].path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert gather(clips, backbone, hop_length=800, cache=tmp_path).key != key


def test_a_cache_cut_short_is_made_again(clips: list[Clip], tmp_path: Path) -> None:
    whole = gather(clips, PlainBackbone(), hop_length=800, cache=tmp_path)
    expected = whole.features.clone()
    data = next(tmp_path.glob("*.f32"))
    data.write_bytes(data.read_bytes()[:-4])
    backbone = PlainBackbone()
    assert torch.equal(gather(clips, backbone, hop_length=800, cache=tmp_path).features, expected)
    assert backbone.n_heard > 0


def test_an_unreadable_clip_is_named_and_leaves_no_description(clips: list[Clip], tmp_path: Path) -> None:
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF")
    with pytest.raises(AudioError, match=r"broken\.wav"):
        gather([*clips, Clip(broken, "s", "x", "1")], PlainBackbone(), hop_length=800, cache=tmp_path / "c")
    assert not list((tmp_path / "c").glob("*.json"))


def test_windows_must_cover_the_clips_in_order() -> None:
    good = material_of(clips_of(2))
    with pytest.raises(MisuseError, match="do not cover"):
        Material(good.clips, good.features, good.clip[::-1].copy())
    with pytest.raises(MisuseError, match="do not cover"):
        Material((*good.clips, good.clips[0]), good.features, good.clip)
