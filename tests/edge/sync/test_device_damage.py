"""Bits flip in what a device keeps of its server and its ears: said, or without effect; never believed (fault 3)."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge.durable import write_file
from edge.errors import SoundkeepError
from edge.sync.channel import BundleChannel
from edge.sync.device_file import DEVICE_NAME, KEY_NAME, Enrolment, SyncFolder
from edge.sync.fetcher import FolderFetcher
from edge.sync.session import sync_once
from edge.sync.slots import FILE, Slots, load_slots, save_slots
from tests.faults import repetitions
from tests.simulators.signed_fleet import SignedFleet
from tests.simulators.sync_device import ABOUT
from trainer.server.repository import first_root_bytes

ENROLMENT = Enrolment("https://home.example", "0" * 32, "kitchen", "clips", "", ("Tür", "secret"))


class Said(Exception):
    """The damage was noticed."""


def flip_bits(path: Path, n: int, seed: int, look: Callable[[], object]) -> tuple[int, int]:
    """Flip one bit at a time; return how often that was said, and how often it had no effect."""
    rng, whole, said = np.random.default_rng(seed), path.read_bytes(), 0
    expected = look()
    for _ in range(n):
        damaged = bytearray(whole)
        damaged[int(rng.integers(len(whole)))] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            assert look() == expected
        except (SoundkeepError, Said) as error:
            said += 1
            assert "\n" not in str(error)
    path.write_bytes(whole)
    assert look() == expected
    return said, n - said


@pytest.mark.faults
def test_the_slots(quick: Path) -> None:
    slots = Slots().admit("a" * 64, "ear", 2).move("a" * 64, "VERIFIED").move("a" * 64, "PREPARED")
    save_slots(quick, slots.move("a" * 64, "TRIAL"))

    def look() -> Slots:
        found, finding = load_slots(quick)
        if finding is not None:
            assert found == Slots(), "then no slot is in use"
            raise Said(finding)
        return found

    n = repetitions(200, 4000)
    assert flip_bits(quick / FILE, n, 1, look) == (n, 0)


@pytest.mark.faults
def test_the_enrolment(quick: Path) -> None:
    folder = SyncFolder(quick)
    folder.save(ENROLMENT)
    n = repetitions(200, 4000)
    said, _ = flip_bits(folder.path / DEVICE_NAME, n, 2, folder.load)
    assert said > 0.9 * n


def test_without_the_seal_a_private_label_would_leave(quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.durable._hash_of", lambda value: "none")
    folder = SyncFolder(quick)
    folder.save(ENROLMENT)
    path = folder.path / DEVICE_NAME
    path.write_bytes(path.read_bytes().replace(b'"secret"', b'"sebret"'))
    assert folder.load() == replace(ENROLMENT, private_labels=("Tür", "sebret"))


@pytest.mark.faults
def test_the_key(quick: Path) -> None:
    """A flipped bit of the secret is a key that nobody knows: said before a server is asked."""
    folder = SyncFolder(quick)
    enrolment = replace(ENROLMENT, server="http://127.0.0.1:9", device_id=folder.key_to_enrol().device_id)
    folder.save(enrolment)

    def look() -> None:
        key = folder.key()
        if key.device_id == enrolment.device_id:
            return
        with pytest.raises(SoundkeepError) as caught:
            sync_once(quick, enrolment, lambda hidden: pytest.fail("asked"), ABOUT)
        assert "it was altered" in str(caught.value)
        raise Said(str(caught.value))

    n = repetitions(60, 500)
    said, _ = flip_bits(folder.path / KEY_NAME, n, 3, look)
    assert said > 0.7 * n


@pytest.mark.faults
def test_what_is_trusted(tmp_path: Path, quick: Path) -> None:
    """The first root file and everything verified: the same offers, or a refusal, and the next look mends the trust."""
    fleet = SignedFleet(tmp_path)
    fleet.publish(2)
    trust, root = quick / "trust", quick / "root.json"
    write_file(root, [first_root_bytes(fleet.data)])

    def look() -> object:
        fetcher = FolderFetcher(fleet.served)
        return BundleChannel(trust, fetcher, bootstrap=root.read_bytes(), now=lambda: fleet.now).offers()

    look()
    kept = quick / "kept"
    shutil.copytree(trust, kept)
    names = sorted(path.relative_to(trust) for path in trust.rglob("*.json"))
    assert {"time.json", "timestamp.json", "snapshot.json", "targets.json"} <= {path.name for path in names}
    said = 0
    for seed, path in enumerate([root, *(trust / name for name in names)]):
        for flip in range(repetitions(6, 1500) // (len(names) + 1) + 1):
            said += flip_bits(path, 1, 1000 * seed + flip, look)[0]
            shutil.rmtree(trust)
            shutil.copytree(kept, trust)
    assert said > 0
