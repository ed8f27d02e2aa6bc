"""Which ear a device uses: a ring of slots, the moves between their states, and the file that keeps them.

    DOWNLOADED -> VERIFIED -> PREPARED -> TRIAL -> COMMITTED
         any of them -> REJECTED(reason)      TRIAL -> ROLLED_BACK
         TRIAL -> VERIFIED: not yet, because something that was taught meanwhile cannot move

The moves are pure. Whoever changes the file does it under a lock, threads of one process included. A start with an ear
on trial is counted before the ear is loaded, so an ear that takes the process down gets three starts and no more. The
bundle inside the package is the slot of last resort and is never written.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Literal

from edge.durable import write_file
from edge.errors import StateError, SyncError
from edge.space import canonical_json

FILE = "slots.json"
LOCK = "slots.lock"
FOLDER = "slots"
TRIAL_STARTS = 3
MAX_FILE_BYTES = 1 << 20
MAX_REMEMBERED = 200

State = Literal["DOWNLOADED", "VERIFIED", "PREPARED", "TRIAL", "COMMITTED", "REJECTED", "ROLLED_BACK"]
STATES = ("DOWNLOADED", "VERIFIED", "PREPARED", "TRIAL", "COMMITTED", "REJECTED", "ROLLED_BACK")
_MOVES: Mapping[str, tuple[str, ...]] = {
    "VERIFIED": ("DOWNLOADED", "TRIAL"),
    "PREPARED": ("VERIFIED", "PREPARED"),
    "TRIAL": ("PREPARED",),
    "COMMITTED": ("TRIAL",),
    "ROLLED_BACK": ("TRIAL",),
    "REJECTED": ("DOWNLOADED", "VERIFIED", "PREPARED", "TRIAL"),
}
_ENDED = ("REJECTED", "ROLLED_BACK")


@dataclass(frozen=True)
class Slot:
    """One bundle, by the hash of all its bytes. boots_left: starts that a trial has left."""

    sha256: str
    name: str
    version: int
    state: str
    boots_left: int = 0
    reason: str = ""

    @property
    def folder(self) -> str:
        """Its folder below the state directory."""
        return f"{FOLDER}/{self.sha256[:16]}"


@dataclass(frozen=True)
class Slots:
    """active: the slot in use, on trial or committed; None: no slot, but what the owner chose or the package brings.

    fallback: what was in use before ``active``. watermark: by name, the highest version that was ever in use for good.
    """

    slots: Mapping[str, Slot] = field(default_factory=dict)
    active: str | None = None
    fallback: str | None = None
    watermark: Mapping[str, int] = field(default_factory=dict)

    @property
    def trial(self) -> Slot | None:
        """The slot on trial, if there is one."""
        slot = self.slots.get(self.active or "")
        return slot if slot is not None and slot.state == "TRIAL" else None

    def admit(self, sha256: str, name: str, version: int, *, in_use: tuple[str, int] | None = None) -> Slots:
        """Take a bundle in. in_use: name and version of the ear in use, whatever way it came here.

        Raises SyncError for what was rejected before, for a version that is not newer, and while a trial runs.
        """
        known = self.slots.get(sha256)
        if known is not None and known.state in _ENDED:
            raise SyncError(f"bundle {name} {version} was turned down before: {known.reason}; wait for a newer one")
        if known is not None and known.state in ("TRIAL", "COMMITTED"):
            raise SyncError(f"bundle {name} {version} is in use already")
        if self.trial is not None:
            raise SyncError(f"bundle {self.trial.name} {self.trial.version} is on trial; wait until that has ended")
        newest = max(self.watermark.get(name, 0), in_use[1] if in_use is not None and in_use[0] == name else 0)
        if version <= newest:
            raise SyncError(
                f"bundle {name} has version {version} and this device has used version {newest}; an older ear is "
                "never taken, publish it again under a higher version"
            )
        return self._with(Slot(sha256, name, version, "DOWNLOADED"))

    def move(self, sha256: str, state: State, reason: str = "") -> Slots:
        """Move a slot to its next state. Raises SyncError when there is no such move."""
        slot = self.slots.get(sha256)
        if slot is None or slot.state not in _MOVES.get(state, ()):
            raise SyncError(f"slot {sha256[:12]} cannot go from {slot.state if slot else 'nothing'} to {state}")
        moved = replace(slot, state=state, reason=reason, boots_left=TRIAL_STARTS if state == "TRIAL" else 0)
        after = self._with(moved)
        if state == "TRIAL":
            return replace(after, active=sha256, fallback=self.active)
        if state == "COMMITTED":
            highest = max(slot.version, self.watermark.get(slot.name, 0))
            return replace(after, watermark={**self.watermark, slot.name: highest})
        if state in (*_ENDED, "VERIFIED") and self.active == sha256:
            return replace(after, active=self.fallback, fallback=None)
        return after

    def start(self) -> Slots:
        """Count a start. With a trial that has no start left, the ear before is in use again."""
        trial = self.trial
        if trial is None:
            return self
        if trial.boots_left == 0:
            reason = f"it was started {TRIAL_STARTS} times and heard too little without a fault"
            return self.move(trial.sha256, "ROLLED_BACK", reason)
        return self._with(replace(trial, boots_left=trial.boots_left - 1))

    def step_back(self) -> Slots:
        """The slot in use cannot be read any more: use the one before."""
        return replace(self, active=self.fallback, fallback=None)

    def owner_chose(self) -> Slots:
        """The owner named a backbone: no slot is in use, and a trial has ended."""
        after = self
        if self.trial is not None:
            after = self.move(self.trial.sha256, "ROLLED_BACK", "the owner chose another backbone")
        return replace(after, active=None, fallback=None)

    @property
    def needed(self) -> tuple[str, ...]:
        """Folders, below the state directory, of the slot in use and the one before."""
        return tuple(slot.folder for name in (self.active, self.fallback) if (slot := self.slots.get(name or "")))

    def removable(self) -> tuple[Slot, ...]:
        """Slots whose files are not needed any more."""
        needed = {self.active, self.fallback}
        return tuple(
            slot for slot in self.slots.values() if slot.sha256 not in needed and slot.state in (*_ENDED, "COMMITTED")
        )

    def _with(self, slot: Slot) -> Slots:
        kept = {sha256: old for sha256, old in self.slots.items() if sha256 != slot.sha256}
        while len(kept) >= MAX_REMEMBERED:
            kept.pop(next(sha256 for sha256 in kept if sha256 not in (self.active, self.fallback)))
        return replace(self, slots={**kept, slot.sha256: slot})

    def to_bytes(self) -> bytes:
        body = {
            "version": 1,
            "slots": [asdict(slot) for slot in self.slots.values()],
            "active": self.active,
            "fallback": self.fallback,
            "watermark": dict(self.watermark),
        }
        return canonical_json({**body, "sha256": hashlib.sha256(canonical_json(body)).hexdigest()}) + b"\n"

    @classmethod
    def from_bytes(cls, data: bytes) -> Slots:
        """Raises ValueError for any byte that was altered."""
        value = json.loads(data)
        names = {entry.name for entry in fields(Slot)}
        if not isinstance(value, dict) or value.get("version") != 1:
            raise ValueError("it is of another version")
        slots = {entry["sha256"]: Slot(**{name: entry[name] for name in names}) for entry in value["slots"]}
        found = cls(slots, value["active"], value["fallback"], value["watermark"])
        if found.to_bytes() != data or any(slot.state not in STATES for slot in slots.values()):
            raise ValueError("its bytes do not match their hash")
        return found


def load_slots(state_dir: Path) -> tuple[Slots, str | None]:
    """Return the slots, and a sentence when their file is damaged: then none is in use. Raises StateError."""
    path = state_dir / FILE
    try:
        with path.open("rb") as file:
            return Slots.from_bytes(file.read(MAX_FILE_BYTES)), None
    except (FileNotFoundError, NotADirectoryError):
        return Slots(), None
    except OSError as error:
        raise StateError(f"{path} cannot be read ({error.strerror}); make it readable, or pass --bundle DIR") from error
    except (ValueError, TypeError, KeyError) as error:
        return Slots(), f"{path} is damaged ({error}): the backbone chosen before it, or the shipped one, is used"


def save_slots(state_dir: Path, slots: Slots) -> None:
    """Put the slots in their file, whole or not at all. Raises StateError."""
    try:
        write_file(state_dir / FILE, [slots.to_bytes()])
    except OSError as error:
        raise StateError(f"{state_dir / FILE} cannot be written ({error.strerror}); make room") from error


@contextmanager
def slots_locked(state_dir: Path) -> Iterator[None]:
    """Let one thread of one process read, change and save the slots at a time; the kernel drops the lock of the dead.

    Raises StateError.
    """
    import fcntl

    path = state_dir / LOCK
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StateError(f"{path} cannot be made ({error.strerror}); make room or rights for it") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def change_slots(state_dir: Path, change: Callable[[Slots], Slots]) -> Slots:
    """Change the slots as they are now on the disk; return them as they are then. Raises StateError, SyncError."""
    with slots_locked(state_dir):
        before, _ = load_slots(state_dir)
        after = change(before)
        if after != before:
            save_slots(state_dir, after)
        return after
