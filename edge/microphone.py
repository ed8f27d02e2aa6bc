"""The microphone, supervised: a capture process that may die or freeze, and a source that does not.

What goes wrong, and what is seen of it: an unplugged device or a killed sound server ends the stream; a frozen one
leaves it "active", without exception and without callbacks; a muted or rerouted one delivers exact zeros. The capture
process (``edge.microphone_child``) does the listening. Here its packets become blocks; when none comes for more than a
second it is killed and another started, with exponential back-off, and the time that passed becomes a flagged gap.
Exact zeros are reported as "silent", and nothing is reopened for them.
"""

from __future__ import annotations

import queue
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.audio_stream import AudioBlock, SourceHealth, Timeline, to_mono
from edge.errors import DeviceError
from edge.microphone_child import FIRST_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS
from edge.microphone_packets import Kind, OpenedDevice, Packet, PacketReader

START_SECONDS = 10.0
FIRST_SOUND_SECONDS = 4.0
STALLED_SECONDS = 1.0
SILENT_SECONDS = 3.0
STEADY_SECONDS = 5.0
POLL_SECONDS = 0.1
READ_BYTES, MAX_READS = 16_384, 8


class MicrophoneSource:
    """Sound from a microphone, for as long as wanted.

    sample_rate: Hz, of the blocks; the device runs at its native rate. device: part of its "name [host API]", "" for
    the default. ``with`` raises DeviceError when there is no such device, unless ``wait_for_device``: then, and when
    the device is lost later, the source waits for it (state "waiting") and goes on with a gap.
    A consumer that is too slow costs sound, which is counted, after about three seconds of it.
    """

    def __init__(
        self,
        sample_rate: int,
        *,
        device: str = "",
        wait_for_device: bool = False,
        command: Sequence[str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.sample_rate = sample_rate
        self.name = f"mic:{device}" if device else "mic"
        self._command = tuple(command or capture_command(device))
        self._wait_for_device = wait_for_device
        self._clock = clock
        self._closed = threading.Event()
        self._health = SourceHealth("waiting", detail="the microphone is not open")
        self._capture: CaptureProcess | None = None
        self._timeline = Timeline(sample_rate)
        self._device: OpenedDevice | None = None
        self._heard_until: float | None = None
        self._n_zeros = 0
        self._n_heard = 0

    def __enter__(self) -> MicrophoneSource:
        self._capture = CaptureProcess(self._command, self._clock)
        try:
            self._await_opening(self._capture)
        except DeviceError as error:
            if not self._wait_for_device:
                self._capture.kill()
                raise
            self._health = replace(self._health, detail=str(error))
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._closed.set()
        if self._capture is not None:
            self._capture.kill()
        self._health = replace(self._health, state="ended", detail="")

    def health(self) -> SourceHealth:
        return self._health

    def __iter__(self) -> Iterator[AudioBlock]:
        assert self._capture is not None, "a source is iterated inside its with block"
        backoff = FIRST_BACKOFF_SECONDS
        try:
            while not self._closed.is_set():
                self._n_heard = 0
                try:
                    yield from self._blocks(self._capture)
                except DeviceError as error:
                    if not self._closed.is_set():
                        self._health = replace(self._health, state="waiting", detail=str(error))
                self._capture.kill()
                yield from self._timeline.finish()
                if self._device is not None and self._n_heard >= STEADY_SECONDS * self._device.sample_rate:
                    backoff = FIRST_BACKOFF_SECONDS
                if self._closed.wait(backoff):
                    return
                backoff = min(2.0 * backoff, MAX_BACKOFF_SECONDS)
                self._capture = CaptureProcess(self._command, self._clock)
        finally:
            self._capture.kill()

    def _await_opening(self, capture: CaptureProcess) -> None:
        """Wait until the capture process says that it hears. Raises DeviceError when it refuses or says nothing."""
        _, packet = self._receive(capture, START_SECONDS)
        if packet.kind != Kind.OPENED:
            raise DeviceError(packet.text())
        self._note_opened(packet)

    def _blocks(self, capture: CaptureProcess) -> Iterator[AudioBlock]:
        """Yield what one capture process hears. Raises DeviceError when it ends, stalls or makes no sense."""
        patience = FIRST_SOUND_SECONDS if self._health.state == "running" else START_SECONDS
        while not self._closed.is_set():
            arrival, packet = self._receive(capture, patience)
            if packet.kind == Kind.OPENED:
                self._note_opened(packet)
                patience = FIRST_SOUND_SECONDS
            elif packet.kind == Kind.REFUSED:
                self._health = replace(self._health, state="waiting", detail=packet.text())
                patience = START_SECONDS
            elif self._device is not None:
                yield from self._place(self._device, packet, arrival)
                patience = STALLED_SECONDS

    def _receive(self, capture: CaptureProcess, patience: float) -> tuple[float, Packet]:
        """Return the next packet and its arrival. Raises DeviceError when none comes within ``patience`` seconds."""
        waiting_since = self._clock()
        while not self._closed.is_set():
            item = capture.next_packet(POLL_SECONDS)
            if item is not None:
                return item
            waited = self._clock() - waiting_since
            if waited > patience:
                raise DeviceError(
                    f"{self.name} has delivered no sound for {waited:.1f} s; it is opened again "
                    f"(is the device unplugged, or the sound server frozen?)"
                )
        raise DeviceError(f"{self.name} was closed")

    def _note_opened(self, packet: Packet) -> None:
        device = OpenedDevice.decode(packet.payload)
        n_reopened = self._health.n_reopened + (self._device is not None)
        self._device = device
        self._timeline.begin(device.sample_rate)
        self._health = replace(self._health, state="running", n_reopened=n_reopened, detail=device.describe())
        self._n_zeros = 0

    def _place(self, device: OpenedDevice, packet: Packet, arrival: float) -> Iterator[AudioBlock]:
        """Put an AUDIO packet on the timeline, behind the gap that it or a reopening tells of.

        Samples that are not finite (a broken driver) count as lost.
        """
        samples = to_mono(np.frombuffer(packet.payload, dtype=np.float32).reshape(-1, device.n_channels))
        n_missing, n_overflows = packet.n_lost, packet.n_overflows
        if not np.isfinite(samples).all():
            n_missing, n_overflows, samples = n_missing + len(samples), n_overflows + 1, samples[:0]
        n_lost, n_away = round(n_missing * self.sample_rate / device.sample_rate), 0
        if self._n_heard == 0 and self._heard_until is not None:
            away = arrival - len(samples) / device.sample_rate - self._heard_until
            n_lost = n_away = max(1, round(away * self.sample_rate))
        if n_lost > 0:
            yield from self._timeline.finish()
            self._timeline.begin(device.sample_rate, n_lost=n_lost)
        self._n_heard += len(samples)
        self._heard_until = arrival
        self._note_level(device, samples)
        self._health = replace(
            self._health,
            n_lost=self._health.n_lost + n_lost,
            n_away=self._health.n_away + n_away,
            n_overflows=self._health.n_overflows + n_overflows,
        )
        yield from self._timeline.push(samples)

    def _note_level(self, device: OpenedDevice, samples: NDArray[np.float32]) -> None:
        self._n_zeros = 0 if samples.any() else self._n_zeros + len(samples)
        if self._n_zeros >= SILENT_SECONDS * device.sample_rate:
            detail = f"silent (muted?): {self._n_zeros / device.sample_rate:.0f} s of exact zeros from {device.name}"
            self._health = replace(self._health, state="silent", detail=detail)
        elif self._health.state == "silent":
            self._health = replace(self._health, state="running", detail=device.describe())


class CaptureProcess:
    """A running capture process; a thread takes its packets off the pipe as they come, until ``kill``."""

    def __init__(self, command: Sequence[str], clock: Callable[[], float]) -> None:
        self._clock = clock
        self._reader = PacketReader()
        self._packets: deque[tuple[float, Packet]] = deque()
        self._reads: queue.Queue[tuple[float, bytes]] = queue.Queue(MAX_READS)
        self._killed = threading.Event()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            cwd=Path(__file__).resolve().parent.parent,
            start_new_session=True,
        )
        self._thread = threading.Thread(target=self._read, name="microphone", daemon=True)
        self._thread.start()

    def next_packet(self, timeout: float) -> tuple[float, Packet] | None:
        """Return a packet and when it arrived, None when none came in ``timeout`` seconds. DeviceError at the end."""
        if not self._packets:
            try:
                arrival, data = self._reads.get(timeout=timeout)
            except queue.Empty:
                return None
            if not data:
                raise DeviceError(
                    "the microphone's stream ended (device unplugged, or sound server gone); it is opened again"
                )
            self._packets.extend((arrival, packet) for packet in self._reader.feed(data))
        return self._packets.popleft() if self._packets else None

    def kill(self) -> None:
        """End the process, whatever state it is in, without waiting for what cannot end (a driver that hangs)."""
        self._killed.set()
        self._process.kill()
        try:
            self._process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            return
        self._thread.join(timeout=1.0)

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as pipe:
            data = b" "
            while data and not self._killed.is_set():
                data = pipe.read(READ_BYTES)
                self._put(data)

    def _put(self, data: bytes) -> None:
        while not self._killed.is_set():
            try:
                return self._reads.put((self._clock(), data), timeout=POLL_SECONDS)
            except queue.Full:
                continue


def capture_command(*arguments: str) -> list[str]:
    """The command line of a capture process of this installation, to be run in the folder that holds ``edge``."""
    return [sys.executable, "-m", "edge.microphone_child", *filter(None, arguments)]


def list_microphones(*, command: Sequence[str] | None = None) -> list[str]:
    """Return the "name [host API]" of every microphone that the sound system lists now. Raises DeviceError."""
    capture = CaptureProcess(command or capture_command("--list"), time.monotonic)
    deadline = time.monotonic() + START_SECONDS
    try:
        while time.monotonic() < deadline:
            item = capture.next_packet(POLL_SECONDS)
            if item is not None and item[1].kind == Kind.LISTED:
                return item[1].text().splitlines()
            if item is not None:
                raise DeviceError(item[1].text())
    finally:
        capture.kill()
    raise DeviceError(
        f"the sound system did not list its microphones within {START_SECONDS:.0f} s; it may be frozen: restart it"
    )
