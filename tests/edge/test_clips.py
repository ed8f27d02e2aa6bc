"""Clips: off unless asked for, bounded in bytes, oldest first."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge.clips import ClipStore
from edge.errors import MisuseError, StateError


def name(k: int) -> str:
    return f"{k:064x}"


def tone(k: int, n: int = 1000) -> np.ndarray:
    return np.sin(np.arange(n) * 0.01 * (k + 1)).astype(np.float32) * np.float32(0.9)


def test_nothing_is_kept_by_default(tmp_path: Path) -> None:
    clips = ClipStore(tmp_path)
    assert not clips.keep(name(1), tone(1), 16000)
    assert clips.contents() == () and list(tmp_path.iterdir()) == []


def test_a_clip_comes_back_to_sixteen_bits(tmp_path: Path) -> None:
    clips = ClipStore(tmp_path, max_bytes=10_000)
    samples = np.array([0.0, 0.5, -1.0, 1.0, 2.0, 1 / 32768], dtype=np.float32)
    assert clips.keep(name(1), samples, 22050)
    found = clips.load(name(1))
    assert found is not None and found[1] == 22050
    assert found[0].tolist() == [0.0, 0.5, -1.0, 32767 / 32768, 32767 / 32768, 1 / 32768]
    assert clips.load(name(2)) is None


def test_the_oldest_go_first_and_the_budget_holds(tmp_path: Path) -> None:
    clips = ClipStore(tmp_path, max_bytes=7000)
    for k in range(10):
        assert clips.keep(name(k), tone(k), 16000)
        assert sum(path.stat().st_size for path in (tmp_path / "clips").iterdir()) <= 7000
    assert clips.contents() == (name(7), name(8), name(9))
    assert clips.keep(name(8), tone(8), 16000), "the same clip again is kept once"
    assert clips.contents() == (name(7), name(8), name(9))
    assert not clips.keep(name(11), tone(0, 5000), 16000), "larger than the whole budget"
    assert len(clips.contents()) == 3
    ClipStore(tmp_path, max_bytes=3000).keep(name(12), tone(12), 16000)
    assert clips.contents() == (name(12),)


def test_only_what_the_journal_holds_is_retained(tmp_path: Path) -> None:
    clips = ClipStore(tmp_path, max_bytes=100_000)
    for k in range(4):
        clips.keep(name(k), tone(k), 16000)
    (tmp_path / "clips" / "half.tmp").write_bytes(b"x")
    (tmp_path / "clips" / "notes.txt").write_bytes(b"not ours")
    clips.retain({name(1), name(3)})
    assert clips.contents() == (name(1), name(3))
    assert {path.name[-4:] for path in (tmp_path / "clips").iterdir()} == {".wav", ".txt"}
    ClipStore(tmp_path / "none").retain(())


def test_bad_names_and_bad_files_have_sentences(tmp_path: Path) -> None:
    clips = ClipStore(tmp_path, max_bytes=100_000)
    with pytest.raises(MisuseError, match="64 hex digits"):
        clips.keep("../../etc/passwd", tone(1), 16000)
    clips.keep(name(1), tone(1), 16000)
    (path,) = (tmp_path / "clips").iterdir()
    path.write_bytes(b"RIFF")
    with pytest.raises(StateError, match="cannot be read"):
        clips.load(name(1))
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="could not be kept"):
        ClipStore(tmp_path / "file", max_bytes=100_000).keep(name(1), tone(1), 16000)
