"""Which bundles the fleet's operator has signed, and their archives, verified. Trust begins at the first root file.

What was trusted is kept, so that nothing older is accepted later. The time that counts is the later of the system clock
and the last time that a signed timestamp named: a clock set back revives nothing that was signed before then. Only
signatures move the remembered time, never the system clock, so a clock that runs ahead spoils nothing. And a state that
was once found expired stays so until a newer one comes, unless the clock had then left what was signed more than five
years behind and was surely wrong. The remembered time belongs to the key that signed it: should that key's owner have
named a time to come, the operator rotates the timestamp key, and the device forgets.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.bundle_archive import MAX_ARCHIVE_BYTES, SUFFIX
from edge.durable import publish_file, remove_file, sealed_json, unsealed_json, write_file
from edge.errors import SyncError, TrustError
from edge.sync.fetcher import Fetcher, download
from edge.sync.offer import SIGNED_AT, Offer, read_offer

if TYPE_CHECKING:
    from edge.sync.tuf_updater import TrustedUpdater

MAX_SILENCE_SECONDS = 5 * 365 * 86_400.0
_MAX_TIME_BYTES = 65_536
_LAST_SECOND = 253_402_214_400.0  # of what a date can hold


@dataclass(frozen=True)
class TrustedTime:
    """What signatures say of the time. signed_at: seconds since 1970. keys: ids of the timestamp keys that said so.

    expired: version of the timestamp whose state was found to have expired; 0: none.
    """

    signed_at: int = 0
    keys: tuple[str, ...] = ()
    expired: int = 0

    def of(self, keys: tuple[str, ...]) -> TrustedTime:
        """Return this if ``keys`` said it, else an empty memory of these keys."""
        return self if self.keys == keys else TrustedTime(keys=keys)


class BundleChannel:
    """One look at one repository. folder: what is trusted (STATE/sync/trust). bootstrap: the first root file."""

    def __init__(
        self, folder: Path, fetcher: Fetcher, *, bootstrap: bytes, now: Callable[[], float] = time.time
    ) -> None:
        self._folder = folder
        self._fetcher = fetcher
        self._bootstrap = bootstrap
        self._now = now
        self._offers: tuple[Offer, ...] | None = None

    def offers(self) -> tuple[Offer, ...]:
        """Return what is published, verified. Asks the repository at the first call only.

        Raises TrustError for whatever is not signed, fresh and whole, SyncError when the repository is out of reach.
        """
        if self._offers is None:
            self._offers = self._refresh()
        return self._offers

    def newest(self, line: str) -> Offer | None:
        """Return the highest version of the bundle named ``line``, None when there is none. Raises as ``offers``."""
        return max((o for o in self.offers() if o.name == line), key=lambda o: o.version, default=None)

    def download(self, offer: Offer) -> Path:
        """Return the archive of ``offer``, whole and of the signed hash. Goes on where an earlier call was cut off.

        Raises SyncError when it did not come whole, TrustError (``wrong-hash``, ``endless``).
        """
        if offer.length > MAX_ARCHIVE_BYTES:
            raise TrustError(f"{offer.path} has {offer.length} bytes; wanted at most {MAX_ARCHIVE_BYTES}", "endless")
        folder = self._folder / "downloads"
        partial, whole = folder / f"{offer.sha256}.partial", folder / offer.path
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for other in folder.iterdir():
                if other not in (partial, whole):
                    remove_file(other)
            if whole.exists() and _hash_of(whole) == offer.sha256:
                return whole
            name = f"targets/{offer.sha256}.{offer.path}"
            resumed_at = download(self._fetcher, name, partial, offer.length)
            if resumed_at > 0 and _hash_of(partial) != offer.sha256:  # the first part was of something else
                remove_file(partial)
                download(self._fetcher, name, partial, offer.length)
            if _hash_of(partial) != offer.sha256:
                remove_file(partial)
                raise TrustError(
                    f"{offer.path} does not match the hash that was signed; it is not used, and fetched anew next time",
                    "wrong-hash",
                )
            publish_file(partial, whole)
        except OSError as error:
            raise SyncError(f"{offer.path} cannot be kept in {folder} ({error.strerror}); make room") from error
        return whole

    def discard(self, offer: Offer) -> None:
        """Remove the archive of ``offer`` once it is unpacked or refused. Raises OSError."""
        remove_file(self._folder / "downloads" / offer.path)

    def _refresh(self) -> tuple[Offer, ...]:
        from tuf.api.exceptions import DownloadError, ExpiredMetadataError, RepositoryError

        from edge.sync.tuf_updater import TrustedUpdater

        memory, clock = self._load(), min(max(self._now(), 0.0), _LAST_SECOND)
        updater: TrustedUpdater | None = None

        def reference(root: Any) -> float:
            return max(clock, memory.of(_keys(root)).signed_at)

        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            updater = TrustedUpdater(self._folder, self._fetcher, bootstrap=self._bootstrap, reference=reference)
            updater.refresh()
        except RepositoryError as error:
            if updater is None:
                raise TrustError(
                    f"the first root file of this device is unusable ({error}); enrol it again", "malformed"
                ) from error
            if isinstance(error, ExpiredMetadataError):
                self._save(memory, _expired(memory, updater, clock))
            raise updater.explain(error) from error
        except DownloadError as error:
            raise SyncError(f"the list of bundles is not whole where it was looked for: {error}") from error
        except OSError as error:
            raise SyncError(f"{self._folder} cannot be written ({error.strerror}); make room or rights") from error
        known = memory.of(_keys(updater.root))
        assert updater.timestamp is not None
        if updater.timestamp.version <= known.expired:
            raise TrustError(
                "the signed list of bundles was found to be out of date before, and is no newer now; the clock of this "
                "device was set back, or it is kept from newer bundles",
                "freeze",
            )
        offered = tuple(
            read_offer(path, target.length, target.hashes.get("sha256"), target.custom)
            for path, target in sorted(updater.targets.targets.items())
            if path.endswith(SUFFIX)
        )
        self._save(memory, TrustedTime(_signed_at(known, updater), known.keys))
        return offered

    def _load(self) -> TrustedTime:
        try:
            with (self._folder / "time.json").open("rb") as file:
                value = unsealed_json(file.read(_MAX_TIME_BYTES))
            kept = TrustedTime(**{**value, "keys": tuple(value["keys"])})
            numbers = (kept.signed_at, kept.expired)
            return kept if all(type(n) is int and n >= 0 for n in numbers) else TrustedTime()
        except (OSError, ValueError, TypeError, KeyError):
            return TrustedTime()

    def _save(self, before: TrustedTime, after: TrustedTime) -> None:
        if after != before:
            try:
                write_file(self._folder / "time.json", [sealed_json(asdict(after))])
            except OSError as error:
                raise SyncError(f"{self._folder} cannot be written ({error.strerror}); make room") from error


def _keys(root: Any) -> tuple[str, ...]:
    return tuple(sorted(root.roles["timestamp"].keyids))


def _signed_at(known: TrustedTime, updater: TrustedUpdater) -> int:
    """The latest time that a signature names: of this timestamp, whose signature holds, or of an earlier one."""
    timestamp = updater.timestamp
    named = None if timestamp is None else timestamp.unrecognized_fields.get(SIGNED_AT)
    if timestamp is None or type(named) is not int:
        return known.signed_at
    return max(known.signed_at, min(named, int(timestamp.expires.timestamp())))


def _expired(memory: TrustedTime, updater: TrustedUpdater, clock: float) -> TrustedTime:
    """What to remember of a state that has expired."""
    known = memory.of(_keys(updater.root))
    known = replace(known, signed_at=_signed_at(known, updater))
    if updater.timestamp is None or clock > known.signed_at + MAX_SILENCE_SECONDS:
        return known
    return replace(known, expired=max(known.expired, updater.timestamp.version))


def _hash_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
