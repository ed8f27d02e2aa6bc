from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from sqlalchemy import update

from edge.errors import CorruptionError, MisuseError
from edge.records import BACKGROUND, Record
from edge.space import EmbeddingSpace
from tests.faults import repetitions
from tests.simulators.fleet_device import SPACE, sound, statistics_of
from tests.trainer.server.fleets import enrol, id_of, say, set_status
from trainer.cli import main
from trainer.server.blobs import BlobStore
from trainer.server.database import transaction
from trainer.server.devices import remove_device, revoke_device
from trainer.server.fleet import fleet_memory, verify_fleet
from trainer.server.opening import Server, open_server
from trainer.server.tables import PublishedBundle, State

OTHER = EmbeddingSpace("0a" * 32, sample_rate=16000, window_length=16000, hop_length=4000, dim=5)


def sounds(seed: int, n: int = 3) -> list[Record]:
    """What one device knows: some classes, one of them ignored."""
    rng = np.random.default_rng(seed)
    labels = ("bell", "dog", "kettle", BACKGROUND)
    return [sound(labels[rng.integers(4)], 100 * seed + i, n_windows=int(rng.integers(1, 4))) for i in range(n)]


def test_an_empty_fleet_knows_nothing(any_engine_server: Server) -> None:
    for memory in (fleet_memory(any_engine_server), verify_fleet(any_engine_server)):
        answer = memory.to_json()
        assert answer["statistics_sha256"] is None
        assert [answer[key] for key in ("n_records", "n_windows", "n_classes", "n_devices")] == [0, 0, 0, 0]


def test_the_fleet_equals_one_device_that_heard_everything(any_engine_server: Server) -> None:
    server = any_engine_server
    heard: list[Record] = []
    for number in range(7):
        device = enrol(server, f"device {number}")
        heard += (known := sounds(number))
        say(server, device, known)
    one = statistics_of(heard)
    memory = verify_fleet(server)
    assert memory.statistics == one
    assert memory.to_json() | {"spaces": None} == {
        "statistics_sha256": one.sha256,
        "n_records": len(heard),
        "n_windows": sum(record.n_windows for record in heard),
        "n_classes": len({record.label for record in heard} - {BACKGROUND}),
        "n_devices": 7,
        "space": SPACE.sha256,
        "spaces": None,
        "n_shared_records": 0,
        "shared": [],
    }


@pytest.mark.faults
def test_statements_that_come_again_and_out_of_order_change_no_bit(make_server: Callable[..., Server]) -> None:
    """Fault 12: each of 50 devices' statements 1 to 10 times, shuffled, older ones too."""
    n_devices, most = repetitions(12, 50), repetitions(3, 10)
    in_order, shuffled = make_server(None), make_server(None)
    rng = np.random.default_rng(12)
    sent = []
    for number in range(n_devices):
        known = sounds(number, 4)
        for server in (in_order, shuffled):
            enrol(server, f"device {number}")
        for revision in (1, 2, 3):
            sent += [(number, revision, known[: revision + 1])] * int(rng.integers(1, most + 1))
        say(in_order, id_of(f"device {number}"), known)
    for i in rng.permutation(len(sent)):
        number, revision, records = sent[i]
        say(shuffled, id_of(f"device {number}"), records, revision=revision)
    assert verify_fleet(shuffled).statistics == fleet_memory(in_order).statistics
    assert verify_fleet(shuffled).n_records == fleet_memory(in_order).n_records


@pytest.mark.parametrize("how", ["remove", "revoke", "quarantine", "hold back"])
def test_a_device_that_goes_leaves_the_bits_of_the_others(any_engine_server: Server, how: str) -> None:
    server = any_engine_server
    for number in range(4):
        say(server, enrol(server, f"device {number}"), sounds(number))
    others = statistics_of([record for number in (0, 1, 3) for record in sounds(number)])
    assert fleet_memory(server).statistics != others
    if how == "remove":
        remove_device(server, "device 2")
    elif how == "revoke":
        revoke_device(server, "device 2")
    elif how == "quarantine":
        set_status(server, id_of("device 2"), "quarantined")
    else:
        with transaction(server.engine) as session:
            session.execute(update(State).where(State.device_id == id_of("device 2")).values(held_back="waits"))
    assert verify_fleet(server).statistics == others
    assert fleet_memory(server).n_devices == 3


def test_records_on_two_devices_are_named_and_counted(any_engine_server: Server) -> None:
    server = any_engine_server
    common = [sound("bell", 900 + i) for i in range(25)]
    for name, known in (("a", [*common, sound("dog", 1)]), ("b", common), ("c", [common[0], sound("dog", 2)])):
        say(server, enrol(server, name), known)
    say(server, enrol(server, "revoked"), [sound("dog", 1)])
    set_status(server, id_of("revoked"), "revoked")
    answer = fleet_memory(server).to_json()
    assert answer["n_records"] == 53
    assert answer["n_shared_records"] == 25
    assert [shared["record"] for shared in answer["shared"]] == sorted(record.id for record in common)[:20]
    everyone = {shared["record"]: set(shared["devices"]) for shared in answer["shared"]}
    both = {id_of("a"), id_of("b")}
    assert all(ids == (both | {id_of("c")} if record == common[0].id else both) for record, ids in everyone.items())


def test_each_space_has_a_sum_of_its_own(any_engine_server: Server) -> None:
    server = any_engine_server
    other = [sound("bell", 5, space=OTHER)]
    for name in ("a", "b"):
        say(server, enrol(server, name), [sound("bell", len(name))])
    say(server, enrol(server, "c"), other, space=OTHER)
    memory = fleet_memory(server)
    assert memory.to_json()["space"] == SPACE.sha256
    assert memory.to_json()["spaces"] == {SPACE.sha256: 2, OTHER.sha256: 1}
    assert verify_fleet(server, OTHER.sha256[:8]).statistics == statistics_of(other, OTHER)
    with pytest.raises(MisuseError, match="0 known embedding spaces begin with 'abc"):
        fleet_memory(server, "abc")
    with pytest.raises(MisuseError, match="known embedding spaces begin with '_'"):
        fleet_memory(server, "_")
    with transaction(server.engine) as session:
        session.add(
            PublishedBundle(
                sha256="9" * 64,
                name="ear",
                version=2,
                space_sha256=OTHER.sha256,
                status="published",
                created_at=1.0,
                published_at=2.0,
            )
        )
    assert fleet_memory(server).to_json()["space"] == OTHER.sha256


def test_verify_names_a_statement_that_was_altered_or_exchanged(sqlite_server: Server) -> None:
    server = sqlite_server
    for name in ("a", "b"):
        say(server, enrol(server, name), [sound("bell", ord(name))])
    verify_fleet(server)
    with transaction(server.engine) as session:
        row = session.get(State, id_of("b"))
        assert row is not None
        blob = row.blob_sha256
        row.statistics_sha256 = "0" * 64
    with pytest.raises(CorruptionError, match="device 'b' has other numbers than its row says"):
        verify_fleet(server)
    path = server.data_dir / "blobs" / blob[:2] / blob
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)
    with pytest.raises(CorruptionError, match="does not match its hash"):
        fleet_memory(server)


def test_a_statement_that_is_replaced_meanwhile_is_looked_up_again(
    sqlite_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = sqlite_server
    device = enrol(server, "a")
    say(server, device, [sound("bell", 1)])
    newer = [sound("bell", 1), sound("dog", 2)]
    get, spoke = BlobStore.get, []

    def get_late(blobs: BlobStore, name: str) -> bytes:
        if not spoke:
            spoke.append(name)
            say(server, device, newer, revision=2)
        return get(blobs, name)

    monkeypatch.setattr(BlobStore, "get", get_late)
    assert fleet_memory(server).statistics == statistics_of(newer)


def test_commands_answer_for_people_and_programs(tmp_path: Path) -> None:
    data = tmp_path / "data"
    server = open_server(data)
    known = [sound("bell", 1), sound("dog", 2)]
    say(server, enrol(server, "a"), known)
    say(server, enrol(server, "b"), known[:1])
    server.close()

    def run(*words: str) -> str:
        result = CliRunner().invoke(main, [*words, "--data", str(data)])
        assert result.exit_code == 0, result.output
        return result.output

    shown = json.loads(run("--json", "fleet", "show"))
    assert shown == json.loads(run("--json", "fleet", "verify"))
    wanted = statistics_of([*known, known[0]]).sha256
    assert {key: shown[key] for key in ("statistics_sha256", "n_records", "n_windows", "n_classes", "n_devices")} == {
        "statistics_sha256": wanted,
        "n_records": 3,
        "n_windows": 9,
        "n_classes": 2,
        "n_devices": 2,
    }
    words = run("fleet", "verify")
    assert "verified: 2 devices know 2 classes from 3 examples (9 windows)" in words
    assert "1 examples are on several devices" in words
    assert CliRunner().invoke(main, ["fleet", "show", "--with-mapped", "--data", str(data)]).exit_code == 2
