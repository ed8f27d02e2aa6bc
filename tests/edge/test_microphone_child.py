"""The capture process: choosing a device, losing nothing uncounted, and what it says when hardware refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge.errors import DeviceError
from edge.microphone_child import CaptureQueue, Device, choose_device
from edge.microphone_packets import Kind, OpenedDevice, Packet, PacketReader

ROOT = Path(__file__).parents[2]
USB = Device(3, "USB Audio: - (hw:1,0)", "ALSA", 1, 48_000)
USB_JACK = Device(7, "USB Audio", "JACK Audio Connection Kit", 2, 44_100)
PULSE = Device(5, "pulse", "ALSA", 32, 44_100)
DEVICES = [USB, PULSE, USB_JACK]


@pytest.mark.parametrize(
    ("wanted", "device"),
    [("", PULSE), ("pulse", PULSE), ("PUL", PULSE), ("hw:1,0", USB), ("USB Audio", USB_JACK), ("jack", USB_JACK),
     ("USB Audio: - (hw:1,0) [ALSA]", USB)],
)  # fmt: skip
def test_a_device_is_meant_by_a_part_of_its_name_and_wins_by_the_whole(wanted: str, device: Device) -> None:
    for order in (DEVICES, DEVICES[::-1]):
        assert choose_device(order, wanted, default_index=5) == device


@pytest.mark.parametrize(
    ("devices", "wanted", "words"),
    [
        ([], "", "there is no microphone"),
        ([], "usb", "no microphone is called 'usb'; there are: none"),
        (DEVICES, "webcam", r"no microphone is called 'webcam'; there are: 'USB Audio: - \(hw:1,0\) \[ALSA\]', 'pulse"),
        (DEVICES, "usb", r"'usb' means 2 microphones: 'USB Audio: .*', 'USB Audio \[JACK .*'; give more of the name"),
    ],
)
def test_none_or_several_are_refused_with_the_choices(devices: list[Device], wanted: str, words: str) -> None:
    with pytest.raises(DeviceError, match=words):
        choose_device(devices, wanted, default_index=-1)


def test_without_a_default_the_first_input_is_taken() -> None:
    assert choose_device(DEVICES, "", default_index=-1) == USB


def samples_of(packet: Packet) -> NDArray[np.float32]:
    return np.frombuffer(packet.payload, dtype=np.float32)


@given(st.lists(st.tuples(st.integers(1, 400), st.booleans()), max_size=40))
def test_heard_and_dropped_is_all_that_came(calls: list[tuple[int, bool]]) -> None:
    """A queue of 2 s at 1 kHz whose reader comes now and then: nothing disappears uncounted, nothing comes twice."""
    heard = CaptureQueue(1000, clock=lambda: 0.0)
    place, packets = 0, []
    for n_frames, is_read in [*calls, (1, True), (1, True)]:
        heard.put(np.arange(place, place + n_frames, dtype=np.float32).tobytes(), n_frames, False)
        place += n_frames
        if is_read:
            packets += heard.take(1)
    end = 0
    for packet in packets:
        samples = samples_of(packet)
        assert np.array_equal(samples, np.arange(end + packet.n_lost, end + packet.n_lost + len(samples)))
        end += packet.n_lost + len(samples)
    assert end == place


def test_what_portaudio_dropped_is_measured_by_the_clock() -> None:
    now = [0.0]
    heard = CaptureQueue(1000, clock=lambda: now[0])
    heard.put(bytes(4 * 20), 20, False)
    now[0] = 0.5
    heard.put(bytes(4 * 20), 20, True)
    packets = heard.take(1)
    assert [(len(samples_of(packet)), packet.n_lost, packet.n_overflows) for packet in packets] == [
        (20, 0, 0),
        (20, 480, 1),
    ]


@contextmanager
def capture_process(*arguments: str, **settings: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Run the real capture process over a virtual PortAudio."""
    environment = {
        **os.environ,
        "VIRTUAL_PORTAUDIO": json.dumps(settings),
        "PYTHONPATH": str(ROOT / "tests" / "simulators" / "portaudio"),
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "edge.microphone_child", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
        env=environment,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def packets_of(*arguments: str, **settings: Any) -> list[Packet]:
    """All that a capture process says until it ends."""
    with capture_process(*arguments, **settings) as process:
        return PacketReader().feed(process.communicate(timeout=20)[0])


def device(name: str = "USB Audio", n_channels: int = 2, **more: Any) -> dict[str, Any]:
    return {"name": name, "host_api": "ALSA", "n_channels": n_channels, "sample_rate": 48_000, **more}


def test_hardware_is_opened_at_its_own_rate_and_heard_until_its_stream_ends() -> None:
    opened, *audio = packets_of(devices=[device()], default=0, stream=[0.5, 0.25, "end"])
    assert OpenedDevice.decode(opened.payload) == OpenedDevice("USB Audio [ALSA]", 48_000)
    assert {packet.kind for packet in audio} == {Kind.AUDIO}
    assert np.concatenate([samples_of(packet) for packet in audio]).tolist() == [0.5] * 960 + [0.25] * 960


def test_hardware_without_a_mono_mode_is_opened_as_it_is() -> None:
    opened, audio = packets_of(devices=[device(n_channels=4, opens_with=[4])], stream=[0.5, "end"])
    assert OpenedDevice.decode(opened.payload).n_channels == 4
    assert samples_of(audio)[:4].tolist() == [0.5, -0.5, -0.5, -0.5]


def test_an_overflow_is_told_with_the_block_after_it() -> None:
    _, *audio = packets_of(devices=[device()], stream=[0.5, "overflow", 0.25, 0.25, "end"])
    (told,) = [packet for packet in audio if packet.n_overflows]
    assert told.n_lost > 0
    assert samples_of(told)[0] == 0.25


def test_a_device_that_appears_later_is_found_without_a_new_process() -> None:
    packets = packets_of("usb", devices=[device()], appears_at=3, stream=[0.5, "end"])
    assert [packet.kind for packet in packets] == [Kind.REFUSED, Kind.REFUSED, Kind.OPENED, Kind.AUDIO]
    assert "no microphone is called 'usb'" in packets[0].text()


def test_hardware_that_opens_in_no_way_says_why() -> None:
    with capture_process(devices=[device(opens_with=[])]) as process:
        assert process.stdout is not None
        (packet,) = PacketReader().feed(os.read(process.stdout.fileno(), 65_536))
    assert packet.kind == Kind.REFUSED
    assert "'USB Audio [ALSA]' cannot be opened at its own 48000 Hz" in packet.text()


def test_without_portaudio_it_says_what_to_install() -> None:
    (packet,) = packets_of(missing=True)
    assert packet.kind == Kind.REFUSED
    assert "PortAudio library not found" in packet.text() and "apt install libportaudio2" in packet.text()


def test_microphones_are_listed_by_full_name() -> None:
    (packet,) = packets_of("--list", devices=[device(), device("Webcam"), device("Speakers", n_channels=0)])
    assert (packet.kind, packet.text()) == (Kind.LISTED, "USB Audio [ALSA]\nWebcam [ALSA]")


@pytest.mark.parametrize("stream", [[0.5] * 1000, []], ids=["while it hears", "while it waits"])
def test_it_ends_when_its_reader_is_gone(stream: list[float]) -> None:
    with capture_process("" if stream else "absent", devices=[device()], stream=stream) as process:
        assert process.stdout is not None
        os.read(process.stdout.fileno(), 24)
        process.stdout.close()
        deadline = time.monotonic() + 8.0
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        assert process.poll() == 0
