"""The supervised microphone over a scripted capture process: every way of failing ends in sound again, and a gap."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from edge.audio_stream import AudioBlock
from edge.errors import DeviceError
from edge.microphone import CaptureProcess, MicrophoneSource
from edge.windows import Windower

ROOT = Path(__file__).parents[2]
RATE = 16_000


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def scripted(folder: Path, *scripts: str) -> list[str]:
    """The command of a capture process that follows the scripts, one a start."""
    for i, script in enumerate(scripts):
        (folder / f"{i}.txt").write_text(script.replace("; ", "\n"))
    return [sys.executable, str(ROOT / "tests" / "simulators" / "scripted_capture.py"), str(folder)]


def microphone(folder: Path, *scripts: str, wait_for_device: bool = False) -> MicrophoneSource:
    return MicrophoneSource(RATE, command=scripted(folder, *scripts), wait_for_device=wait_for_device)


def until_heard(blocks: Iterator[AudioBlock], n_samples: int) -> list[AudioBlock]:
    """Take blocks until they hold ``n_samples``."""
    taken: list[AudioBlock] = []
    while sum(len(block.samples) for block in taken) < n_samples:
        taken.append(next(blocks))
    return taken


def assert_tiled(blocks: list[AudioBlock]) -> None:
    end = 0
    for block in blocks:
        assert block.start_sample == end + block.n_lost
        end = block.end_sample


def test_what_the_process_hears_comes_through_exactly(tmp_path: Path) -> None:
    with microphone(tmp_path, "open 16000; noise 1; hang") as source:
        assert source.health().state == "running"
        blocks = until_heard(iter(source), RATE)
    expected = np.random.default_rng(320).uniform(-0.5, 0.5, 320).astype(np.float32)
    assert np.array_equal(np.concatenate([block.samples for block in blocks]), np.tile(expected, 50))
    assert_tiled(blocks)
    assert source.health().state == "ended"


def test_lost_sound_is_flagged_where_it_was_lost_and_counted(tmp_path: Path) -> None:
    with microphone(tmp_path, "open 48000; noise 0.5; overflow 9600; noise 0.5; hang") as source:
        blocks = until_heard(iter(source), RATE - 100)
        health = source.health()
    assert_tiled(blocks)
    assert [(block.start_sample, block.n_lost) for block in blocks if block.n_lost] == [(RATE // 2 + 3200, 3200)]
    assert (health.n_overflows, health.n_lost, health.n_reopened) == (1, 3200, 0)
    assert health.n_away == 0, "lost because nobody was quick enough, not because the device was away"


def test_channels_are_averaged(tmp_path: Path) -> None:
    with microphone(tmp_path, "open 16000 2; noise 1; hang") as source:
        blocks = until_heard(iter(source), RATE)
    frames = np.random.default_rng(640).uniform(-0.5, 0.5, 640).astype(np.float32).reshape(-1, 2)
    assert np.allclose(blocks[0].samples, frames.mean(axis=1), atol=1e-7)


def test_what_is_no_number_counts_as_lost(tmp_path: Path) -> None:
    with microphone(tmp_path, "open 16000; noise 0.1; nan 0.04; noise 0.1; hang") as source:
        blocks = until_heard(iter(source), 3200)
        health = source.health()
    assert_tiled(blocks)
    assert all(np.isfinite(block.samples).all() for block in blocks)
    assert [(block.start_sample, block.n_lost) for block in blocks if block.n_lost] == [(1600 + 640, 640)]
    assert (health.n_lost, health.n_overflows) == (640, 2)


def test_a_frozen_process_is_noticed_killed_and_replaced(tmp_path: Path) -> None:
    with microphone(tmp_path, "open 16000; noise 0.2; hang", "open 16000; live 20") as source:
        first = psutil.Process().children()
        blocks = iter(source)
        taken = until_heard(blocks, 3200)
        began = time.monotonic()
        taken.append(next(blocks))
        back = time.monotonic() - began
        assert not any(process.is_running() and process.status() != "zombie" for process in first)
        assert source.health().n_reopened == 1
    assert 1.0 < back < 4.0
    assert_tiled(taken)
    assert taken[-1].n_lost == pytest.approx(back * RATE, abs=0.2 * RATE)
    assert source.health().n_lost == taken[-1].n_lost
    windower = Windower(4000, 1000)
    assert not any(windower.push(block) for block in taken), "no window spans the gap"
    assert windower.n_gaps == 1


def test_the_state_says_waiting_within_two_seconds_of_a_freeze(tmp_path: Path) -> None:
    with microphone(tmp_path, "open 16000; noise 0.2; hang", "hang") as source:
        threading.Thread(target=list, args=(source,), daemon=True).start()
        began = time.monotonic()
        while source.health().state != "waiting" and time.monotonic() - began < 5.0:
            time.sleep(0.02)
        assert time.monotonic() - began < 2.0
        assert "delivered no sound for 1." in source.health().detail


def test_without_the_watch_a_freeze_is_not_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.microphone.STALLED_SECONDS", 3600.0)
    with microphone(tmp_path, "open 16000; noise 0.2; hang") as source:
        threading.Thread(target=list, args=(source,), daemon=True).start()
        time.sleep(2.0)
        assert source.health().state == "running"


@pytest.mark.parametrize("end", ["noise 0.1", "noise 0.1; junk; hang", "noise 0.1; skip; noise 0.1; hang"])
def test_a_process_that_ends_or_goes_wrong_is_replaced(tmp_path: Path, end: str) -> None:
    with microphone(tmp_path, f"open 16000; {end}", "open 44100; noise 1; hang") as source:
        blocks = until_heard(iter(source), RATE)
        health = source.health()
    assert_tiled(blocks)
    assert sum(block.n_lost > 0 for block in blocks) == 1
    assert (health.state, health.n_reopened) == ("running", 1)
    assert health.n_away == health.n_lost > 0
    assert health.detail == "scripted [test] at 44100 Hz"


def test_exact_zeros_are_called_silent_and_nothing_is_reopened(tmp_path: Path) -> None:
    states = []
    with microphone(tmp_path, "open 16000; noise 0.5; zeros 4; noise 0.5; hang") as source:
        blocks = []
        for block in source:
            blocks.append(block)
            states.append(source.health().state)
            if "muted?" in source.health().detail:
                assert source.health().state == "silent"
            if block.end_sample == 5 * RATE:
                break
    assert list(dict.fromkeys(states)) == ["running", "silent"]
    assert states[-1] == "running", "the first sound ends the silence"
    silent_from = blocks[states.index("silent")].end_sample / RATE
    assert silent_from == pytest.approx(3.5, abs=0.05)
    assert source.health().n_reopened == 0
    assert sum(block.n_lost for block in blocks) == 0


def test_a_missing_device_is_one_sentence(tmp_path: Path) -> None:
    source = microphone(tmp_path, "refuse no microphone is called 'usb'; hang")
    with pytest.raises(DeviceError, match="no microphone is called 'usb'"), source:
        pass
    assert not psutil.Process().children()


def test_a_service_waits_for_its_device(tmp_path: Path) -> None:
    script = "refuse no microphone is called 'usb'; open 16000; noise 1; hang"
    with microphone(tmp_path, script, wait_for_device=True) as source:
        assert source.health().state == "waiting"
        assert "no microphone is called 'usb'" in source.health().detail
        blocks = until_heard(iter(source), RATE)
        assert source.health().state == "running"
    assert blocks[0].start_sample == 0, "what was never opened lost nothing"
    assert source.health().n_reopened == 0


def test_a_device_that_says_nothing_at_all_is_refused_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.microphone.START_SECONDS", 0.3)
    with pytest.raises(DeviceError, match="delivered no sound for 0"), microphone(tmp_path, "hang"):
        pass


@pytest.mark.parametrize("script", ["open 16000; hang", "open 16000; live 20", "open 16000; noise 20"])
def test_leaving_ends_the_iteration_and_the_process(tmp_path: Path, script: str) -> None:
    source = microphone(tmp_path, script)
    with source:
        ended = threading.Event()

        def listen() -> None:
            for _ in source:
                pass
            ended.set()

        threading.Thread(target=listen, daemon=True).start()
        time.sleep(0.2)
    assert ended.wait(1.5)
    assert not psutil.Process().children()


def test_a_slow_consumer_loses_nothing_of_what_waits_in_the_pipe(tmp_path: Path) -> None:
    with microphone(tmp_path, "open 16000; live 2; hang") as source:
        blocks = iter(source)
        taken = [next(blocks)]
        time.sleep(1.6)
        taken += until_heard(blocks, 2 * RATE - len(taken[0].samples))
        assert source.health().n_reopened == 0
    assert_tiled(taken)
    assert sum(block.n_lost for block in taken) == 0


def test_twenty_failures_leave_no_thread_descriptor_or_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.microphone.MAX_BACKOFF_SECONDS", 0.01)
    monkeypatch.setattr("edge.microphone.FIRST_BACKOFF_SECONDS", 0.01)
    with microphone(tmp_path, "open 16000; noise 0.1") as source:
        blocks = iter(source)
        until_heard(blocks, 3 * 1600)
        n_threads, n_descriptors = threading.active_count(), psutil.Process().num_fds()
        taken = until_heard(blocks, 20 * 1600)
        assert source.health().n_reopened >= 20
        assert threading.active_count() <= n_threads + 1
        assert psutil.Process().num_fds() <= n_descriptors + 3, "one process more or less may be running just now"
        assert len(psutil.Process().children()) <= 1
    assert all(block.n_lost > 0 for block in taken[::5])


def test_killing_does_not_wait_for_a_reader_that_nobody_empties(tmp_path: Path) -> None:
    capture = CaptureProcess(scripted(tmp_path, "open 16000; noise 60"), time.monotonic)
    time.sleep(0.5)
    began = time.monotonic()
    capture.kill()
    assert time.monotonic() - began < 0.5
    assert not any(thread.name == "microphone" for thread in threading.enumerate())
