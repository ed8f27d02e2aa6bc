"""``python -m tests.simulators.device_files ROOT FLEET [careless]``: what a device keeps changes, step by step.

In a process, for a recorder. What it keeps of its server and its ears: slots, enrolment, key, trust, outbox. FLEET:
folders 0, 1 of repositories, the second one newer, and root.json.

careless: without waiting for the disk, to show what the waiting is for.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import edge.durable
from edge.sync.channel import BundleChannel
from edge.sync.device_file import Enrolment, SyncFolder
from edge.sync.fetcher import FolderFetcher
from edge.sync.outbox import Outbox, Settled
from edge.sync.slots import State, change_slots, load_slots

NOW = 1_800_000_000.0 + 2 * 86_400.0
EAR, NEXT = "a" * 64, "b" * 64
Step = Callable[[Path, Path], object]


def look(state: Path, served: Path, root: Path) -> Any:
    """One look of the device at a repository. Raises SyncError, TrustError."""
    trust = SyncFolder(state).trust_path
    return BundleChannel(trust, FolderFetcher(served), bootstrap=root.read_bytes(), now=lambda: NOW).offers()


def _slot(sha256: str, version: int) -> Step:
    return lambda state, fleet: change_slots(state, lambda slots: slots.admit(sha256, "ear", version))


def _move(sha256: str, to: State) -> Step:
    return lambda state, fleet: change_slots(state, lambda slots: slots.move(sha256, to))


def _enrolled(level: str, *private: str) -> Step:
    enrolment = Enrolment("https://home.example", "0" * 32, "kitchen", level, "", private)
    return lambda state, fleet: SyncFolder(state).save(enrolment)


def _with_outbox(work: Callable[[Outbox], object]) -> Step:
    def step(state: Path, fleet: Path) -> None:
        with Outbox(SyncFolder(state).outbox_path) as outbox:
            work(outbox)

    return step


def _settled(*items: str) -> Step:
    return _with_outbox(lambda outbox: outbox.settle(Settled("clips", item, "created") for item in items))


def _looked(n: int) -> Step:
    return lambda state, fleet: look(state, fleet / str(n), fleet / "root.json")


STEPS: tuple[Step, ...] = (
    lambda state, fleet: SyncFolder(state).key_to_enrol(),
    lambda state, fleet: SyncFolder(state).save_root((fleet / "root.json").read_bytes()),
    _enrolled("statistics"), _with_outbox(lambda outbox: outbox.next_sequence()), _settled("one"), _looked(0),
    _slot(EAR, 2), _move(EAR, "VERIFIED"), _enrolled("clips", "secret"), _move(EAR, "PREPARED"), _move(EAR, "TRIAL"),
    _with_outbox(lambda outbox: outbox.next_sequence()), _settled("two", "three"), _looked(1), _move(EAR, "COMMITTED"),
    _enrolled("embeddings", "secret", "Tür"), _slot(NEXT, 3), _move(NEXT, "VERIFIED"), _move(NEXT, "REJECTED"),
    _with_outbox(lambda outbox: outbox.forget_items("clips", ["one"])), _enrolled("nothing"), _settled("four"),
)  # fmt: skip
LOOK_STEPS = (5, 13)
"""Numbers of the steps that look at repository 0 and 1."""


def known(state: Path) -> dict[str, Any]:
    """What a device finds when it starts. Raises SoundkeepError; AssertionError for damage that was named."""
    folder = SyncFolder(state)
    slots, finding = load_slots(state)
    assert finding is None, finding
    seen: dict[str, Any] = {"slots": slots, "enrolment": folder.load()}
    seen["root"] = folder.root_path.read_bytes() if folder.root_path.exists() else None
    seen["key"] = folder.key() is not None if (folder.path / "device_key").exists() else False
    seen["sequence"], seen["clips"] = 0, []
    if folder.outbox_path.exists():
        with Outbox(folder.outbox_path) as outbox:
            assert outbox.findings == []
            seen["sequence"], seen["clips"] = outbox.get("sequence", 0), sorted(outbox.settled("clips"))
    return seen


def main(root: Path, fleet: Path, *, careless: bool) -> None:
    if careless:
        edge.durable.os.fsync = lambda descriptor: None
    state = root / "state"
    state.mkdir()
    said = os.open(root / "said", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for step in STEPS:
        step(state, fleet)
        os.write(said, b"!")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), careless="careless" in sys.argv[3:])
