"""What a link tells: the device and its sound, its labels, its counters, and when it was lost. Values only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from firmware_bridge.control import Outcome
from firmware_bridge.timing import Drift


@dataclass(frozen=True)
class Device:
    """What a device says of itself. session: drawn anew at each of its starts. sample_rate: Hz. formats: what it can
    send. ear, front_end: first eight bytes of the hash of the space of the ear built into it, and of the front end that
    makes its features; empty when it has none."""

    session: int
    name: str
    sample_rate: int
    formats: tuple[str, ...]
    ear: bytes = b""
    front_end: bytes = b""
    head_version: int = 0
    bank_bytes: int = 0
    takes_heads: bool = False


@dataclass(frozen=True)
class Greeted:
    """The device has answered. restarted: it is another session than before on this link."""

    device: Device
    restarted: bool


@dataclass(frozen=True, eq=False)
class Sound:
    """samples: (n,) int16. start: the device's counter at the first one, since it started; it never wraps here."""

    start: int
    samples: NDArray[np.int16]
    at: float = 0.0


@dataclass(frozen=True, eq=False)
class Frames:
    """powers: (n_frames, n_bands) float32. start: the device's counter at the first sample of the first frame."""

    start: int
    powers: NDArray[np.float32]
    at: float = 0.0


@dataclass(frozen=True)
class Heard:
    """What the recogniser on the device heard. head_version: with which head. index: of the class in that head; None:
    unknown. score: as the head gives it. name: of the class, cut to 23 bytes; empty for an unknown sound."""

    sample: int
    head_version: int
    index: int | None
    score: float
    name: str = ""


@dataclass(frozen=True, eq=False)
class Scored:
    """All scores (n_classes,) of the window that ends at ``sample``, by the head of that version."""

    sample: int
    head_version: int
    scores: NDArray[np.float64]


@dataclass(frozen=True)
class Banks:
    """The heads on the device. version, n_classes: of the one in use, 0 for none. state: of the other bank, 0 empty,
    1 filling with ``next_version``, 2 whole and waiting for the next window. n_flips: heads taken over so far."""

    version: int
    n_classes: int
    state: int
    next_version: int
    n_flips: int


@dataclass(frozen=True, eq=False)
class Lesson:
    """A window that was taught to the device itself. index: of the class in its head of that version; None: of none of
    them. name: of the class, cut to 23 bytes. grid: (dim,) int16."""

    sample: int
    head_version: int
    index: int | None
    name: str
    grid: NDArray[np.int16]


@dataclass(frozen=True)
class Counted:
    """The device's own counters, by name."""

    counters: dict[str, int]


@dataclass(frozen=True)
class Said:
    """A sentence for people, from the device."""

    sentence: str


@dataclass(frozen=True)
class Lost:
    """The link is down; sentence: why. It is dialled again, unless ``for_good``."""

    sentence: str
    for_good: bool = False


@dataclass(frozen=True)
class LinkHealth:
    """Packets since the link was opened: whole ones; failed the check sum; not decodable; too long; of types that this
    version does not know; out of order or repeated; commands sent again. drift: of the device's clock."""

    n_good: int = 0
    n_crc: int = 0
    n_malformed: int = 0
    n_oversized: int = 0
    n_unknown: int = 0
    n_late: int = 0
    n_retries: int = 0
    n_bytes: int = 0
    n_dropped: int = 0
    drift: Drift | None = None
    device: dict[str, int] = field(default_factory=dict)


Event: TypeAlias = Greeted | Sound | Frames | Heard | Scored | Banks | Lesson | Counted | Said | Lost | Outcome
