"""The influence check by its command: offenders named, quarantined with the evidence, and released again."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from click.testing import CliRunner

from edge.errors import MisuseError
from edge.space import FeatureSpace
from tests.simulators.fleet_device import SPACE, sound
from tests.trainer.server.fleets import enrol, id_of, say, set_status, show
from tests.trainer.server.label_flips import Fleet, drawn_sounds, fleet_of, rotate
from trainer.cli import main
from trainer.server import fleet_check
from trainer.server.devices import release_device, show_device
from trainer.server.fleet import fleet_memory, verify_fleet
from trainer.server.fleet_check import check_fleet
from trainer.server.influence import Examination, Finding
from trainer.server.labels import set_rule
from trainer.server.opening import Server
from trainer.server.status_page import status_page

BAD = ("device 03", "device 08")


def stated(server: Server, *, n_records: tuple[int, int] = (3, 4), shared: bool = False) -> Fleet:
    """Twelve devices in the database; two mix up their labels."""
    fleet = fleet_of(drawn_sounds(FeatureSpace(SPACE), n_classes=6), 1, n_devices=12, n_records=n_records)
    for name in BAD:
        rotate(fleet, name)
    for name in fleet.taught:
        records = fleet.records(name)
        say(server, enrol(server, name), records)
        if shared:
            show(server, id_of(name), records)
    return fleet


def right_sum(fleet: Fleet) -> str:
    return fleet.sum_of([pair for name in fleet.taught if name not in BAD for pair in fleet.taught[name]]).sha256


@pytest.mark.parametrize("shared", [False, True], ids=["sums only", "embeddings shared"])
def test_offenders_leave_the_sum_and_come_back_when_released(any_engine_server: Server, shared: bool) -> None:
    server = any_engine_server
    fleet = stated(server, shared=shared)
    everyone = fleet_memory(server).statistics
    reported = check_fleet(server, quarantine=False)
    assert {f.device for f in reported if f.evidence != "unusual"} == set(BAD)
    assert not any(f.quarantined for f in reported) and fleet_memory(server).statistics == everyone, "only a report"
    done = check_fleet(server, quarantine=True)
    assert {f.device for f in done if f.quarantined} == set(BAD)
    memory = verify_fleet(server)
    assert memory.statistics is not None and memory.statistics.sha256 == right_sum(fleet) and memory.n_devices == 10
    device = show_device(server, BAD[0])
    assert device["status"] == "quarantined" and "is what the other devices call" in device["reason"]
    assert check_fleet(server, quarantine=True) == [], "the others stay"
    for name in BAD:
        assert release_device(server, name)["status"] == "active"
    assert fleet_memory(server).statistics == everyone, "the bits from before"
    with pytest.raises(MisuseError, match="only a quarantined device is released"):
        release_device(server, BAD[0])


def test_commands(sqlite_server: Server) -> None:
    fleet = stated(sqlite_server)

    def run(*words: str) -> str:
        result = CliRunner().invoke(main, [*words, "--data", str(sqlite_server.data_dir)])
        assert result.exit_code == 0, result.output
        return result.output

    told = run("fleet", "check")
    assert all(f"device '{name}': its " in told for name in BAD)
    assert json.loads(run("--json", "fleet", "show"))["n_devices"] == 12
    lines = [json.loads(line) for line in run("--json", "fleet", "check", "--quarantine").splitlines()]
    assert {line["device"] for line in lines if line["quarantined"]} == set(BAD)
    shown = json.loads(run("--json", "fleet", "show"))
    assert shown["n_devices"] == 10 and shown["statistics_sha256"] == right_sum(fleet)
    page = status_page(sqlite_server)
    assert "quarantined" in page and "is what the other devices call" in page and "10 of 12" in page
    run("devices", "release", BAD[0])
    run("devices", "release", id_of(BAD[1]))
    assert json.loads(run("--json", "fleet", "show"))["n_devices"] == 12
    honest = CliRunner().invoke(main, ["fleet", "check", "--space", "0" * 8, "--data", str(sqlite_server.data_dir)])
    assert honest.exit_code == 2


def test_an_honest_or_empty_fleet_is_told_so(sqlite_server: Server) -> None:
    def check() -> str:
        result = CliRunner().invoke(main, ["fleet", "check", "--quarantine", "--data", str(sqlite_server.data_dir)])
        assert result.exit_code == 0
        return result.output

    assert "no device was found whose labels harm a class" in check()
    for number in range(4):
        say(sqlite_server, enrol(sqlite_server, f"d{number}"), [sound("bell", 1), sound("dog", 2)])
    assert "no device was found whose labels harm a class" in check()


def test_a_device_that_spoke_meanwhile_is_not_quarantined_for_what_it_said_before(
    sqlite_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = stated(sqlite_server)
    accuse = fleet_check.accuse

    def accuse_before(examination: Examination) -> tuple[list[Finding], list[Finding]]:
        found = accuse(examination)
        say(sqlite_server, id_of(BAD[0]), fleet.records(BAD[0])[1:], revision=2)
        set_status(sqlite_server, id_of(BAD[1]), "revoked")
        return found

    monkeypatch.setattr(fleet_check, "accuse", accuse_before)
    findings = check_fleet(sqlite_server, quarantine=True)
    assert {f.device for f in findings} == set(BAD) and not any(f.quarantined for f in findings)
    assert show_device(sqlite_server, BAD[0])["status"] == "active"
    assert show_device(sqlite_server, BAD[1])["status"] == "revoked", "the operator's word stays"


def test_a_statement_that_is_replaced_while_it_is_examined_is_looked_up_again(
    sqlite_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = stated(sqlite_server)
    accuse, spoke = fleet_check.accuse, []

    def accuse_late(examination: Examination) -> tuple[list[Finding], list[Finding]]:
        if not spoke:
            spoke.append(BAD[0])
            fleet.taught[BAD[0]] = fleet.truth[BAD[0]]
            say(sqlite_server, id_of(BAD[0]), fleet.records(BAD[0]), revision=2)
        return accuse(examination)

    monkeypatch.setattr(fleet_check, "accuse", accuse_late)
    assert {f.device for f in check_fleet(sqlite_server, quarantine=True)} == {BAD[1]}, "the other one corrected itself"


def test_names_of_the_operator_are_those_that_are_checked(make_server: Callable[[str | None], Server]) -> None:
    """A device that uses other words for the same sounds is accused of nothing once the operator renamed them."""
    server = make_server(None)
    fleet = fleet_of(drawn_sounds(FeatureSpace(SPACE), n_classes=6), 1, n_devices=12, n_records=(3, 4))
    name = "device 05"
    rotate(fleet, name)
    own = sorted({label for label, _ in fleet.truth[name]})
    for device in fleet.taught:
        say(server, enrol(server, device), fleet.records(device))
    assert {f.device for f in check_fleet(server, quarantine=False)} == {name}
    for i, label in enumerate(own):
        set_rule(server, "split", own[(i + 1) % len(own)], label, device=name)
    assert check_fleet(server, quarantine=False) == []
    memory = fleet_memory(server).statistics
    right = fleet.sum_of([pair for known in fleet.truth.values() for pair in known])
    assert memory is not None and memory.sha256 == right.sha256
