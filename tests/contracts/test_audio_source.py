"""What every AudioSource promises, asked of each: recording, folder, pipe, microphone, microcontroller."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from edge.audio import AudioBlock, AudioSource, FileSource, FolderSource, MicrophoneSource, PcmSource, SourceHealth
from edge.windows import Windower
from firmware_bridge.address import Address
from firmware_bridge.connection import Connection
from firmware_bridge.simulator import Faults, SimulatedDevice, Simulation
from firmware_bridge.sources import McuSource
from tests.simulators.device_process import free_port

ROOT = Path(__file__).parents[2]
RATE = 16_000
SECONDS = 1.5


def sound(rate: int) -> NDArray[np.float32]:
    return (0.5 * np.sin(2 * np.pi * 440 * np.arange(round(SECONDS * rate)) / rate)).astype(np.float32)


def file_source(folder: Path) -> AudioSource:
    soundfile.write(folder / "a.wav", np.repeat(sound(44_100)[:, None], 2, axis=1), 44_100)
    return FileSource(folder / "a.wav", RATE)


def paced_file_source(folder: Path) -> AudioSource:
    soundfile.write(folder / "a.flac", sound(48_000), 48_000)
    return FileSource(folder / "a.flac", RATE, speed="real")


def folder_source(folder: Path) -> AudioSource:
    for name, part in zip("ab", np.array_split(sound(RATE), 2), strict=True):
        soundfile.write(folder / f"{name}.wav", part, RATE)
    return FolderSource(folder, RATE)


def pcm_source(folder: Path) -> AudioSource:
    (folder / "a.raw").write_bytes((sound(8_000) * 32767).astype("<i2").tobytes())
    return PcmSource((folder / "a.raw").open("rb"), RATE, pcm_rate=8_000)


def microphone_source(folder: Path) -> AudioSource:
    (folder / "0.txt").write_text("open 48000\nnoise 0.7\noverflow 4800\nnoise 0.8\nhang")
    command = [sys.executable, str(ROOT / "tests" / "simulators" / "scripted_capture.py"), str(folder)]
    return MicrophoneSource(RATE, command=command)


def mcu_source(folder: Path) -> AudioSource:
    return simulated_mcu("pcm16")


def adpcm_mcu_source(folder: Path) -> AudioSource:
    return simulated_mcu("adpcm")


def simulated_mcu(form: str) -> AudioSource:
    """A simulated device that loses a packet in ten, on a port of its own, which goes with the process."""
    faults = Faults(loss=0.1, seed=1)
    pcm = (np.concatenate([sound(RATE)] * 4) * 32767).astype(np.int16)
    device = SimulatedDevice(RATE, session=1, faults=faults)
    place = Address("tcp", "127.0.0.1", free_port())
    simulation = Simulation(device, pcm, place, speed=2.0, faults=faults, linger_s=1.0)
    threading.Thread(target=simulation.run, daemon=True).start()
    return McuSource(Connection(place), RATE, format=form)


def endless_pcm_source(_folder: Path) -> AudioSource:
    reading, writing = os.pipe()
    os.write(writing, bytes(3200))
    return PcmSource(os.fdopen(reading, "rb"), RATE)


MAKERS = [file_source, paced_file_source, folder_source, pcm_source, microphone_source, mcu_source, adpcm_mcu_source]
Maker = Callable[[Path], AudioSource]


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def collect(source: AudioSource) -> list[AudioBlock]:
    """All blocks of a source that ends; of one that does not, those of SECONDS of sound."""
    blocks: list[AudioBlock] = []
    for block in source:
        blocks.append(block)
        if sum(len(taken.samples) for taken in blocks) >= round(SECONDS * RATE) - 30:
            break
    return blocks


@pytest.mark.parametrize("make", MAKERS)
def test_blocks_tile_the_timeline(tmp_path: Path, make: Maker) -> None:
    with make(tmp_path) as source:
        assert source.sample_rate == RATE
        assert source.name
        blocks = collect(source)
    end = 0
    for block in blocks:
        assert block.samples.ndim == 1 and len(block.samples) > 0
        assert block.samples.dtype == np.float32
        assert np.isfinite(block.samples).all()
        assert block.n_lost >= 0
        assert block.start_sample == end + block.n_lost
        end = block.end_sample
    assert sum(len(block.samples) for block in blocks) == pytest.approx(SECONDS * RATE, abs=30)


@pytest.mark.parametrize("make", MAKERS)
def test_windows_of_a_source_span_no_gap(tmp_path: Path, make: Maker) -> None:
    windower = Windower(1600, 400)
    with make(tmp_path) as source:
        blocks = collect(source)
    spans = [(w.start_sample, w.start_sample + 1600) for block in blocks for w in windower.push(block)]
    gaps = [block.start_sample for block in blocks if block.n_lost]
    assert spans
    assert not any(start < gap < end for start, end in spans for gap in gaps)
    assert windower.n_gaps == len(gaps)


@pytest.mark.parametrize("make", MAKERS)
def test_health_is_told_at_any_time(tmp_path: Path, make: Maker) -> None:
    source = make(tmp_path)
    assert isinstance(source.health(), SourceHealth)
    with source:
        assert source.health().state in ("running", "waiting")
        blocks = iter(source)
        next(blocks)
        assert source.health().state == "running"
    assert source.health().state == "ended"


@pytest.mark.parametrize("make", [*MAKERS, endless_pcm_source])
def test_leaving_from_another_thread_ends_a_running_iteration(tmp_path: Path, make: Maker) -> None:
    source = make(tmp_path)
    ended = threading.Event()
    started = threading.Event()

    def listen() -> None:
        for _ in source:
            started.set()
        ended.set()

    source.__enter__()
    threading.Thread(target=listen, daemon=True).start()
    assert started.wait(5.0)
    time.sleep(0.05)
    source.__exit__(None, None, None)
    assert ended.wait(1.5)
