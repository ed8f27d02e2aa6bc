"""Looking for a newer backbone after a sync: signed, newer than the one in use, not turned down before.

What goes wrong here is said and kept for `sync status`; it takes nothing back of what was synced.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from edge.errors import SoundkeepError, TrustError
from edge.sync.channel import BundleChannel
from edge.sync.client import SignedClient
from edge.sync.device_file import SyncFolder
from edge.sync.fetcher import NotThereError, SignedFetcher
from edge.sync.outbox import Outbox
from edge.sync.retry import StoppedError
from edge.sync.slots import load_slots

TRUST_FOLDER = "trust"
MAX_ROOT_BYTES = 1 << 20


class BundleInUse(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def version(self) -> int: ...


def look_for_bundle(
    client: SignedClient,
    outbox: Outbox,
    state_dir: Path,
    in_use: BundleInUse,
    consider: Callable[[Path], Any],
    tell: Callable[[str], None] = lambda words: None,
) -> None:
    """Ask the server's repository for a newer bundle of the name in use, and have ``consider`` take its archive as far
    as it goes. Raises StoppedError."""
    folder = SyncFolder(state_dir)
    trouble: str | None = None
    try:
        with folder.root_path.open("rb") as file:
            root = file.read(MAX_ROOT_BYTES)
    except OSError:
        return  # enrolled at a server that publishes nothing
    try:
        channel = BundleChannel(folder.path / TRUST_FOLDER, SignedFetcher(client), bootstrap=root)
        offer = channel.newest(in_use.name)
        known = load_slots(state_dir)[0].slots.get(offer.bundle_sha256) if offer is not None else None
        ended = known is not None and known.state in ("REJECTED", "ROLLED_BACK", "TRIAL", "COMMITTED")
        if offer is not None and offer.version > in_use.version and not ended:
            archive = channel.download(offer)
            try:
                considered = consider(archive)
                tell(f"soundkeep: {considered.words}")
            finally:
                with contextlib.suppress(OSError):
                    channel.discard(offer)
    except NotThereError:
        pass  # nothing is published yet
    except StoppedError:
        raise
    except SoundkeepError as error:
        trouble = f"{'NOT TRUSTED: ' if isinstance(error, TrustError) else ''}{error}"
        tell(f"soundkeep: no new backbone: {trouble}")
    outbox.put({"bundle_trouble": trouble})
