"""Messages of the link. Written by ``firmware_bridge.generate`` from ``protocol.toml``: change that file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from firmware_bridge.message import Message

PROTOCOL_VERSION = 1
MAX_PAYLOAD = 1024
WINDOW = 4
PCM16 = 1
ADPCM = 2
LOG_MEL = 4
CAN_HEAD = 1
CAN_TEACH = 2
STATUS_DONE = 0
STATUS_UNKNOWN = 1
STATUS_OTHER_SESSION = 2
STATUS_MALFORMED = 3
STATUS_OTHER_EAR = 4
STATUS_TOO_LARGE = 5
STATUS_WRONG_CRC = 6
STATUS_NO_BEGIN = 7
STATUS_INCOMPLETE = 8
STATUS_UNSUPPORTED = 9


@dataclass(frozen=True)
class HostHello(Message):
    """Asks who is there. session: drawn by the host for each opening of a link; another one than before makes the
    device forget which commands it did. 0: only asks.
    """

    TYPE: ClassVar[int] = 1
    FIXED: ClassVar[str] = "<BI"

    version: int
    session: int


@dataclass(frozen=True)
class DeviceHello(Message):
    """Who is there. session: new at each start. block: samples in a packet of sound. bank_bytes: room for a head.
    ear, front_end: first 8 bytes of the SHA-256 of the embedding space and of the front end, zeros when there is
    none. name: UTF-8, at most 64 bytes.
    """

    TYPE: ClassVar[int] = 2
    FIXED: ClassVar[str] = "<BIIBBHII8s8s"

    version: int
    session: int
    sample_rate: int
    formats: int
    abilities: int
    block: int
    head_version: int
    bank_bytes: int
    ear: bytes
    front_end: bytes
    name: bytes


@dataclass(frozen=True)
class Start(Message):
    """Send sound in one format from now on."""

    TYPE: ClassVar[int] = 3
    FIXED: ClassVar[str] = "<IB"

    session: int
    format: int


@dataclass(frozen=True)
class Stop(Message):
    """Send no sound."""

    TYPE: ClassVar[int] = 4
    FIXED: ClassVar[str] = "<I"

    session: int


@dataclass(frozen=True)
class Ack(Message):
    """What became of the command with that sequence number; every copy of a command is answered."""

    TYPE: ClassVar[int] = 5
    FIXED: ClassVar[str] = "<IHB"

    session: int
    seq: int
    status: int


@dataclass(frozen=True)
class Pcm(Message):
    """Sound: int16, one channel. sample: counter of the first sample, which counts on over whatever was not sent."""

    TYPE: ClassVar[int] = 6
    FIXED: ClassVar[str] = "<I"

    sample: int
    data: bytes


@dataclass(frozen=True)
class Adpcm(Message):
    """Sound as one block of IMA-ADPCM that starts from its own head, so a lost block spoils no other."""

    TYPE: ClassVar[int] = 7
    FIXED: ClassVar[str] = "<I"

    sample: int
    data: bytes


@dataclass(frozen=True)
class Features(Message):
    """Band powers as int16 logarithms to the base 2 in steps of 1/256, frame after frame; the lowest number is no
    power. sample: counter of the first sample of the first frame.
    """

    TYPE: ClassVar[int] = 8
    FIXED: ClassVar[str] = "<IBB"

    sample: int
    n_bands: int
    n_frames: int
    data: bytes


@dataclass(frozen=True)
class TimeQuery(Message):
    """Asks for the sample counter."""

    TYPE: ClassVar[int] = 9
    FIXED: ClassVar[str] = "<I"

    number: int


@dataclass(frozen=True)
class TimeAnswer(Message):
    """The sample counter when the query with that number was read."""

    TYPE: ClassVar[int] = 10
    FIXED: ClassVar[str] = "<II"

    number: int
    sample: int


@dataclass(frozen=True)
class StatusQuery(Message):
    """Asks for the device's counters."""

    TYPE: ClassVar[int] = 11
    FIXED: ClassVar[str] = "<"


@dataclass(frozen=True)
class Status(Message):
    """Counters since the start, which wrap: packets taken, packets with a wrong CRC, what is no packet (too long
    included), bytes that the receiver lost, blocks of sound that found no room, packets of unknown type, copies of
    commands, commands refused, packets of another kind that found no room, windows judged, and windows passed over
    because the one before took too long; bytes of stack that were never used (0: not measured); milliseconds since
    the start.
    """

    TYPE: ClassVar[int] = 12
    FIXED: ClassVar[str] = "<IIIIIIIIIIIII"

    n_good: int
    n_crc: int
    n_malformed: int
    n_overruns: int
    n_dropped: int
    n_unknown: int
    n_copies: int
    n_refused: int
    n_unsent: int
    n_windows: int
    n_passed_over: int
    stack_free: int
    uptime_ms: int


@dataclass(frozen=True)
class HostLabel(Message):
    """What the host heard. phase 1: it begins, 0: it ended. label: UTF-8, at most 64 bytes; empty: an unknown
    sound.
    """

    TYPE: ClassVar[int] = 13
    FIXED: ClassVar[str] = "<IfB"

    session: int
    score: float
    phase: int
    label: bytes


@dataclass(frozen=True)
class DeviceLabel(Message):
    """What the device heard in the window that ends at that sample, with the head of that version. index: of the
    head's classes, -1: none of them. name: of the class as the head has it, UTF-8, cut to 23 bytes.
    """

    TYPE: ClassVar[int] = 14
    FIXED: ClassVar[str] = "<IIhf"

    sample: int
    head_version: int
    index: int
    score: float
    name: bytes


@dataclass(frozen=True)
class Probe(Message):
    """To be sent back as it is."""

    TYPE: ClassVar[int] = 15
    FIXED: ClassVar[str] = "<"

    data: bytes


@dataclass(frozen=True)
class ProbeAnswer(Message):
    """The bytes of a Probe."""

    TYPE: ClassVar[int] = 16
    FIXED: ClassVar[str] = "<"

    data: bytes


@dataclass(frozen=True)
class HeadBegin(Message):
    """A head of n_bytes with that CRC-32 is coming for the bank that is not in use. ear: as in DeviceHello."""

    TYPE: ClassVar[int] = 17
    FIXED: ClassVar[str] = "<IIHBBII8s"

    session: int
    version: int
    dim: int
    n_classes: int
    n_rivals: int
    n_bytes: int
    crc: int
    ear: bytes


@dataclass(frozen=True)
class HeadChunk(Message):
    """Bytes of the head from offset on; a copy changes nothing."""

    TYPE: ClassVar[int] = 18
    FIXED: ClassVar[str] = "<III"

    session: int
    version: int
    offset: int
    data: bytes


@dataclass(frozen=True)
class HeadCommit(Message):
    """All is there: from the next window on this head hears, if its CRC is right."""

    TYPE: ClassVar[int] = 19
    FIXED: ClassVar[str] = "<II"

    session: int
    version: int


@dataclass(frozen=True)
class Teach(Message):
    """Learn the next window as an example of that class of the head in use, on the device itself. index 255: of
    none of them.
    """

    TYPE: ClassVar[int] = 20
    FIXED: ClassVar[str] = "<IB"

    session: int
    index: int


@dataclass(frozen=True)
class Example(Message):
    """A window that was learnt on the device; sent when it is learnt, and again to each host that opens the link:
    the last 16. index, head_version: of which class of which head. data: n_name bytes of the class's name, then
    the embedding, int16 on the grid.
    """

    TYPE: ClassVar[int] = 21
    FIXED: ClassVar[str] = "<IIBB"

    sample: int
    head_version: int
    index: int
    n_name: int
    data: bytes


@dataclass(frozen=True)
class Log(Message):
    """A sentence for people, UTF-8."""

    TYPE: ClassVar[int] = 22
    FIXED: ClassVar[str] = "<"

    text: bytes


@dataclass(frozen=True)
class Scores(Message):
    """All scores of a window, float32, in the order of the head's classes; sample and head_version as in
    DeviceLabel.
    """

    TYPE: ClassVar[int] = 23
    FIXED: ClassVar[str] = "<II"

    sample: int
    head_version: int
    data: bytes


@dataclass(frozen=True)
class HeadQuery(Message):
    """Asks for the state of the banks."""

    TYPE: ClassVar[int] = 24
    FIXED: ClassVar[str] = "<"


@dataclass(frozen=True)
class HeadState(Message):
    """version: of the head in use, 0: none. state: of the other bank, 0 empty, 1 filling, 2 it waits for the next
    window; next_version: of what is in it. n_flips: heads taken over.
    """

    TYPE: ClassVar[int] = 25
    FIXED: ClassVar[str] = "<IBBBII"

    version: int
    n_classes: int
    n_rivals: int
    state: int
    next_version: int
    n_flips: int


MESSAGES: dict[int, type[Message]] = {
    HostHello.TYPE: HostHello,
    DeviceHello.TYPE: DeviceHello,
    Start.TYPE: Start,
    Stop.TYPE: Stop,
    Ack.TYPE: Ack,
    Pcm.TYPE: Pcm,
    Adpcm.TYPE: Adpcm,
    Features.TYPE: Features,
    TimeQuery.TYPE: TimeQuery,
    TimeAnswer.TYPE: TimeAnswer,
    StatusQuery.TYPE: StatusQuery,
    Status.TYPE: Status,
    HostLabel.TYPE: HostLabel,
    DeviceLabel.TYPE: DeviceLabel,
    Probe.TYPE: Probe,
    ProbeAnswer.TYPE: ProbeAnswer,
    HeadBegin.TYPE: HeadBegin,
    HeadChunk.TYPE: HeadChunk,
    HeadCommit.TYPE: HeadCommit,
    Teach.TYPE: Teach,
    Example.TYPE: Example,
    Log.TYPE: Log,
    Scores.TYPE: Scores,
    HeadQuery.TYPE: HeadQuery,
    HeadState.TYPE: HeadState,
}
