"""The one file on a device that knows python-tuf: the client's workflow, its clock, its files and its errors.

``Updater`` takes the time from the system clock, keeps its files without flushing them and has no argument for either.
So three of its inner parts are replaced here: the reference time (after the root, whose keys say whether the remembered
time counts, and before anything that can expire), the writing of files, and the link ``root.json``, which nobody reads
because trust always begins at the first root file. Written against tuf 6 and 7; ``tests/edge/sync/test_channel.py``
breaks when a later one moves these parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path

from tuf.api.exceptions import (
    BadVersionNumberError,
    DownloadHTTPError,
    ExpiredMetadataError,
    LengthOrHashMismatchError,
    RepositoryError,
    UnsignedMetadataError,
)
from tuf.api.metadata import Root, Targets, Timestamp  # type: ignore[attr-defined]
from tuf.ngclient import FetcherInterface, Updater  # type: ignore[attr-defined]

from edge.durable import write_file
from edge.errors import TrustError
from edge.sync.fetcher import Fetcher, NotThereError, read_whole
from edge.sync.printable import printable

NEWER = "ask whoever runs the fleet whether the server or the stick was changed"


class _TufFetcher(FetcherInterface):
    def __init__(self, fetcher: Fetcher) -> None:
        self._fetcher = fetcher

    def download_bytes(self, url: str, max_length: int) -> bytes:
        try:
            return read_whole(self._fetcher, url, max_length)
        except NotThereError as error:
            raise DownloadHTTPError(str(error), 404) from error

    def _fetch(self, url: str) -> Iterator[bytes]:
        with self._fetcher.open(url) as stream:
            yield from stream.pieces


class TrustedUpdater(Updater):
    """One look at a repository. reference: what time it is, given the root; phase: the role that was being loaded."""

    def __init__(self, folder: Path, fetcher: Fetcher, *, bootstrap: bytes, reference: Callable[[Root], float]) -> None:
        self.phase = "root"
        super().__init__(str(folder), "metadata/", fetcher=_TufFetcher(fetcher), bootstrap=bootstrap)
        self._reference = reference

    @property
    def root(self) -> Root:
        return self._trusted_set.root

    @property
    def timestamp(self) -> Timestamp | None:
        """The last timestamp whose signature held, expired or not."""
        return self._trusted_set.timestamp if Timestamp.type in self._trusted_set else None

    @property
    def targets(self) -> Targets:
        return self._trusted_set.targets

    @property
    def now(self) -> datetime:
        return self._trusted_set.reference_time

    def _load_root(self) -> None:
        super()._load_root()
        self._trusted_set.reference_time = datetime.fromtimestamp(self._reference(self.root), timezone.utc)

    def _load_timestamp(self) -> None:
        self.phase = "timestamp"
        super()._load_timestamp()

    def _load_snapshot(self) -> None:
        self.phase = "snapshot"
        super()._load_snapshot()

    def _load_targets(self, role: str, parent_role: str) -> Targets:
        self.phase = "targets"
        return super()._load_targets(role, parent_role)

    def _persist_file(self, filename: str, data: bytes) -> None:
        write_file(Path(filename), [data])

    def _update_root_symlink(self) -> None:
        """Not kept."""

    def explain(self, error: RepositoryError) -> TrustError:
        """Return the refusal that ``error`` stands for, in one sentence."""
        what, why = f"the signed list of bundles ({self.phase})", printable(str(error))
        if isinstance(error, ExpiredMetadataError):
            return TrustError(
                f"{what} is no longer valid on {self.now:%Y-%m-%d}: this device may be kept from newer bundles; have "
                "it reach the server, fetch a newer stick, or correct its clock",
                "freeze",
            )
        if isinstance(error, UnsignedMetadataError):
            return TrustError(f"{what} is not signed by the keys of this fleet; {NEWER}", "wrong-key")
        if isinstance(error, BadVersionNumberError):
            if self.phase == "targets":
                return TrustError(f"{what} is not the one that the others name: {why}; {NEWER}", "mix-and-match")
            return TrustError(f"{what} is older than what this device has seen: {why}; {NEWER}", "rollback")
        if isinstance(error, LengthOrHashMismatchError):
            return TrustError(f"{what} does not match the hash that was signed; {NEWER}", "mix-and-match")
        if "missing info" in why:
            return TrustError(f"{what} leaves out what it named before: {why}; {NEWER}", "rollback")
        return TrustError(f"{what} is malformed: {why}; {NEWER}", "malformed")
