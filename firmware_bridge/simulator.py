"""A microcontroller that is none: it plays a recording over a link as a device would, with the faults asked for.

``SimulatedDevice`` is the device's side of the session without I/O; ``Simulation`` lets it run on a port. The recording
begins when a host first asks for sound, so that none of it is missed; from then on its microphone runs on whether
somebody listens or not.
"""

from __future__ import annotations

import threading
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from firmware_bridge import protocol as p
from firmware_bridge.address import Address
from firmware_bridge.adpcm import encode_block
from firmware_bridge.errors import LinkLostError
from firmware_bridge.front_end import FrontEnd
from firmware_bridge.message import Message
from firmware_bridge.packet import Decoder, Packet, encode_packet
from firmware_bridge.transports import PtyTransport, TcpListener, Transport, UdpTransport

BLOCK_S = 0.02
MAX_REMEMBERED = 32
ANNOUNCE_S = 1.0


@dataclass(frozen=True)
class Faults:
    """loss: share of sound packets that are never sent. flip: share of bits that come out wrong. pause_s: seconds for
    which it says nothing, two seconds into the recording. restart_s: seconds into the recording at which it starts
    anew. seed: of the dice."""

    loss: float = 0.0
    flip: float = 0.0
    pause_s: float = 0.0
    restart_s: float = 0.0
    seed: int = 0


@dataclass
class Played:
    """What was sent: samples of the recording, and those of them that never went out."""

    n_samples: int = 0
    n_lost: int = 0
    n_restarts: int = 0
    n_commands: int = 0
    labels: list[str] = field(default_factory=list)


class Bank:
    """Where a device takes in a head: beside the one in use, which changes only when all of the new one is right."""

    TYPES = (p.HeadBegin.TYPE, p.HeadChunk.TYPE, p.HeadCommit.TYPE)

    def __init__(self, n_bytes: int, ear: bytes) -> None:
        self.in_use = (0, b"")
        """Version and bytes."""
        self._n_bytes = n_bytes
        self._ear = ear.ljust(8, b"\0")
        self._begun: p.HeadBegin | None = None
        self._data = bytearray()
        self._there: set[int] = set()

    def obey(self, packet: Packet) -> int:
        if not self._n_bytes:
            return p.STATUS_UNSUPPORTED
        if packet.type == p.HeadBegin.TYPE:
            begin = p.HeadBegin.decode(packet.payload)
            if any(self._ear) and begin.ear != self._ear:
                return p.STATUS_OTHER_EAR
            if begin.n_bytes > self._n_bytes:
                return p.STATUS_TOO_LARGE
            self._begun, self._data, self._there = begin, bytearray(begin.n_bytes), set()
            return p.STATUS_DONE
        if self._begun is None:
            return p.STATUS_NO_BEGIN
        if packet.type == p.HeadChunk.TYPE:
            chunk = p.HeadChunk.decode(packet.payload)
            end = chunk.offset + len(chunk.data)
            if chunk.version != self._begun.version or end > len(self._data):
                return p.STATUS_MALFORMED
            self._data[chunk.offset : end] = chunk.data
            self._there.update(range(chunk.offset, end))
            return p.STATUS_DONE
        if len(self._there) < len(self._data):
            return p.STATUS_INCOMPLETE
        if zlib.crc32(self._data) != self._begun.crc:
            return p.STATUS_WRONG_CRC
        self.in_use, self._begun = (self._begun.version, bytes(self._data)), None
        return p.STATUS_DONE


class SimulatedDevice:
    """Owned by one thread. features: what it makes log-mel features with; None: it sends sound only."""

    def __init__(
        self,
        sample_rate: int,
        *,
        session: int,
        name: str = "simulated device",
        version: int = p.PROTOCOL_VERSION,
        ear: bytes = b"",
        front_end: bytes = b"",
        features: FrontEnd | None = None,
        bank_bytes: int = 0,
        faults: Faults = Faults(),
    ) -> None:
        self.sample_rate = sample_rate
        self.session = session
        self.format = 0
        self.mute = False
        """Whether nothing goes out: nobody is connected, or it hangs."""
        self.played = Played()
        self._hello = p.DeviceHello(
            version, session, sample_rate, self._formats(features is not None), p.CAN_HEAD if bank_bytes else 0, 320,
            0, bank_bytes,
            ear.ljust(8, b"\0"), front_end.ljust(8, b"\0"), name.encode("utf-8"),
        )  # fmt: skip
        self.bank = Bank(bank_bytes, ear)
        self._features = features
        self._faults = faults
        self._rng = np.random.default_rng(faults.seed)
        self._decoder = Decoder()
        self._outgoing: list[bytes] = []
        self._seq = 0
        self._counter = 0
        self._state = (0, 0)
        self._done: OrderedDict[int, int] = OrderedDict()
        self._host = 0

    def _formats(self, features: bool) -> int:
        return p.PCM16 | p.ADPCM | (p.LOG_MEL if features else 0)

    def hello(self) -> None:
        """Announce itself, as at every start."""
        self._send(self._hello)

    def restart(self, session: int) -> None:
        """Power off and on: the counter begins anew, nobody has asked for anything."""
        self.session, self._counter, self._seq, self.format = session, 0, 0, 0
        self._hello = replace(self._hello, session=session)
        if self._features is not None:
            self._features.reset()
        self._done.clear()
        self.played.n_restarts += 1
        self.hello()

    def receive(self, data: bytes) -> None:
        for packet in self._decoder.feed(data):
            self._take(packet)

    def hear(self, samples: NDArray[np.int16]) -> None:
        """The microphone gives (n,) samples; they go out in the format that was asked for, or nowhere."""
        waiting = 0 if self._features is None or self.format != p.LOG_MEL else self._features.n_waiting
        counter = (self._counter - waiting) & 0xFFFFFFFF
        self._counter += len(samples)
        if self.format == 0:
            return
        self.played.n_samples += len(samples)
        message: Message
        if self.format == p.PCM16:
            message = p.Pcm(counter, samples.astype("<i2").tobytes())
        elif self.format == p.ADPCM:
            data, *state = encode_block(samples, *self._state)
            self._state = (state[0], state[1])
            message = p.Adpcm(counter, data)
        else:
            assert self._features is not None
            powers = self._features(samples)
            if not len(powers):
                return
            logs = logs_of(powers)
            message = p.Features(counter, logs.shape[1], logs.shape[0], logs.astype("<i2").tobytes())
        if self.mute or (self._faults.loss and self._rng.random() < self._faults.loss):
            self.played.n_lost += len(samples)
            self._seq += 1
            return
        self._send(message)

    def outgoing(self) -> bytes:
        """Return what is to be sent, with bits turned over."""
        data = b"" if self.mute else b"".join(self._outgoing)
        self._outgoing.clear()
        if not self._faults.flip or not data:
            return data
        bits = np.unpackbits(np.frombuffer(data, dtype=np.uint8))
        bits ^= self._rng.random(len(bits)) < self._faults.flip
        return np.packbits(bits).tobytes()

    def _send(self, message: Message) -> None:
        self._outgoing.append(encode_packet(message.TYPE, self._seq & 0xFFFF, message.encode()))
        self._seq += 1

    def _take(self, packet: Packet) -> None:
        if packet.type == p.HostHello.TYPE:
            host = p.HostHello.decode(packet.payload).session
            if host not in (0, self._host):
                self._host = host
                self._done.clear()
            self.hello()
        elif packet.type == p.StatusQuery.TYPE:
            decoder = self._decoder
            self._send(p.Status(decoder.n_good, decoder.n_crc, decoder.n_malformed, *([0] * 10)))
        elif packet.type == p.TimeQuery.TYPE:
            self._send(p.TimeAnswer(p.TimeQuery.decode(packet.payload).number, self._counter & 0xFFFFFFFF))
        elif packet.type == p.Probe.TYPE:
            self._send(p.ProbeAnswer(packet.payload))
        elif packet.type in (p.Start.TYPE, p.Stop.TYPE, p.HostLabel.TYPE, *Bank.TYPES):
            self._command(packet)

    def _command(self, packet: Packet) -> None:
        """Do a command once; acknowledge every copy of it."""
        session = int.from_bytes(packet.payload[:4], "little")
        if session != self.session:
            return
        status = self._done.get(packet.seq)
        if status is None:
            self.played.n_commands += 1
            status = self._done[packet.seq] = self._obey(packet)
            while len(self._done) > MAX_REMEMBERED:
                self._done.popitem(last=False)
        self._send(p.Ack(session, packet.seq, status))

    def _obey(self, packet: Packet) -> int:
        if packet.type in Bank.TYPES:
            return self.bank.obey(packet)
        if packet.type == p.Start.TYPE:
            self.format = p.Start.decode(packet.payload).format
            if self._features is not None:
                self._features.reset()
        elif packet.type == p.Stop.TYPE:
            self.format = 0
        else:
            self.played.labels.append(p.HostLabel.decode(packet.payload).label.decode("utf-8", "replace"))
        return 0


class Simulation:
    """Plays ``samples`` ((n,) int16) on a port. Opens in ``__init__``; ``run`` ends with the recording, or ``stop``.

    speed: seconds of sound a second.
    """

    def __init__(
        self,
        device: SimulatedDevice,
        samples: NDArray[np.int16],
        address: Address,
        *,
        speed: float = 1.0,
        faults: Faults = Faults(),
        clock: Callable[[], float] = time.monotonic,
        linger_s: float = 0.5,
        repeat: bool = False,
    ) -> None:
        self.device = device
        self._samples = samples
        self._speed = speed
        self._faults = faults
        self._clock = clock
        self._linger_s = linger_s
        self._repeat = repeat
        self._stopped = threading.Event()
        self._place = 0
        self._began: float | None = None
        self._listener = TcpListener(address) if address.kind == "tcp" else None
        self._transport: Transport | None = None
        if address.kind == "udp":
            self._transport = UdpTransport(address)
        elif address.kind == "pty":
            self._transport = PtyTransport()
        elif self._listener is None:
            raise LinkLostError(f"a simulated device speaks tcp, udp or pty; not {address}")

    @property
    def where(self) -> str:
        """What a host must dial."""
        if isinstance(self._transport, PtyTransport):
            return f"serial:{self._transport.path}@921600"
        if self._listener is not None:
            return f"tcp:{self._listener.address.place}:{self._listener.port}"
        return f"udp:{self._transport.port if isinstance(self._transport, UdpTransport) else 0}"

    def stop(self) -> None:
        self._stopped.set()

    def run(self) -> Played:
        try:
            for transport in self._links():
                try:
                    self._serve(transport)
                except LinkLostError:
                    continue
        finally:
            for opened in (self._transport, self._listener):
                if opened is not None:
                    opened.close()
        return self.device.played

    def _links(self) -> Iterator[Transport]:
        while not self._over():
            if self._listener is None:
                assert self._transport is not None
                yield self._transport
                continue
            accepted = self._listener.accept(0.1)
            if accepted is None:
                self._play(None)
                continue
            self._transport = accepted
            yield accepted

    def _over(self) -> bool:
        if self._stopped.is_set():
            return True
        late = self._began is not None and self._clock() - self._began
        return bool(not self._repeat and late and late > len(self._samples) / self._rate + self._linger_s)

    @property
    def _rate(self) -> float:
        """Samples a second of our clock."""
        return self.device.sample_rate * self._speed

    def _serve(self, transport: Transport) -> None:
        heard_at = announced_at = float("-inf")
        while not self._over():
            data = transport.read(0.002)
            now = self._clock()
            heard_at = now if data else heard_at
            if now - max(heard_at, announced_at) > ANNOUNCE_S:
                announced_at = now
                self.device.hello()
            self.device.receive(data)
            self._play(transport)
            due = self.device.outgoing()
            if due:
                transport.write(due)
        transport.close()

    def _played_s(self) -> float:
        return 0.0 if self._began is None else (self._clock() - self._began) * self._speed

    def _silent(self) -> bool:
        return self._faults.pause_s > 0.0 and 2.0 <= self._played_s() < 2.0 + self._faults.pause_s

    def _play(self, transport: Transport | None) -> None:
        """Let the microphone hear what is due by now."""
        if self._began is None:
            if self.device.format == 0:
                return
            self._began = self._clock()
        restart = self._faults.restart_s
        if restart and self._played_s() >= restart and not self.device.played.n_restarts:
            self.device.restart(self.device.session + 1)
        n_block = round(BLOCK_S * self.device.sample_rate)
        n_due = int((self._clock() - self._began) * self._rate)
        n = len(self._samples)
        n_blocks = 0
        self.device.mute = transport is None or self._silent()
        while self._place + n_block <= n_due and (self._repeat or self._place < n) and n_blocks < 100:
            at = self._place % n
            self.device.hear(self._samples[at : at + n_block])
            self._place += len(self._samples[at : at + n_block])
            n_blocks += 1


def logs_of(powers: NDArray[np.float32]) -> NDArray[np.int16]:
    """Logarithms to the base 2 in steps of 1/256, of powers; no power at all is the lowest number."""
    with np.errstate(divide="ignore"):
        logs = np.rint(256.0 * np.log2(powers.astype(np.float64)))
    return np.clip(logs, -32768, 32767).astype(np.int16)
