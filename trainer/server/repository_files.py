"""The signed files of the repository of bundles: how they are read, signed and written.

Every change is written in one order: target files, N.targets.json, N.snapshot.json, timestamp.json, N.root.json. A file
that others name is there before its name is, so a crash at any write leaves a repository that devices accept: the old
state or the new one. What a crash left behind unnamed is overwritten by the next change.

Timestamps that are served have even versions. The odd ones between belong to exports, so that a device takes a stick
that is newer than what it saw, and then the server again (``trainer.server.export_stick``).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import TypeVar

from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]
from tuf.api.exceptions import RepositoryError, UnsignedMetadataError
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Targets, Timestamp  # type: ignore[attr-defined]

from edge.durable import write_file
from edge.errors import StateError
from edge.sync.offer import SIGNED_AT
from trainer.server.signing_keys import ONLINE_ROLES, find_keys, online_folder

DAY = 86_400.0
VALID_SECONDS = {"root": 5 * 365 * DAY, "targets": 2 * 365 * DAY, "snapshot": 30 * DAY, "timestamp": 7 * DAY}
MAX_METADATA_BYTES = 5_000_000

T = TypeVar("T", Root, Targets, Snapshot, Timestamp)


class KeyAbsentError(StateError):
    """An offline key that must sign is in none of the folders that were named."""


def repository_folder(data_dir: Path) -> Path:
    return data_dir / "repository"


@dataclass
class State:
    """What is in force, or will be; all versions 0 before the first write."""

    targets: Targets
    snapshot: Snapshot
    timestamp: Timestamp

    @classmethod
    def empty(cls) -> State:
        state = cls(Targets(), Snapshot(), Timestamp())
        for signed in (state.targets, state.snapshot, state.timestamp):
            signed.version = 0
        return state


@dataclass
class Change:
    """One change of the repository. also: new keys that sign beside those which the root names."""

    data_dir: Path
    now: float
    root: Metadata[Root]
    state: State
    targets_signers: Sequence[CryptoSigner] = ()
    also: dict[str, list[CryptoSigner]] = field(default_factory=dict)

    def write(
        self,
        *,
        targets: bool = False,
        snapshot: bool = False,
        snapshot_seconds: float = VALID_SECONDS["snapshot"],
        root: Metadata[Root] | None = None,
    ) -> None:
        """Sign and write what changed, and everything that names it."""
        state, first = self.state, self.state.timestamp.version == 0
        if targets or first:
            state.targets.version += 1
            state.targets.expires = valid_until(self.now, "targets")
            data = self._put("targets", state.targets, self.targets_signers, root)
            state.snapshot.meta["targets.json"] = _named(state.targets.version, data)
        if targets or snapshot or first:
            state.snapshot.version += 1
            state.snapshot.expires = moment(self.now + snapshot_seconds)
            data = self._put("snapshot", state.snapshot, self.online_signers("snapshot"), root)
            state.timestamp.snapshot_meta = _named(state.snapshot.version, data)
        state.timestamp.version += 2
        state.timestamp.expires = valid_until(self.now, "timestamp")
        state.timestamp.unrecognized_fields[SIGNED_AT] = int(self.now)
        self._put("timestamp", state.timestamp, self.online_signers("timestamp"), root)
        if root is not None:
            self.write_root(root)

    def require_clock(self) -> None:
        """Raise StateError when the clock cannot be right: nothing is signed with it, devices would remember it.

        It is before the time that was signed last by more than devices bear, or past the end of the root metadata.
        """
        signed_at = self.state.timestamp.unrecognized_fields.get(SIGNED_AT, 0)
        if self.state.timestamp.version and signed_at - self.now > VALID_SECONDS["timestamp"] / 2:
            raise StateError(
                f"the clock says {moment(self.now):%Y-%m-%d}, the last timestamp was signed on "
                f"{moment(signed_at):%Y-%m-%d}; correct the clock, or if it is right now, 'soundkeep-trainer keys "
                "rotate timestamp': devices bear no earlier time under the old key"
            )
        if self.root.signed.expires.timestamp() < self.now:
            raise StateError(
                f"the clock says {moment(self.now):%Y-%m-%d}, the root metadata ended on "
                f"{self.root.signed.expires:%Y-%m-%d}; correct the clock, or 'soundkeep-trainer keys rotate root'"
            )

    def write_root(self, root: Metadata[Root]) -> None:
        previous = None if root.signed.version == 1 else self.root.signed
        verdict = root.signed.get_root_verification_result(previous, root.signed_bytes, root.signatures)
        if not verdict:
            raise KeyAbsentError("too few root keys signed; name with --keys every folder that holds one")
        self._write(f"{root.signed.version}.root.json", root.to_bytes())

    def online_signers(self, role: str) -> list[CryptoSigner]:
        found = find_keys([online_folder(self.data_dir)], self.root.signed.roles[role].keyids)
        return [signer for _, signer in found.values()] + self.also.get(role, [])

    def _put(self, role: str, signed: T, signers: Iterable[CryptoSigner], root: Metadata[Root] | None) -> bytes:
        metadata = signed_by(signed, signers)
        try:
            (root or self.root).signed.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
        except UnsignedMetadataError as error:
            where = online_folder(self.data_dir) if role in ONLINE_ROLES else "the folders named with --keys"
            raise KeyAbsentError(f"the {role} key is not in {where}; fetch it from its copy, or rotate it") from error
        data: bytes = metadata.to_bytes()
        self._write("timestamp.json" if role == "timestamp" else f"{signed.version}.{role}.json", data)
        return data

    def _write(self, name: str, data: bytes) -> None:
        path = repository_folder(self.data_dir) / "metadata" / name
        try:
            write_file(path, [data], mode=0o644)
        except OSError as error:
            raise StateError(f"{path} cannot be written ({error.strerror}); make room, then run it again") from error


def latest_root(data_dir: Path) -> Metadata[Root]:
    """Return the root file of the highest version. Raises StateError."""
    folder = repository_folder(data_dir) / "metadata"
    versions = [
        int(path.name.partition(".")[0]) for path in folder.glob("*.root.json") if path.name.split(".")[0].isdigit()
    ]
    if not versions:
        raise StateError(f"{data_dir} has no repository of bundles; make one with 'soundkeep-trainer keys make'")
    return _read(folder / f"{max(versions)}.root.json", Root)


def open_change(data_dir: Path, now: float) -> Change:
    """Read what is in force. Raises StateError."""
    folder = repository_folder(data_dir) / "metadata"
    root = latest_root(data_dir)
    timestamp = _read(folder / "timestamp.json", Timestamp).signed
    snapshot = _read(folder / f"{timestamp.snapshot_meta.version}.snapshot.json", Snapshot).signed
    targets = _read(folder / f"{snapshot.meta['targets.json'].version}.targets.json", Targets).signed
    return Change(data_dir, now, root, State(targets, snapshot, timestamp))


def signed_by(signed: T, signers: Iterable[CryptoSigner]) -> Metadata[T]:
    """Return ``signed`` with a signature of each signer."""
    metadata = Metadata(signed)
    for signer in signers:
        metadata.sign(signer, append=True)
    return metadata


def valid_until(now: float, role: str) -> datetime:
    return moment(now + VALID_SECONDS[role])


def moment(at: float) -> datetime:
    return datetime.fromtimestamp(int(at), timezone.utc)


@contextmanager
def locked(data_dir: Path) -> Iterator[None]:
    """Let one process at a time change the repository: the server's keeper and commands meet here."""
    folder = repository_folder(data_dir)
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _named(version: int, data: bytes) -> MetaFile:
    """Name a file by version and hash. Its length is left out: then another file in its place is told by its hash."""
    return MetaFile(version, None, {"sha256": hashlib.sha256(data).hexdigest()})


def _read(path: Path, kind: type[T]) -> Metadata[T]:
    try:
        with path.open("rb") as file:
            metadata: Metadata[T] = Metadata.from_bytes(file.read(MAX_METADATA_BYTES))
    except (OSError, RepositoryError) as error:
        raise StateError(f"{path} cannot be read ({error}); restore {path.parent} from its copy") from error
    if not isinstance(metadata.signed, kind):
        raise StateError(f"{path} is no {kind.__name__.lower()} metadata; restore {path.parent} from its copy")
    return metadata
