"""Only what the fleet's keys signed, no older than what was seen, whole and in time; each refusal has its own kind."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tuf.api.metadata import Metadata, MetaFile, Root

from edge.bundle_archive import unpack_archive
from edge.errors import SyncError, TrustError
from edge.sync import channel as channel_module
from edge.sync.channel import BundleChannel
from edge.sync.fetcher import FolderFetcher, WebFetcher
from edge.sync.offer import SIGNED_AT, read_offer
from tests.faults import repetitions
from tests.simulators.bundle_server import BundleServer, serving
from tests.simulators.signed_fleet import BEGIN, DAY, SignedFleet
from trainer.server.export_stick import export_repository
from trainer.server.repository import first_root_bytes, withdraw_bundle
from trainer.server.rotation import rotate

YEAR = 365 * DAY


@pytest.fixture
def fleet(tmp_path: Path) -> SignedFleet:
    """A fleet with one bundle published."""
    made = SignedFleet(tmp_path)
    made.publish(1)
    return made


@pytest.fixture
def web(fleet: SignedFleet) -> Iterator[BundleServer]:
    with serving(fleet.served) as server:
        yield server


def refused(channel: BundleChannel, kind: str) -> TrustError:
    with pytest.raises(TrustError) as caught:
        channel.offers()
    assert caught.value.kind == kind, str(caught.value)
    assert "\n" not in str(caught.value)
    return caught.value


def test_the_newest_bundle_arrives_whole(fleet: SignedFleet, web: BundleServer, tmp_path: Path) -> None:
    offer = fleet.publish(2)
    fleet.publish(7, name="other")
    for i, source in enumerate((fleet.served, WebFetcher(web.url))):
        channel = fleet.device(f"d{i}", source)
        assert channel.newest("tiny") == offer and channel.newest("none") is None
        assert [o.version for o in channel.offers()] == [7, 1, 2]
        archive = channel.download(offer)
        bundle = unpack_archive(archive, tmp_path / f"out{i}")
        offer.require(bundle)
        assert channel.download(offer) == archive, "it is not fetched again"
        channel.discard(offer)
        assert not archive.exists()


def test_what_was_withdrawn_is_offered_no_longer(fleet: SignedFleet) -> None:
    fleet.publish(2)
    withdraw_bundle(fleet.data, fleet.keys, "tiny", 2, now=fleet.now)
    newest = fleet.device("d").newest("tiny")
    assert newest is not None and newest.version == 1


def test_a_device_asks_anew_at_every_look(fleet: SignedFleet) -> None:
    channel = fleet.device("d")
    assert len(channel.offers()) == 1
    fleet.publish(2)
    assert len(channel.offers()) == 1 and len(fleet.device("d").offers()) == 2


# ---- rollback --------------------------------------------------------------------------------------------------------


def test_an_older_state_is_refused(fleet: SignedFleet) -> None:
    old = fleet.copy("old")
    fleet.publish(2)
    fleet.device("d").offers()
    refused(fleet.device("d", old), "rollback")
    assert len(fleet.device("d").offers()) == 2, "and the true one is accepted after"


def test_without_what_was_kept_the_older_state_is_accepted(fleet: SignedFleet) -> None:
    """The mechanism switched off: a device that forgets what it trusted takes the old state."""
    old = fleet.copy("old")
    fleet.publish(2)
    fleet.device("d").offers()
    shutil.rmtree(fleet.folder / "devices" / "d")
    assert [o.version for o in fleet.device("d", old).offers()] == [1]


def test_older_parts_in_a_new_timestamp_are_refused(fleet: SignedFleet) -> None:
    """What a thief of the online keys could try."""
    old = fleet.copy("old")
    fleet.publish(2)
    fleet.device("d").offers()
    old_snapshot = fleet.path_of(old, "snapshot")
    version = int(old_snapshot.name.partition(".")[0])

    def to_old_snapshot(timestamp: Any) -> None:
        timestamp.version += 100
        timestamp.snapshot_meta = MetaFile(version)

    forged = fleet.copy("forged")
    fleet.forge(forged, "timestamp", to_old_snapshot)
    refused(fleet.device("d", forged), "rollback")

    def to_old_targets(snapshot: Any) -> None:
        snapshot.meta["targets.json"] = MetaFile(snapshot.meta["targets.json"].version - 1)

    refused(fleet.device("d", forged_snapshot(fleet, "forged2", to_old_targets)), "rollback")
    refused(fleet.device("d", forged_snapshot(fleet, "forged3", leave_out_targets)), "rollback")


def leave_out_targets(snapshot: Any) -> None:
    snapshot.meta["other.json"] = snapshot.meta.pop("targets.json")


def forged_snapshot(fleet: SignedFleet, name: str, change: Callable[[Any], None]) -> Path:
    """A state whose snapshot is changed and signed by the fleet's own key, with a timestamp that names it."""
    served = fleet.copy(name)
    version = int(fleet.path_of(served, "snapshot").name.partition(".")[0])

    def raised(snapshot: Any) -> None:
        snapshot.version += 1
        change(snapshot)

    def named(timestamp: Any) -> None:
        timestamp.version += 100
        timestamp.snapshot_meta = MetaFile(version + 1)

    fleet.forge(served, "snapshot", raised)
    fleet.path_of(served, "snapshot").rename(served / "metadata" / f"{version + 1}.snapshot.json")
    fleet.forge(served, "timestamp", named)
    return served


# ---- freeze ----------------------------------------------------------------------------------------------------------


def test_a_frozen_repository_is_noticed(fleet: SignedFleet) -> None:
    frozen = fleet.copy("frozen")
    fleet.device("d", frozen).offers()
    fleet.device("d", frozen, now=fleet.now + 6.9 * DAY).offers()
    error = refused(fleet.device("d", frozen, now=fleet.now + 7.1 * DAY), "freeze")
    assert "kept from newer bundles" in str(error)
    fleet.now += 7.1 * DAY
    fleet.refresh()
    assert fleet.device("d").newest("tiny") is not None


@pytest.mark.parametrize("role", ["snapshot", "targets", "root"])
def test_each_part_has_its_end(fleet: SignedFleet, role: str) -> None:
    """The timestamp is fresh, something that it names is not."""

    def lasts(timestamp: Any) -> None:
        timestamp.expires = timestamp.expires.replace(year=2090)

    served = fleet.copy("served")
    fleet.forge(served, "timestamp", lasts)
    if role != "snapshot":
        fleet.forge(served, "snapshot", lasts)
        data = fleet.path_of(served, "snapshot").read_bytes()
        fleet.forge(served, "timestamp", lambda t: setattr(t, "snapshot_meta", MetaFile(t.snapshot_meta.version)))
        assert data
    days = {"snapshot": 31, "targets": 731, "root": 1826}[role]
    fleet.device("d", served).offers()
    error = refused(fleet.device("d", served, now=fleet.now + days * DAY), "freeze")
    named = {"snapshot": "snapshot", "targets": "targets", "root": "timestamp"}[role]
    assert f"({named})" in str(error)


# ---- clocks (fault 8) ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clock", [0.0, BEGIN - 10 * YEAR, -1e18])
def test_a_clock_set_back_revives_nothing(fleet: SignedFleet, clock: float) -> None:
    frozen = fleet.copy("frozen")
    fleet.device("d", frozen).offers()
    refused(fleet.device("d", frozen, now=fleet.now + 8 * DAY), "freeze")
    refused(fleet.device("d", frozen, now=clock), "freeze")
    fleet.now += 8 * DAY
    fleet.refresh()
    assert fleet.device("d", now=clock).newest("tiny") is not None, "what is newer is taken with any clock"


def test_without_the_remembered_time_a_clock_set_back_revives_it(fleet: SignedFleet) -> None:
    """The mechanism switched off."""
    frozen = fleet.copy("frozen")
    fleet.device("d", frozen).offers()
    refused(fleet.device("d", frozen, now=fleet.now + 8 * DAY), "freeze")
    (fleet.folder / "devices" / "d" / "time.json").unlink()
    assert fleet.device("d", frozen, now=0.0).newest("tiny") is not None


def test_signed_time_counts_where_the_clock_is_behind(fleet: SignedFleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """A timestamp signed on day 41 with a snapshot that ended on day 31, and a device that lives in 1970."""
    fleet.device("d").offers()
    stale = fleet.copy("stale")

    def later(timestamp: Any) -> None:
        timestamp.version += 2
        timestamp.expires = timestamp.expires.replace(year=2090)
        timestamp.unrecognized_fields[SIGNED_AT] = int(fleet.now + 40 * DAY)

    fleet.forge(stale, "timestamp", later)
    fleet.device("d", stale, now=0.0).offers()  # signed time is learnt from this one
    refused(fleet.device("d", stale, now=0.0), "freeze")
    shutil.rmtree(fleet.folder / "devices" / "d")
    monkeypatch.setattr(channel_module, "_signed_at", lambda known, updater: 0)
    for _ in range(2):
        assert fleet.device("d", stale, now=0.0).newest("tiny") is not None


def test_a_clock_ten_years_ahead_spoils_nothing(fleet: SignedFleet) -> None:
    fleet.device("d").offers()
    kept = (fleet.folder / "devices" / "d" / "time.json").read_bytes()
    refused(fleet.device("d", now=fleet.now + 10 * YEAR), "freeze")
    refused(fleet.device("d", now=1e300), "freeze")
    assert (fleet.folder / "devices" / "d" / "time.json").read_bytes() == kept
    assert fleet.device("d").newest("tiny") is not None


def test_a_clock_a_month_ahead_waits_for_the_next_timestamp_only(fleet: SignedFleet) -> None:
    fleet.device("d").offers()
    refused(fleet.device("d", now=fleet.now + 30 * DAY), "freeze")
    refused(fleet.device("d"), "freeze")
    fleet.now += 3.6 * DAY
    fleet.refresh()
    assert fleet.device("d").newest("tiny") is not None


def test_a_time_to_come_is_forgotten_with_the_key_that_named_it(fleet: SignedFleet) -> None:
    """A thief of the timestamp key stops the fleet's clocks; a new key sets them going."""
    forged = fleet.copy("forged")

    def future(timestamp: Any) -> None:
        timestamp.expires = timestamp.expires.replace(year=2090)
        timestamp.unrecognized_fields[SIGNED_AT] = int(fleet.now + 3 * YEAR)

    fleet.forge(forged, "timestamp", future)
    fleet.device("d", forged).offers()
    fleet.refresh()
    refused(fleet.device("d"), "freeze")
    rotate(fleet.data, "timestamp", fleet.keys, now=fleet.now)
    assert fleet.device("d").newest("tiny") is not None


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"[]", b'{"signed_at": -1, "keys": []}', b'{"signed_at": "x", "keys": 3}']
)
def test_a_damaged_memory_of_time_is_made_anew(fleet: SignedFleet, damage: bytes) -> None:
    fleet.device("d").offers()
    path = fleet.folder / "devices" / "d" / "time.json"
    whole = path.read_bytes()
    path.write_bytes(damage)
    fleet.device("d").offers()
    assert path.read_bytes() == whole


# ---- mix and match, keys, hashes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["snapshot", "targets"])
def test_parts_of_two_states_are_refused(fleet: SignedFleet, role: str) -> None:
    old = fleet.copy("old")
    fleet.publish(2)
    mixed = fleet.copy("mixed")
    shutil.copy(fleet.path_of(old, role), fleet.path_of(mixed, role))
    refused(fleet.device("d", mixed), "mix-and-match")


def test_another_fleet_is_refused(fleet: SignedFleet, tmp_path: Path) -> None:
    other = SignedFleet(tmp_path / "other")
    other.publish(1)
    refused(fleet.device("d", other.served), "wrong-key")
    fleet.device("d2").offers()
    refused(fleet.device("d2", other.served), "wrong-key")


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_each_part_needs_its_own_key(fleet: SignedFleet, role: str) -> None:
    """Signed by every other key of the fleet."""
    served = fleet.copy("served")
    change = json.loads(fleet.path_of(served, role).read_bytes())
    keys = set(Metadata[Root].from_bytes((served / "metadata" / "1.root.json").read_bytes()).signed.roles[role].keyids)
    path = fleet.path_of(served, role)
    metadata: Any = Metadata.from_bytes(path.read_bytes())
    metadata.signatures.clear()
    for signer in fleet.all_keys():
        if signer.public_key.keyid not in keys:
            metadata.sign(signer, append=True)
    path.write_bytes(metadata.to_bytes())
    assert change["signatures"]
    if role == "timestamp":
        refused(fleet.device("d", served), "wrong-key")
        return
    fleet.forge(served, "timestamp", lambda t: setattr(t, "snapshot_meta", MetaFile(t.snapshot_meta.version)))
    if role == "targets":
        fleet.forge(
            served, "snapshot", lambda s: s.meta.update({"targets.json": MetaFile(s.meta["targets.json"].version)})
        )
    refused(fleet.device("d", served), "wrong-key")


def test_a_new_root_needs_the_threshold_of_the_old(tmp_path: Path) -> None:
    fleet = SignedFleet(tmp_path, n_root_keys=3, threshold=2)
    fleet.publish(1)
    fleet.device("d").offers()
    first: Any = Metadata.from_bytes((fleet.served / "metadata" / "1.root.json").read_bytes())
    root_signers = [s for s in fleet.all_keys() if s.public_key.keyid in first.signed.roles["root"].keyids]
    for n_signers, accepted in ((1, False), (2, True)):
        served = fleet.copy(f"served{n_signers}")
        new = Metadata(copy.deepcopy(first.signed))
        new.signed.version = 2
        for signer in root_signers[:n_signers]:
            new.sign(signer, append=True)
        (served / "metadata" / "2.root.json").write_bytes(new.to_bytes())
        if accepted:
            assert fleet.device("d", served).newest("tiny") is not None
        else:
            refused(fleet.device("d", served), "wrong-key")


def test_a_root_that_skips_a_version_is_refused(fleet: SignedFleet) -> None:
    served = fleet.copy("served")
    shutil.copy(served / "metadata" / "1.root.json", served / "metadata" / "2.root.json")
    refused(fleet.device("d", served), "rollback")


def test_a_first_root_that_is_none_is_refused(fleet: SignedFleet) -> None:
    for bad in (
        b"",
        b"{}",
        first_root_bytes(fleet.data)[:-40],
        (fleet.served / "metadata" / "timestamp.json").read_bytes(),
    ):
        channel = BundleChannel(fleet.folder / "d", FolderFetcher(fleet.served), bootstrap=bad)
        refused(channel, "malformed")


def test_wrong_contents_and_lengths_of_a_target(fleet: SignedFleet, web: BundleServer) -> None:
    offer = fleet.publish(2)
    name = f"targets/{offer.sha256}.{offer.path}"
    whole = (fleet.served / name).read_bytes()
    bad = {"wrong-hash": [bytes([whole[0] ^ 1]) + whole[1:], whole[:-1], b""], "endless": [whole + b"\0"]}
    for kind, contents in bad.items():
        for content in contents:
            web.replaced = {name: content}
            channel = fleet.device("d", WebFetcher(web.url))
            with pytest.raises(TrustError) as caught:
                channel.download(offer)
            assert caught.value.kind == kind
            assert not (fleet.folder / "devices" / "d" / "downloads" / offer.path).exists()
    web.replaced = {}
    assert fleet.device("d", WebFetcher(web.url)).download(offer).read_bytes() == whole, (
        "what was begun wrong is mended"
    )


def test_a_first_part_of_something_else_is_fetched_anew(fleet: SignedFleet, web: BundleServer) -> None:
    offer = fleet.publish(2)
    folder = fleet.folder / "devices" / "d" / "downloads"
    folder.mkdir(parents=True)
    (folder / f"{offer.sha256}.partial").write_bytes(b"x" * 500)
    (folder / f"{'0' * 64}.partial").write_bytes(b"of an older offer")
    assert fleet.device("d", WebFetcher(web.url)).download(offer).exists()
    assert [p.name for p in folder.iterdir()] == [offer.path]
    assert [r for _, r in web.asked if r] == ["bytes=500-"]


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "root"])
def test_endless_metadata_is_cut_off(fleet: SignedFleet, web: BundleServer, role: str) -> None:
    name = "2.root.json" if role == "root" else fleet.path_of(fleet.served, role).name
    web.endless = {f"metadata/{name}"}
    refused(fleet.device("d", WebFetcher(web.url)), "endless")


def test_an_archive_above_the_cap_is_not_begun(fleet: SignedFleet, monkeypatch: pytest.MonkeyPatch) -> None:
    offer = fleet.publish(2)
    monkeypatch.setattr(channel_module, "MAX_ARCHIVE_BYTES", 100)
    with pytest.raises(TrustError) as caught:
        fleet.device("d").download(offer)
    assert caught.value.kind == "endless" and not list((fleet.folder / "devices").rglob("*.partial"))


def test_what_cannot_be_reached_is_no_matter_of_trust(fleet: SignedFleet, tmp_path: Path) -> None:
    for source in (tmp_path / "gone", WebFetcher("http://127.0.0.1:9")):
        with pytest.raises(SyncError) as caught:
            fleet.device("d", source).offers()
        assert not isinstance(caught.value, TrustError)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SyncError, match=r"timestamp\.json") as caught:
        fleet.device("d", tmp_path / "empty").offers()


def test_entries_that_do_not_fit_are_refused() -> None:
    good: dict[str, Any] = {
        "name": "ear", "version": 3, "space": "0" * 64, "parent_space": None, "bundle_sha256": "1" * 64,
    }  # fmt: skip
    assert read_offer("ear-3.skb", 10, "2" * 64, good).custom() == good
    bad: list[dict[str, Any]] = [
        {"name": "../ear"}, {"name": "other"}, {"version": 4}, {"version": "3"}, {"version": True}, {"version": 3.0},
        {"space": "x"}, {"space": None}, {"parent_space": 3}, {"bundle_sha256": "1" * 63}, {"more": 1}, {"name": None},
    ]  # fmt: skip
    for change in bad:
        with pytest.raises(TrustError):
            read_offer("ear-3.skb", 10, "2" * 64, {**good, **change})
    for custom in (None, {}, {"name": "ear"}):
        with pytest.raises(TrustError):
            read_offer("ear-3.skb", 10, "2" * 64, custom)


# ---- mutations (fault 5) ---------------------------------------------------------------------------------------------


@pytest.mark.faults
def test_no_mutation_changes_what_is_offered(fleet: SignedFleet, tmp_path: Path) -> None:
    """Bytes flipped, cut, doubled and spliced in every file: refused, or (a blank in JSON) without any effect."""
    offer = fleet.publish(2)
    rotate(fleet.data, "timestamp", fleet.keys, now=fleet.now)
    genuine = fleet.device("good").offers()
    shutil.rmtree(fleet.folder / "devices" / "good")
    names = [
        *(fleet.path_of(fleet.served, role) for role in ("timestamp", "snapshot", "targets", "root")),
        fleet.served / "targets" / f"{offer.sha256}.{offer.path}",
    ]
    rng, n_refused = np.random.default_rng(7), 0
    for i in range(repetitions(60, 1000)):
        file = names[i % len(names)]
        whole = file.read_bytes()
        file.write_bytes(mutated(whole, rng))
        shutil.rmtree(fleet.folder / "devices", ignore_errors=True)
        channel = fleet.device("d")
        try:
            assert channel.offers() == genuine
            assert channel.download(offer).read_bytes() == whole or file is not names[-1]
        except SyncError as error:
            n_refused += 1
            assert "\n" not in str(error)
        finally:
            file.write_bytes(whole)
    assert n_refused > 0.7 * repetitions(60, 1000)


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    at, other = sorted(int(i) for i in rng.integers(0, len(data), 2))
    kind = rng.integers(5)
    if kind == 0:
        return data[:at] + bytes([data[at] ^ 1 << int(rng.integers(8))]) + data[at + 1 :]
    if kind == 1:
        return data[:at]
    if kind == 2:
        return data[:other] + data[at:other] + data[other:]
    if kind == 3:
        return data[:at] + data[other:]
    return data[:at] + rng.bytes(other - at) + data[other:]


# ---- sticks and new keys ---------------------------------------------------------------------------------------------


def test_a_stick_goes_between_two_looks_at_the_server(fleet: SignedFleet) -> None:
    fleet.device("d").offers()
    stick = fleet.folder / "stick"
    export_repository(fleet.data, stick, 90, fleet.now)
    at = fleet.now + 80 * DAY
    assert fleet.device("d", stick, now=at).newest("tiny") is not None, "long after the server's own timestamp ended"
    assert fleet.device("d", stick, now=at).newest("tiny") is not None
    refused(fleet.device("d", stick, now=fleet.now + 91 * DAY), "freeze")
    fleet.now = at
    fleet.publish(2)
    assert len(fleet.device("d").offers()) == 2
    refused(fleet.device("d", stick), "rollback")
    export_repository(fleet.data, stick, 30, fleet.now)
    assert len(fleet.device("d", stick).offers()) == 2, "the same stick, brought up to date"


def test_devices_follow_every_new_key(fleet: SignedFleet) -> None:
    fleet.device("d").offers()
    for version, role in enumerate(("timestamp", "snapshot", "targets", "root", "root", "targets"), start=2):
        assert rotate(fleet.data, role, fleet.keys, now=fleet.now) == version
        assert fleet.device("d").newest("tiny") is not None
        assert fleet.device(f"new{version}").newest("tiny") is not None
        fleet.publish(version)
        newest = fleet.device("d").newest("tiny")
        assert newest is not None and newest.version == version
    assert fleet.device("late").newest("tiny") == fleet.device("d").newest("tiny")


def test_a_stolen_key_is_worth_nothing_once_it_is_replaced(fleet: SignedFleet) -> None:
    stolen = fleet.all_keys()
    fleet.device("d").offers()
    for role in ("timestamp", "snapshot", "targets"):
        rotate(fleet.data, role, fleet.keys, now=fleet.now)
    fleet.device("d").offers()
    served = fleet.copy("served")
    metadata: Any = Metadata.from_bytes(fleet.path_of(served, "timestamp").read_bytes())
    metadata.signed.version += 100
    metadata.signatures.clear()
    for signer in stolen:
        metadata.sign(signer, append=True)
    fleet.path_of(served, "timestamp").write_bytes(metadata.to_bytes())
    refused(fleet.device("d", served), "wrong-key")
