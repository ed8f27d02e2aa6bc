"""The host's side of a link as a machine without I/O: bytes and the time go in, events and packets come out.

    greeting   HELLO every half second, until the device answers with one of its own; nothing else counts before
    greeted    its sound, its labels, its answers; another HELLO of another session is a restart
    refused    another version, or another ear: said once, in a sentence, and never again asked

Whatever comes, whole or damaged, costs bounded memory: what cannot be read is counted and skipped.
"""

from __future__ import annotations

import math
import secrets
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from firmware_bridge import protocol as p
from firmware_bridge.adpcm import decode_block
from firmware_bridge.control import ControlWindow, Outcome
from firmware_bridge.errors import LinkError
from firmware_bridge.link_events import (
    Banks,
    Counted,
    Device,
    Event,
    Frames,
    Greeted,
    Heard,
    Lesson,
    LinkHealth,
    Said,
    Scored,
    Sound,
)
from firmware_bridge.message import Message
from firmware_bridge.packet import Decoder, Packet, encode_packet
from firmware_bridge.timing import ClockLine

HELLO_S = 0.5
STREAM_S = 1.0
TIME_S = 1.0
NO_CLASS = 255
FORMATS = {"pcm16": p.PCM16, "adpcm": p.ADPCM, "log_mel": p.LOG_MEL}


@dataclass(frozen=True)
class Expected:
    """What the device must be. ear: first eight bytes of the hash of a bundle's space; None: any, or none at all."""

    ear: bytes | None = None
    ear_name: str = ""


class HostSession:
    """One link from its opening to its loss. Seconds are monotonic. previous: the device before, at that address."""

    def __init__(self, expected: Expected = Expected(), *, previous: Device | None = None, now: float = 0.0) -> None:
        self.device: Device | None = None
        self.refused = False
        self._opening = secrets.randbelow(2**32 - 1) + 1
        self._expected = expected
        self._previous = previous
        self._decoder = Decoder()
        self._control = ControlWindow(lambda seq, kind, payload: encode_packet(kind, seq, payload))
        self._outgoing: list[bytes] = []
        self._hello_due = now
        self._time_due = now + TIME_S
        self._stream_due = math.inf
        self._format: str | None = None
        self._start_ticket: int | None = None
        self._line: ClockLine | None = None
        self._counter: int | None = None
        self._n_asked = 0
        self._n_bytes = self._n_unknown = self._n_unreadable = self._n_late = 0
        self._device_counters: dict[str, int] = {}

    # ---- in ---------------------------------------------------------------------------------------------------------

    def receive(self, data: bytes, now: float) -> list[Event]:
        """Take what has come. Raises LinkError once for a device that may not be used."""
        self._n_bytes += len(data)
        events: list[Event] = []
        for packet in self._decoder.feed(data):
            try:
                events += self._take(packet, now)
            except ValueError:
                self._n_unreadable += 1
        return events

    def tick(self, now: float) -> list[Event]:
        """Let time pass: greet, ask for the time, send again, give up."""
        if self.device is None:
            if now >= self._hello_due and not self.refused:
                self._hello_due = now + HELLO_S
                self._send(p.HostHello(p.PROTOCOL_VERSION, self._opening))
            return []
        if now >= self._time_due:
            self._time_due = now + TIME_S
            self._n_asked += 1
            self._send(p.TimeQuery(self._n_asked))
            self._send(p.StatusQuery())
        if self._stream_due == math.inf:
            self._stream_due = now + STREAM_S
        if self._format is not None and now >= self._stream_due:
            self._stream_due = now + STREAM_S
            self._start(self._format)
        packets, lost = self._control.due(now)
        self._outgoing += packets
        return list(lost)

    # ---- out --------------------------------------------------------------------------------------------------------

    def outgoing(self) -> list[bytes]:
        """Return the packets to send, once."""
        packets, self._outgoing = self._outgoing, []
        return packets

    def stream(self, format: str | None) -> None:
        """Have the device send its sound in a format, or nothing; asked again while nothing comes."""
        self._format, self._stream_due = format, math.inf
        if format is None:
            self._control.ask(p.Stop.TYPE, p.Stop(self._session_id).encode())
        else:
            self._start(format)

    def ask(self, kind: int, payload: bytes) -> int:
        """Queue a command; the ticket of its Outcome."""
        return self._control.ask(kind, payload)

    def label(self, label: str | None, score: float, *, begins: bool) -> int:
        """Tell the device what the host heard; None: an unknown sound."""
        name = (label or "").encode("utf-8")[:64]
        return self.ask(p.HostLabel.TYPE, p.HostLabel(self._session_id, score, int(begins), name).encode())

    def ask_for_banks(self) -> None:
        """Have the device say which heads it has; the answer is ``Banks``."""
        self._send(p.HeadQuery())

    def health(self) -> LinkHealth:
        decoder = self._decoder
        return LinkHealth(
            n_good=decoder.n_good,
            n_crc=decoder.n_crc,
            n_malformed=decoder.n_malformed + self._n_unreadable,
            n_oversized=decoder.n_oversized,
            n_unknown=self._n_unknown,
            n_late=self._n_late,
            n_retries=self._control.n_retries,
            n_bytes=self._n_bytes,
            drift=None if self._line is None else self._line.drift(),
            device=self._device_counters,
        )

    def why_no_greeting(self, address: str) -> str:
        """Why there was no greeting, as far as can be told from what came."""
        decoder = self._decoder
        n_bad = decoder.n_crc + decoder.n_malformed + decoder.n_oversized
        if self._n_bytes == 0:
            return f"{address} says nothing; is the device running, is it this port, and are its wires crossed?"
        if decoder.n_good == 0:
            return (
                f"{address} sends bytes ({self._n_bytes}) but no packet among them is whole ({n_bad} damaged); the "
                "baud rate is probably wrong: find it with `soundkeep-bridge probe`"
            )
        return (
            f"{address} sends packets ({decoder.n_good} whole, {n_bad} damaged) but does not answer a greeting; "
            "restart the device"
        )

    # ---- packets ----------------------------------------------------------------------------------------------------

    @property
    def _session_id(self) -> int:
        if self.device is None:
            raise LinkError("the device was not greeted yet")
        return self.device.session

    def _send(self, message: Message) -> None:
        self._outgoing.append(encode_packet(message.TYPE, 0, message.encode()))

    def _start(self, format: str) -> None:
        self._start_ticket = self._control.ask(p.Start.TYPE, p.Start(self._session_id, FORMATS[format]).encode())

    def _take(self, packet: Packet, now: float) -> list[Event]:
        if packet.type == p.DeviceHello.TYPE:
            return self._greet(p.DeviceHello.decode(packet.payload))
        if self.device is None:
            return []
        if packet.type == p.Pcm.TYPE:
            pcm = p.Pcm.decode(packet.payload)
            if len(pcm.data) % 2 or not pcm.data:
                raise ValueError("half a sample")
            return self._sound(pcm.sample, np.frombuffer(pcm.data, dtype="<i2").astype(np.int16), now)
        if packet.type == p.Adpcm.TYPE:
            adpcm = p.Adpcm.decode(packet.payload)
            return self._sound(adpcm.sample, decode_block(adpcm.data), now)
        if packet.type == p.Features.TYPE:
            return self._frames(p.Features.decode(packet.payload), now)
        if packet.type == p.Ack.TYPE:
            ack = p.Ack.decode(packet.payload)
            outcome = self._control.acknowledged(ack.seq, ack.status) if ack.session == self.device.session else None
            if outcome is None:
                return []
            if outcome.ticket == self._start_ticket and outcome.refused:
                return [outcome, Said(f"{self.device.name} refuses to send {self._format} ({outcome.refused})")]
            return [outcome]
        if packet.type == p.Status.TYPE:
            status = p.Status.decode(packet.payload)
            self._device_counters = dict(vars(status))
            return [Counted(self._device_counters)]
        if packet.type == p.TimeAnswer.TYPE:
            answer = p.TimeAnswer.decode(packet.payload)
            if answer.number == self._n_asked and self._line is not None and self._counter is not None:
                self._line.add(now, self._unwrapped(answer.sample))
            return []
        if packet.type == p.Log.TYPE:
            return [Said(p.Log.decode(packet.payload).text.decode("utf-8", "replace")[:200])]
        if packet.type == p.DeviceLabel.TYPE:
            label = p.DeviceLabel.decode(packet.payload)
            index = None if label.index < 0 else label.index
            name = label.name.decode("utf-8", "replace")[:64]
            return [Heard(self._unwrapped(label.sample), label.head_version, index, label.score, name)]
        if packet.type == p.Scores.TYPE:
            return [self._scored(p.Scores.decode(packet.payload))]
        if packet.type == p.Example.TYPE:
            return [self._lesson(p.Example.decode(packet.payload))]
        if packet.type == p.HeadState.TYPE:
            state = p.HeadState.decode(packet.payload)
            return [Banks(state.version, state.n_classes, state.state, state.next_version, state.n_flips)]
        self._n_unknown += 1
        return []

    def _greet(self, hello: p.DeviceHello) -> list[Event]:
        if self.refused:
            return []
        name = hello.name.decode("utf-8", "replace")[:64]
        if hello.version != p.PROTOCOL_VERSION:
            self.refused = True
            raise LinkError(
                f"{name or 'the device'} speaks version {hello.version} of the protocol, this soundkeep version "
                f"{p.PROTOCOL_VERSION}; build its firmware from this soundkeep, or install the soundkeep it came from"
            )
        ear = hello.ear if any(hello.ear) else b""
        wanted = self._expected.ear
        if wanted is not None and ear != wanted[: len(ear) or None]:
            self.refused = True
            raise LinkError(
                f"{name or 'the device'} was built with ear {ear.hex() or 'none'}, and the bundle in use is "
                f"{self._expected.ear_name} ({wanted.hex()}); build its firmware from this bundle, or choose the other "
                "with --bundle"
            )
        device = Device(
            session=hello.session,
            name=name or "a device",
            sample_rate=hello.sample_rate,
            formats=tuple(name for name, bit in FORMATS.items() if hello.formats & bit),
            ear=ear,
            front_end=hello.front_end if any(hello.front_end) else b"",
            head_version=hello.head_version,
            bank_bytes=hello.bank_bytes,
            takes_heads=bool(hello.abilities & p.CAN_HEAD),
        )
        if not 1_000 <= device.sample_rate <= 384_000:
            self.refused = True
            raise LinkError(f"{device.name} says that it samples at {device.sample_rate} Hz; wanted 1000 to 384000")
        if self.device is not None and self.device.session == device.session:
            self.device = device
            return []
        before = self.device or self._previous
        events: list[Event] = list(self._control.drop_all())
        self.device, self._counter = device, None
        self._line = ClockLine(device.sample_rate)
        self._stream_due = math.inf
        return [*events, Greeted(device, before is not None and before.session != device.session)]

    def _sound(self, counter: int, samples: NDArray[np.int16], now: float) -> list[Event]:
        start = self._placed(counter, len(samples), now)
        return [] if start is None else [Sound(start, samples, now)]

    def _lesson(self, message: p.Example) -> Lesson:
        name, data = message.data[: message.n_name], message.data[message.n_name :]
        if len(name) < message.n_name or len(data) % 2 or not data:
            raise ValueError("half an example")
        index = None if message.index == NO_CLASS else message.index
        grid = np.frombuffer(data, dtype="<i2").astype(np.int16)
        return Lesson(
            self._unwrapped(message.sample), message.head_version, index, name.decode("utf-8", "replace"), grid
        )

    def _scored(self, message: p.Scores) -> Scored:
        if len(message.data) % 4:
            raise ValueError("half a score")
        scores = np.frombuffer(message.data, dtype="<f4").astype(np.float64)
        return Scored(self._unwrapped(message.sample), message.head_version, scores)

    def _frames(self, message: p.Features, now: float) -> list[Event]:
        if not message.n_bands or not message.n_frames or len(message.data) != 2 * message.n_bands * message.n_frames:
            raise ValueError("bands and frames do not make up the data")
        logs = np.frombuffer(message.data, dtype="<i2").reshape(message.n_frames, message.n_bands)
        start = self._placed(message.sample, 1, now)
        return [] if start is None else [Frames(start, powers_of(logs), now)]

    def _placed(self, counter: int, n_samples: int, now: float) -> int | None:
        """Where a block begins on the counter that does not wrap; None for one that came late or twice."""
        start = self._unwrapped(counter)
        if self._counter is not None and start < self._counter:
            self._n_late += 1
            return None
        self._counter = start + n_samples
        self._stream_due = now + STREAM_S
        assert self._line is not None
        self._line.add(now, start + n_samples)
        return start

    def _unwrapped(self, counter: int) -> int:
        """The counter of 32 bits as one that goes on: the place nearest to where the device was last."""
        if self._counter is None:
            return counter
        return self._counter + ((counter - self._counter + 2**31) % 2**32 - 2**31)


def powers_of(logs: NDArray[np.int16]) -> NDArray[np.float32]:
    """Band powers of logarithms to the base 2 in steps of 1/256; the lowest number is no power at all."""
    powers = np.exp2(logs.astype(np.float64) / 256.0).astype(np.float32)
    powers[logs == np.iinfo(np.int16).min] = 0.0
    return powers


__all__ = ["Expected", "HostSession", "Outcome", "powers_of"]
