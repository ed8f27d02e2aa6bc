"""The capture process: opens a microphone through PortAudio and writes what it hears to standard output as packets.

It is a process of its own because a sound system can freeze without any sign: the stream stays "active", no exception
comes, and closing it may never return. A process can be killed; so this one captures once, and when anything ends or
stalls its supervisor (``edge.microphone``) ends it and starts another, whose device list is fresh.

While the device cannot be opened it says why, initialises PortAudio anew (that alone refreshes the device list) and
tries again with exponential back-off. It ends when its reader is gone.

    python -m edge.microphone_child [NAME]
    python -m edge.microphone_child --list
"""

from __future__ import annotations

import os
import queue
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

from edge.errors import DeviceError
from edge.microphone_packets import Kind, OpenedDevice, Packet, encode

FIRST_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS = 0.25, 3.0
LATENCY_SECONDS = 0.2
BATCH_SECONDS = 0.1
QUEUE_SECONDS = 2.0
BYTES_PER_SAMPLE = 4


@dataclass(frozen=True)
class Device:
    """One input of PortAudio's list, as it is now. ``index`` is good only until PortAudio is initialised again."""

    index: int
    name: str
    host_api: str
    n_channels: int
    sample_rate: int

    @property
    def full_name(self) -> str:
        return f"{self.name} [{self.host_api}]"


def choose_device(devices: Sequence[Device], wanted: str, *, default_index: int) -> Device:
    """Choose an input by name: ``wanted`` is a part of "name [host API]", in any case; "" is the default input.

    A device whose whole name is ``wanted`` wins over those that only contain it. Raises DeviceError, listing the
    choices, when none or several are meant.
    """
    if not wanted:
        for device in devices:
            if device.index == default_index:
                return device
        if not devices:
            raise DeviceError(
                "there is no microphone: the sound system lists no input; plug one in, or check that the sound server "
                "of this user runs (soundkeep doctor)"
            )
        return devices[0]
    key = wanted.casefold()
    exact = [device for device in devices if key in (device.name.casefold(), device.full_name.casefold())]
    found = exact or [device for device in devices if key in device.full_name.casefold()]
    if len(found) == 1:
        return found[0]
    if not found:
        listed = ", ".join(repr(device.full_name) for device in devices) or "none"
        raise DeviceError(f"no microphone is called {wanted!r}; there are: {listed}; choose with --source mic:NAME")
    listed = ", ".join(repr(device.full_name) for device in found)
    raise DeviceError(f"{wanted!r} means {len(found)} microphones: {listed}; give more of the name")


class CaptureQueue:
    """Between PortAudio's callback and the writer: bounded, never waiting on the callback's side.

    When full, whole callbacks are dropped; what was lost is told with the next one that gets in.
    """

    def __init__(self, sample_rate: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_samples = round(QUEUE_SECONDS * sample_rate)
        self._sample_rate = sample_rate
        self._clock = clock
        self._items: queue.SimpleQueue[tuple[bytes, int, int]] = queue.SimpleQueue()
        self._n_in = 0
        self._n_out = 0
        self._n_lost = 0
        self._n_overflows = 0
        self._last_call: float | None = None

    def put(self, frames: bytes, n_frames: int, overflowed: bool) -> None:
        """Take one callback's frames. ``overflowed``: PortAudio dropped input before them.

        PortAudio does not say how much it dropped: what the clock saw pass since the last call, beyond ``n_frames``.
        """
        now = self._clock()
        if overflowed:
            passed = 0.0 if self._last_call is None else now - self._last_call
            self._n_lost += max(1, round(passed * self._sample_rate) - n_frames)
            self._n_overflows += 1
        self._last_call = now
        if self._n_in - self._n_out + n_frames > self._max_samples:
            self._n_lost += n_frames
            self._n_overflows += 1
            return
        self._items.put((frames, self._n_lost, self._n_overflows))
        self._n_in += n_frames
        self._n_lost = self._n_overflows = 0

    def take(self, n_channels: int) -> list[Packet]:
        """All that came since the last time, as AUDIO packets (sequence 0): one, and another after each loss."""
        packets: list[Packet] = []
        while not self._items.empty():
            payload, n_lost, n_overflows = self._items.get()
            self._n_out += len(payload) // (BYTES_PER_SAMPLE * n_channels)
            if packets and n_lost == 0:
                packets[-1] = replace(packets[-1], payload=packets[-1].payload + payload)
            else:
                packets.append(Packet(Kind.AUDIO, 0, payload, n_lost, n_overflows))
        return packets


class PacketWriter:
    """Numbers packets and writes them out; BrokenPipeError when the reader is gone."""

    def __init__(self, out: BinaryIO, *, first_sequence: int = 0) -> None:
        self._out = out
        self._sequence = first_sequence

    def write(self, packet: Packet) -> None:
        self._out.write(encode(replace(packet, sequence=self._sequence)))
        self._out.flush()
        self._sequence += 1


def capture(writer: PacketWriter, wanted: str) -> None:
    """Wait for the device, then write what it hears until its stream ends."""
    backoff = FIRST_BACKOFF_SECONDS
    sounddevice = _portaudio()
    while True:
        try:
            device = choose_device(_inputs(sounddevice), wanted, default_index=_default_input(sounddevice))
            _stream(sounddevice, device, writer)
            return
        except (DeviceError, sounddevice.PortAudioError) as error:
            writer.write(Packet(Kind.REFUSED, 0, str(error).encode()))
        time.sleep(backoff)
        backoff = min(2.0 * backoff, MAX_BACKOFF_SECONDS)
        sounddevice._terminate()
        sounddevice._initialize()


def _stream(sounddevice: Any, device: Device, writer: PacketWriter) -> None:
    """Write packets from ``device`` at its native rate until the stream or the reader ends. Raises DeviceError."""
    heard = CaptureQueue(device.sample_rate)
    n_channels = _channels(sounddevice, device)

    def callback(frames: Any, n_frames: int, _time: Any, status: Any) -> None:
        heard.put(bytes(frames), n_frames, bool(status.input_overflow))

    stream = sounddevice.RawInputStream(
        device=device.index,
        samplerate=device.sample_rate,
        channels=n_channels,
        dtype="float32",
        blocksize=0,
        latency=LATENCY_SECONDS,
        callback=callback,
    )
    stream.start()
    supervisor = os.getppid()
    writer.write(Packet(Kind.OPENED, 0, OpenedDevice(device.full_name, device.sample_rate, n_channels).encode()))
    is_active = True
    while is_active and os.getppid() == supervisor:
        time.sleep(BATCH_SECONDS)
        is_active = stream.active
        for packet in heard.take(n_channels):
            writer.write(packet)


def _channels(sounddevice: Any, device: Device) -> int:
    """One channel where the device has that, else two, else all that it has. Raises DeviceError."""
    reason: Exception | None = None
    for n_channels in sorted({1, min(2, device.n_channels), device.n_channels}):
        try:
            sounddevice.check_input_settings(
                device=device.index, channels=n_channels, dtype="float32", samplerate=device.sample_rate
            )
            return n_channels
        except (sounddevice.PortAudioError, ValueError) as error:
            reason = error
    raise DeviceError(
        f"the microphone {device.full_name!r} cannot be opened at its own {device.sample_rate} Hz ({reason}); "
        f"end the program that holds it, or choose another with --source mic:NAME"
    )


def _portaudio() -> Any:
    """Import sounddevice, which initialises PortAudio. Raises DeviceError when PortAudio is missing."""
    try:
        import sounddevice
    except ImportError as error:
        raise DeviceError(f"sounddevice cannot be imported ({error}); install it: pip install sounddevice") from error
    except OSError as error:
        raise DeviceError(
            f"PortAudio cannot be loaded ({error}); install it, on Debian and Ubuntu with: apt install libportaudio2"
        ) from error
    return sounddevice


def _inputs(sounddevice: Any) -> list[Device]:
    host_apis = sounddevice.query_hostapis()
    return [
        Device(
            index,
            str(info["name"]),
            str(host_apis[info["hostapi"]]["name"]),
            int(info["max_input_channels"]),
            round(info["default_samplerate"]),
        )
        for index, info in enumerate(sounddevice.query_devices())
        if info["max_input_channels"] > 0
    ]


def _default_input(sounddevice: Any) -> int:
    return int(sounddevice.default.device[0])


def _take_standard_output() -> BinaryIO:
    """Keep standard output for packets: whatever a sound library prints goes to standard error."""
    packets = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return packets


def main(arguments: Sequence[str]) -> int:
    """Run as a process. Returns the exit code: 0 the stream ended or the reader is gone, 1 refused for good."""
    writer = PacketWriter(_take_standard_output())
    try:
        if arguments == ["--list"]:
            names = [device.full_name for device in _inputs(_portaudio())]
            writer.write(Packet(Kind.LISTED, 0, "\n".join(names).encode()))
        else:
            capture(writer, arguments[0] if arguments else "")
    except BrokenPipeError:
        return 0
    except Exception as error:
        sentence = str(error) if isinstance(error, DeviceError) else f"the capture process failed: {error!r}"
        writer.write(Packet(Kind.REFUSED, 0, sentence.encode()))
        return 1
    return 0


if __name__ == "__main__":
    # sounddevice's exit handler would close the stream, which never returns when the sound server is frozen.
    os._exit(main(sys.argv[1:]))
