"""Looking for a newer backbone: signed, newer than the one in use, not turned down before.

It comes from the server after a sync, or from a copy of its repository in a folder or on a web server.

What goes wrong after a sync is said and kept for `sync status`; it takes nothing back of what was synced.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from edge.bundle import Bundle
from edge.errors import SoundkeepError, TrustError
from edge.sync.channel import BundleChannel
from edge.sync.client import SignedClient
from edge.sync.device_file import SyncFolder
from edge.sync.fetcher import Fetcher, NotThereError, SignedFetcher
from edge.sync.offer import Offer
from edge.sync.outbox import Outbox
from edge.sync.retry import StoppedError
from edge.sync.slots import load_slots
from edge.sync.upgrade import Considered

MAX_ROOT_BYTES = 1 << 20
PUT_OFF_SECONDS = 86_400.0


class BundleInUse(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def version(self) -> int: ...


class Considers(Protocol):
    """What of ``edge.sync.upgrade.Upgrade`` is needed here."""

    def __call__(self, archive_or_folder: Path, require: Callable[[Bundle], object]) -> Considered: ...


def take_newest(
    fetcher: Fetcher,
    root: bytes,
    state_dir: Path,
    in_use: BundleInUse,
    consider: Considers,
    *,
    worth_it: Callable[[Offer], bool] = lambda offer: True,
) -> Considered | None:
    """Have ``consider`` take the newest bundle of the name in use as far as it goes; None where there is none to take.

    root: the first root file, which all trust begins with. worth_it: asked before anything is downloaded. Raises
    TrustError, NotThereError (nothing is published), SyncError, BundleError, StateError.
    """
    channel = BundleChannel(SyncFolder(state_dir).trust_path, fetcher, bootstrap=root)
    offer = channel.newest(in_use.name)
    if offer is None or offer.version <= in_use.version:
        return None
    known = load_slots(state_dir)[0].slots.get(offer.bundle_sha256)
    if known is not None and known.state in ("REJECTED", "ROLLED_BACK", "TRIAL", "COMMITTED"):
        return None
    if not worth_it(offer):
        return None
    if known is not None and known.state == "VERIFIED" and (state_dir / known.folder).is_dir():
        return consider(state_dir / known.folder, offer.require)  # it was downloaded before, and could not be taken yet
    archive = channel.download(offer)
    try:
        return consider(archive, offer.require)
    finally:
        with contextlib.suppress(OSError):
            channel.discard(offer)


def read_root(state_dir: Path) -> bytes | None:
    """The first root file that this device was given, None where it has none."""
    try:
        with SyncFolder(state_dir).root_path.open("rb") as file:
            return file.read(MAX_ROOT_BYTES)
    except OSError:
        return None


def look_for_bundle(
    client: SignedClient,
    outbox: Outbox,
    state_dir: Path,
    in_use: BundleInUse,
    consider: Considers,
    tell: Callable[[str], None] = lambda words: None,
    *,
    insist: bool = False,
) -> None:
    """``take_newest`` from the server, with what went wrong in words. Raises StoppedError.

    A bundle that cannot be taken yet is considered again when something was taught or forgotten, after a day, or when a
    person asks (insist): proving a network costs seconds, and visits come four times an hour.
    """
    root = read_root(state_dir)
    if root is None:
        return  # enrolled at a server that publishes nothing
    put_off, now = outbox.get("put_off") or {}, time.time()

    def worth_it(offer: Offer) -> bool:
        same = (put_off.get("sha256"), put_off.get("fingerprint")) == (offer.bundle_sha256, outbox.get("fingerprint"))
        return insist or not same or not 0.0 <= now - put_off["time_s"] < PUT_OFF_SECONDS

    trouble: str | None = None
    try:
        considered = take_newest(SignedFetcher(client), root, state_dir, in_use, consider, worth_it=worth_it)
        if considered is not None:
            tell(f"soundkeep: {considered.words}")
            outbox.put({"put_off": _put_off(considered, outbox, now)})
    except NotThereError:
        pass  # nothing is published yet
    except StoppedError:
        raise
    except SoundkeepError as error:
        trouble = f"{'NOT TRUSTED: ' if isinstance(error, TrustError) else ''}{error}"
        tell(f"soundkeep: no new backbone: {trouble}")
    outbox.put({"bundle_trouble": trouble})


def _put_off(considered: Considered, outbox: Outbox, now: float) -> dict[str, Any] | None:
    if considered.state != "VERIFIED":
        return None
    words, sha256 = considered.words, considered.sha256
    return {"sha256": sha256, "fingerprint": outbox.get("fingerprint"), "time_s": now, "words": words}
