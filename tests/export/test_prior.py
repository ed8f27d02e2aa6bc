"""The prior is a sum over recordings: of any order, in any split, in the bundle's own space."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge.bundle import Bundle
from edge.embedder import Embedder
from edge.errors import AudioError
from export.prior import count_recordings, prior_statistics

RATE = 16_000


def write_wav(path: Path, samples: np.ndarray) -> None:
    import soundfile

    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples.astype(np.float32), RATE, subtype="FLOAT")


def tone(frequency: float, seconds: float, gain: float = 0.3) -> np.ndarray:
    t = np.arange(int(seconds * RATE)) / RATE
    return np.asarray(gain * np.sin(2.0 * np.pi * frequency * t))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("recordings")
    quiet = 0.001 * tone(300.0, 3.0)
    write_wav(root / "clips" / "beep" / "a.wav", np.concatenate([tone(900.0, 1.0), quiet]))
    write_wav(root / "clips" / "beep" / "b.wav", tone(950.0, 2.0))
    write_wav(root / "clips" / "hum" / "a.wav", tone(120.0, 2.0))
    write_wav(root / "rooms" / "kitchen.wav", np.concatenate([tone(500.0, 2.0), quiet, np.zeros(3 * RATE)]))
    return root


def test_clips_give_what_carries_sound_and_backgrounds_give_all_but_silence(
    folders: Path, small_bundle: Bundle
) -> None:
    embedder = Embedder(small_bundle)
    clips = prior_statistics(embedder, {"toy": folders / "clips"}, {})
    assert clips.statistics.labels == ("toy/beep", "toy/hum")
    assert (clips.n_files, clips.n_windows) == (3, int(clips.statistics.n_samples))
    assert clips.seconds == pytest.approx(8.0)
    as_background = prior_statistics(embedder, {}, {"toy": folders / "clips"})
    assert as_background.n_windows == 13 + 5 + 5 > clips.n_windows
    room = prior_statistics(embedder, {}, {"room": folders / "rooms"})
    assert room.statistics.labels == ("room",)
    assert room.n_windows == 29 - 9, "windows that lie wholly in the last three seconds are digital silence"


def test_two_sets_are_the_sum_of_each(folders: Path, small_bundle: Bundle) -> None:
    embedder = Embedder(small_bundle)
    clips, rooms = {"toy": folders / "clips"}, {"room": folders / "rooms"}
    both = prior_statistics(embedder, clips, rooms)
    alone = prior_statistics(embedder, clips, {}).statistics + prior_statistics(embedder, {}, rooms).statistics
    assert both.statistics == alone
    assert both.statistics.sha256 == alone.sha256
    assert both.n_files == count_recordings(clips, rooms) == 4


def test_threads_change_no_bit(folders: Path, small_bundle: Bundle) -> None:
    one = prior_statistics(Embedder(small_bundle), {"toy": folders / "clips"}, {})
    three = prior_statistics(Embedder(small_bundle, threads=3), {"toy": folders / "clips"}, {})
    assert one.statistics.sha256 == three.statistics.sha256


def test_each_file_is_reported(folders: Path, small_bundle: Bundle) -> None:
    seen: list[Path] = []
    prior_statistics(Embedder(small_bundle), {"toy": folders / "clips"}, {}, progress=seen.append)
    assert [p.name for p in seen] == ["a.wav", "b.wav", "a.wav"]


def test_sets_without_sound_are_refused(tmp_path: Path, small_bundle: Bundle) -> None:
    embedder = Embedder(small_bundle)
    with pytest.raises(AudioError):
        prior_statistics(embedder, {"empty": tmp_path}, {})
    write_wav(tmp_path / "silent.wav", np.zeros(RATE))
    with pytest.raises(AudioError, match="gives no window"):
        prior_statistics(embedder, {"silent": tmp_path}, {})
