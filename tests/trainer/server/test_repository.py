"""What is published is signed by the right keys, and a crash at any write leaves a state that devices accept."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tuf.api.metadata import Metadata

from edge import durable
from edge.bundle_archive import unpack_archive
from edge.errors import ConfigurationError, StateError, TrustError
from tests.simulators.signed_fleet import DAY, SignedFleet, tiny_bundle
from trainer.server import repository as repository_module
from trainer.server import repository_files, rotation, signing_keys
from trainer.server.export_stick import export_repository
from trainer.server.repository import (
    add_bundle,
    current,
    ensure_repository,
    first_root_bytes,
    offers,
    offline_keys_present,
    refresh_timestamp,
    withdraw_bundle,
)
from trainer.server.repository_files import KeyAbsentError, latest_root
from trainer.server.rotation import rotate
from trainer.server.signing_keys import find_keys, make_key, offline_folder, online_folder, read_key


@pytest.fixture
def fleet(tmp_path: Path) -> SignedFleet:
    made = SignedFleet(tmp_path)
    made.publish(1)
    return made


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_first_start_makes_keys_and_repository_once(fleet: SignedFleet) -> None:
    before = files(fleet.data)
    assert {name for name in before if name.startswith("keys")} == {
        "keys/offline/root-1.pem", "keys/offline/targets.pem", "keys/online/snapshot.pem", "keys/online/timestamp.pem",
    }  # fmt: skip
    for path in (fleet.data / "keys").rglob("*.pem"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert not ensure_repository(fleet.data, now=fleet.now)
    assert files(fleet.data) == before
    assert first_root_bytes(fleet.data) == before["repository/metadata/1.root.json"]


def test_each_role_has_a_key_of_its_own(fleet: SignedFleet) -> None:
    roles = latest_root(fleet.data).signed.roles
    ids = [key for role in roles.values() for key in role.keyids]
    assert len(set(ids)) == len(ids) == 4 and {role.threshold for role in roles.values()} == {1}


def test_names_carry_hashes_and_versions(fleet: SignedFleet) -> None:
    (offer,) = offers(fleet.data)
    archive = fleet.served / "targets" / f"{offer.sha256}.tiny-1.skb"
    assert hashlib.sha256(archive.read_bytes()).hexdigest() == offer.sha256
    assert sorted(os.listdir(fleet.served / "metadata")) == [
        "1.root.json", "1.snapshot.json", "1.targets.json", "2.snapshot.json", "2.targets.json", "timestamp.json",
    ]  # fmt: skip


def test_publishing_again_changes_nothing_and_versions_only_grow(fleet: SignedFleet, tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "again", 1)
    before = files(fleet.served)
    add_bundle(fleet.data, fleet.keys, bundle, now=fleet.now)
    assert files(fleet.served) == before
    fleet.publish(5)
    with pytest.raises(ConfigurationError, match="5 is; give it a higher version"):
        add_bundle(fleet.data, fleet.keys, tiny_bundle(tmp_path / "lower", 2), now=fleet.now)
    assert [o.version for o in offers(fleet.data)] == [1, 5]


def test_without_the_targets_key_nothing_is_published(fleet: SignedFleet, tmp_path: Path) -> None:
    away = tmp_path / "stick"
    fleet.keys[0].rename(away)
    assert not offline_keys_present(fleet.data) and offline_keys_present(fleet.data, away)
    bundle, before = tiny_bundle(tmp_path / "b", 2), files(fleet.data)
    for attempt in (
        lambda: add_bundle(fleet.data, fleet.keys, bundle, now=fleet.now),
        lambda: withdraw_bundle(fleet.data, fleet.keys, "tiny", 1, now=fleet.now),
        lambda: rotate(fleet.data, "targets", fleet.keys, now=fleet.now),
        lambda: rotate(fleet.data, "timestamp", fleet.keys, now=fleet.now),
    ):
        with pytest.raises(KeyAbsentError, match="--keys"):
            attempt()
    assert files(fleet.data) == before
    assert refresh_timestamp(fleet.data, fleet.now + 4 * DAY), "the server goes on without it"
    add_bundle(fleet.data, [away], bundle, now=fleet.now + 4 * DAY)
    assert [o.version for o in fleet.device("d", now=fleet.now + 4 * DAY).offers()] == [1, 2]


def test_the_server_signs_anew_in_time(fleet: SignedFleet) -> None:
    begin, versions = fleet.now, []
    for half_day in range(200):
        fleet.now = begin + half_day * DAY / 2
        refresh_timestamp(fleet.data, fleet.now)
        metadata = current(fleet.data)
        assert metadata["timestamp"].expires.timestamp() - fleet.now >= 3.4 * DAY
        assert metadata["snapshot"].expires.timestamp() - fleet.now >= 14.9 * DAY
        versions.append((metadata["timestamp"].version, metadata["snapshot"].version))
    assert len(set(versions)) < 35, "not at every look"
    assert fleet.device("d").newest("tiny") is not None
    assert versions[-1][0] % 2 == 0


# ---- crashes ---------------------------------------------------------------------------------------------------------


class Crash(BaseException):
    """The process ends here."""


def crash_at(monkeypatch: pytest.MonkeyPatch, n: int) -> None:
    """End the process before its n-th write, as seen from the disk: nothing of that write is there."""
    left = [n]

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise Crash
            return function(*args, **kwargs)

        return call

    for module, names in (
        (repository_files, ["write_file"]), (repository_module, ["prepare_file", "remove_file", "flush_directory"]),
        (signing_keys, ["write_file"]), (rotation, ["remove_file"]),
    ):  # fmt: skip
        for name in names:
            monkeypatch.setattr(module, name, counted(getattr(durable, name)))


CHANGES: dict[str, Callable[[SignedFleet, Path], Any]] = {
    "add": lambda f, tmp: add_bundle(f.data, f.keys, tiny_bundle(tmp / os.urandom(4).hex(), 2), now=f.now),
    "withdraw": lambda f, tmp: withdraw_bundle(f.data, f.keys, "tiny", 1, now=f.now),
    "refresh": lambda f, tmp: refresh_timestamp(f.data, f.now, force=True),
    **{
        f"rotate {role}": lambda f, tmp, role=role: rotate(f.data, role, f.keys, n_root_keys=2, threshold=2, now=f.now)  # type: ignore[misc]
        for role in ("root", "targets", "snapshot", "timestamp")
    },
    "export": lambda f, tmp: export_repository(f.data, tmp / "stick", 20, f.now),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_crash_at_any_write_leaves_a_state_that_devices_accept(
    fleet: SignedFleet, tmp_path: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.device("old").offers()
    fleet.now += 5 * DAY
    kept, finished = tmp_path / "kept", False
    shutil.copytree(fleet.data, kept)
    for n in range(20):
        with monkeypatch.context() as patch:
            crash_at(patch, n)
            try:
                CHANGES[change](fleet, tmp_path)
                finished = True
            except Crash:
                pass
        look = tmp_path / "devices" / f"old{n}"
        shutil.copytree(tmp_path / "devices" / "old", look)
        for device in (f"old{n}", f"new{n}"):
            versions = [o.version for o in fleet.device(device).offers()]
            assert versions in ([1], [1, 2], [] if change == "withdraw" else [1])
            for offer in fleet.device(device).offers():
                unpack_archive(fleet.device(device).download(offer), tmp_path / "out" / f"{device}-{offer.version}")
        if finished:
            break
        CHANGES[change](fleet, tmp_path)  # the operator, or the next start, does it again
        assert refresh_timestamp(fleet.data, fleet.now, force=True)
        for device in (f"old{n}", f"new{n}", f"newer{n}"):
            fleet.device(device).offers()
        shutil.rmtree(fleet.data)
        shutil.copytree(kept, fleet.data)
    assert finished and n >= (2 if "root" in change else 1)


def test_a_crash_while_it_is_made_is_taken_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(9):
        data = tmp_path / f"data{n}"
        with monkeypatch.context() as patch:
            crash_at(patch, n)
            try:
                ensure_repository(data, now=1.8e9)
            except Crash:
                assert n < 8
        ensure_repository(data, now=1.8e9)
        fleet = SignedFleet(tmp_path / f"f{n}")
        shutil.rmtree(fleet.data)
        shutil.copytree(data, fleet.data)
        assert fleet.device("d").offers() == ()


def test_in_the_other_order_a_crash_locks_devices_out(
    fleet: SignedFleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mechanism switched off: the timestamp is written before what it names."""
    waiting: list[tuple[Path, Any, int]] = []

    def timestamp_first(path: Path, pieces: Any, *, mode: int) -> None:
        waiting.append((path, pieces, mode))
        if path.name == "timestamp.json":
            durable.write_file(path, pieces, mode=mode)
            raise Crash

    monkeypatch.setattr(repository_files, "write_file", timestamp_first)
    with pytest.raises(Crash):
        CHANGES["add"](fleet, tmp_path)
    with pytest.raises(Exception, match=r"snapshot\.json"):
        fleet.device("d").offers()


# ---- keys ------------------------------------------------------------------------------------------------------------


def test_two_of_three_root_keys_from_two_folders(tmp_path: Path) -> None:
    fleet = SignedFleet(tmp_path, n_root_keys=3, threshold=2)
    fleet.publish(1)
    fleet.device("d").offers()
    folders = [tmp_path / f"person{i}" for i in range(3)]
    for i, folder in enumerate(folders):
        folder.mkdir()
        (fleet.keys[0] / f"root-{i + 1}.pem").rename(folder / "root.pem")
    for too_few in ([folders[0]], [folders[2]], fleet.keys):
        with pytest.raises(KeyAbsentError, match="wanted 2"):
            rotate(fleet.data, "snapshot", too_few, now=fleet.now)
    assert rotate(fleet.data, "snapshot", [folders[0], folders[2]], now=fleet.now) == 2
    assert rotate(fleet.data, "targets", [folders[1], folders[2], *fleet.keys], out=fleet.keys[0], now=fleet.now) == 3
    fleet.publish(2)
    assert rotate(fleet.data, "root", folders[:2], out=tmp_path / "new", now=fleet.now) == 4
    assert rotate(fleet.data, "timestamp", [tmp_path / "new"], now=fleet.now) == 5
    assert len(fleet.device("d").offers()) == len(fleet.device("fresh").offers()) == 2


def test_a_lost_targets_key_is_replaced_by_the_root_keys(fleet: SignedFleet) -> None:
    fleet.device("d").offers()
    (fleet.keys[0] / "targets.pem").unlink()
    with pytest.raises(KeyAbsentError):
        fleet.publish(2)
    rotate(fleet.data, "targets", fleet.keys, now=fleet.now)
    fleet.publish(3)
    assert [o.version for o in fleet.device("d").offers()] == [1, 3]


def test_files_of_replaced_keys_are_removed(fleet: SignedFleet) -> None:
    for role, names in (
        ("timestamp", {"snapshot.pem", "timestamp-2.pem"}), ("snapshot", {"snapshot-3.pem", "timestamp-2.pem"}),
    ):  # fmt: skip
        rotate(fleet.data, role, fleet.keys, now=fleet.now)
        assert set(os.listdir(online_folder(fleet.data))) == names
    rotate(fleet.data, "root", fleet.keys, n_root_keys=2, threshold=2, now=fleet.now)
    assert set(os.listdir(fleet.keys[0])) == {"root-1-4.pem", "root-2-4.pem", "targets.pem"}
    ids = {key for role in latest_root(fleet.data).signed.roles.values() for key in role.keyids}
    assert set(find_keys([online_folder(fleet.data), *fleet.keys], ids)) == ids


def test_encrypted_keys_need_their_passphrase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOUNDKEEP_KEY_PASSPHRASE", "a long sentence")
    fleet = SignedFleet(tmp_path)
    assert b"ENCRYPTED" in (fleet.keys[0] / "targets.pem").read_bytes()
    assert b"ENCRYPTED" not in (online_folder(fleet.data) / "timestamp.pem").read_bytes()
    fleet.publish(1)
    monkeypatch.delenv("SOUNDKEEP_KEY_PASSPHRASE")
    with pytest.raises(StateError, match="is encrypted; set SOUNDKEEP_KEY_PASSPHRASE"):
        fleet.publish(2)
    monkeypatch.setenv("SOUNDKEEP_KEY_PASSPHRASE", "another sentence")
    with pytest.raises(StateError, match="wrong passphrase"):
        fleet.publish(3)
    assert refresh_timestamp(fleet.data, fleet.now, force=True)
    bundle = tiny_bundle(tmp_path / "b", 4)
    add_bundle(fleet.data, fleet.keys, bundle, passphrase=lambda: b"a long sentence", now=fleet.now)


def test_keys_are_never_replaced_and_nothing_else_is_read_as_one(tmp_path: Path) -> None:
    make_key(tmp_path / "a.pem")
    with pytest.raises(StateError, match="exists already"):
        make_key(tmp_path / "a.pem")
    (tmp_path / "b.pem").write_bytes(b"junk")
    with pytest.raises(StateError, match="no PEM key"):
        read_key(tmp_path / "b.pem")
    with pytest.raises(StateError, match="cannot be read"):
        read_key(tmp_path / "absent.pem")
    with pytest.raises(ConfigurationError, match="2 of 1"):
        ensure_repository(tmp_path / "data", threshold=2)
    with pytest.raises(StateError, match="has no repository"):
        latest_root(tmp_path)


# ---- damage, sticks, several processes -------------------------------------------------------------------------------


def test_damaged_metadata_is_one_sentence(fleet: SignedFleet) -> None:
    path = fleet.served / "metadata" / "timestamp.json"
    for damage in (b"", b"{}", (fleet.served / "metadata" / "1.root.json").read_bytes()):
        path.write_bytes(damage)
        with pytest.raises(StateError, match="restore"):
            refresh_timestamp(fleet.data, fleet.now)


def test_a_stick_is_bounded_and_honest(fleet: SignedFleet, tmp_path: Path) -> None:
    for days in (0, -1, 401):
        with pytest.raises(ConfigurationError, match="--valid-days"):
            export_repository(fleet.data, tmp_path / "stick", days, fleet.now)
    with pytest.raises(ConfigurationError, match="targets metadata is valid for"):
        export_repository(fleet.data, tmp_path / "stick", 100, fleet.now + 700 * DAY)
    assert not (tmp_path / "stick").exists()
    names = export_repository(fleet.data, tmp_path / "stick", 20, fleet.now)
    assert set(files(tmp_path / "stick")) == set(names) and not any("pem" in name for name in names)


def test_a_withdrawn_archive_is_gone(fleet: SignedFleet) -> None:
    (offer,) = offers(fleet.data)
    assert withdraw_bundle(fleet.data, fleet.keys, "tiny", 1, now=fleet.now)
    assert os.listdir(fleet.served / "targets") == []
    assert not withdraw_bundle(fleet.data, fleet.keys, "tiny", 1, now=fleet.now)
    assert fleet.device("d").newest("tiny") is None and offer.version == 1


def test_server_and_operator_do_not_write_over_each_other(fleet: SignedFleet, tmp_path: Path) -> None:
    bundles = [tiny_bundle(tmp_path / f"b{i}", i, name=f"n{i}") for i in range(2, 6)]
    before = current(fleet.data)["timestamp"].version
    work: list[Callable[[], Any]] = [
        lambda b=b: add_bundle(fleet.data, fleet.keys, b, now=fleet.now)
        for b in bundles  # type: ignore[misc]
    ]
    work += [lambda: refresh_timestamp(fleet.data, fleet.now, force=True)] * 4
    threads = [threading.Thread(target=job) for job in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(fleet.device("d").offers()) == 5
    assert current(fleet.data)["timestamp"].version == before + 2 * len(work), "no change was lost"


def test_a_thief_of_the_server_cannot_publish(fleet: SignedFleet, tmp_path: Path) -> None:
    """With the online keys and the whole repository, but without the targets key."""
    served = fleet.copy("served")
    evil: Any = Metadata.from_bytes(fleet.path_of(served, "targets").read_bytes())
    evil.signed.version += 1
    evil.signed.targets["tiny-1.skb"].hashes["sha256"] = "0" * 64
    evil.signatures.clear()
    for path in online_folder(fleet.data).glob("*.pem"):
        evil.sign(read_key(path), append=True)
    (served / "metadata" / f"{evil.signed.version}.targets.json").write_bytes(evil.to_bytes())

    def name_it(snapshot: Any) -> None:
        snapshot.meta["targets.json"].version += 1
        snapshot.meta["targets.json"].hashes = None

    fleet.forge(served, "snapshot", name_it)
    fleet.forge(served, "timestamp", lambda t: setattr(t.snapshot_meta, "hashes", None))
    with pytest.raises(TrustError) as caught:
        fleet.device("d", served).offers()
    assert caught.value.kind == "wrong-key"
    assert offline_folder(fleet.data) == fleet.keys[0]
