"""One sync put together: enrolment, outbox, client, one exchange at a time. For the commands and the listener."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edge.errors import StateLockedError, SyncError
from edge.state_lock import WriterLock
from edge.sync.client import SignedClient
from edge.sync.device_file import Enrolment, SyncFolder
from edge.sync.exchange import Exchange, SyncReport
from edge.sync.keys import DeviceKey
from edge.sync.knowledge import Knowledge
from edge.sync.outbox import Outbox
from edge.sync.retry import TryLaterError

LOCK_SECONDS = 60.0
BACKGROUND_ATTEMPTS = 2

Offers = Callable[[SignedClient, Outbox], None]


@contextmanager
def one_at_a_time(folder: SyncFolder, *, wait_s: float = LOCK_SECONDS) -> Iterator[None]:
    """Let one process of this device talk to the server at a time. Raises SyncError after ``wait_s``."""
    folder.make()
    lock, until = WriterLock(folder.path / "lock"), time.monotonic() + wait_s
    while True:
        try:
            lock.acquire()
            break
        except StateLockedError as error:
            if time.monotonic() > until:
                raise SyncError("another process of this device is syncing; try again in a minute") from error
        except OSError as error:
            raise SyncError(f"{folder.path} cannot be locked ({error.strerror}); make room or rights") from error
        time.sleep(0.05)
    try:
        yield
    finally:
        lock.release()


def sync_once(
    state_dir: Path,
    enrolment: Enrolment,
    knowledge: Callable[[frozenset[str]], Knowledge],
    about: Mapping[str, Any],
    *,
    offers: Offers | None = None,
    again: bool = False,
    sleep: Callable[[float], object] = time.sleep,
    insist: bool = False,
    tell: Callable[[str], None] = lambda words: None,
) -> SyncReport:
    """Sync now. again: send once more what was refused or left out. insist: a person asked.

    enrolment: as the caller read it; what the owner changes while this waits or runs counts from then on.
    Raises TryLaterError, StoppedError, SyncError.
    """
    folder = SyncFolder(state_dir)
    with one_at_a_time(folder), Outbox(folder.outbox_path) as outbox:
        enrolment = _still_enrolled(folder, enrolment)
        for finding in outbox.findings:
            tell(f"soundkeep: {finding}")
        if again:
            outbox.forget_answers(refused_only=True)
        attempts = 4 if insist else BACKGROUND_ATTEMPTS
        with SignedClient(
            enrolment.server,
            _key_of(folder, enrolment),
            outbox,
            ca_path=folder.ca_path,
            attempts=attempts,
            insist=insist,
            sleep=sleep,
        ) as client:
            look = None if offers is None else (lambda: offers(client, outbox))
            report = Exchange(
                enrolment, state_dir, client, outbox, knowledge, about,
                offers=look, unchanged=lambda: folder.load() == enrolment,
            ).run()  # fmt: skip
        outbox.put({"last_success_s": time.time(), "last_words": report.words})
        return report


def _still_enrolled(folder: SyncFolder, enrolment: Enrolment) -> Enrolment:
    """The enrolment as it is now. Raises TryLaterError when it is another one, or lets nothing leave any more."""
    now = folder.load()
    if now is None or (now.server, now.device_id) != (enrolment.server, enrolment.device_id) or now.level == "nothing":
        raise TryLaterError("the enrolment of this device was changed meanwhile; nothing was sent")
    return now


def _key_of(folder: SyncFolder, enrolment: Enrolment) -> DeviceKey:
    """The key that was enrolled: a flipped bit makes another one, which no server knows. Raises SyncError."""
    key = folder.key()
    if key.device_id != enrolment.device_id:
        raise SyncError(
            f"the key in {folder.path} is of {key.device_id[:12]}, enrolled is {enrolment.device_id[:12]}: it was "
            "altered; `soundkeep sync off` and enrol again"
        )
    return key


def about_device(version: str, bundle: Any, slot: str) -> dict[str, Any]:
    """What a device says of itself in a poll. slot: word of the slot that its bundle runs in."""
    described = {
        "name": bundle.name,
        "version": bundle.version,
        "sha256": bundle.sha256,
        "space": bundle.space.sha256,
    }
    return {"version": version, "bundle": described, "slot": slot}
