from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from edge.errors import LabelError, MisuseError
from edge.records import BACKGROUND
from tests.simulators.fleet_device import sound, statistics_of
from tests.trainer.server.fleets import enrol, say, show
from trainer.cli import main
from trainer.server.database import reading
from trainer.server.fleet import fleet_memory, verify_fleet
from trainer.server.labels import LabelRules, Rule, clear_rule, list_rules, set_rule
from trainer.server.opening import Server, open_server
from trainer.server.tables import Embedded, State

HALL, KITCHEN = [sound("bell", 1), sound("hound", 2), sound(BACKGROUND, 3)], [sound("bell", 4), sound("dog", 5)]


def two_devices(server: Server) -> tuple[str, str]:
    hall, kitchen = enrol(server, "hall"), enrol(server, "kitchen")
    say(server, hall, HALL)
    say(server, kitchen, KITCHEN)
    return hall, kitchen


def labels_of(server: Server) -> tuple[str, ...]:
    statistics = verify_fleet(server).statistics
    assert statistics is not None
    return statistics.labels


def test_merged_labels_are_one_class_and_clearing_gives_the_bits_back(any_engine_server: Server) -> None:
    server = any_engine_server
    two_devices(server)
    before = fleet_memory(server).statistics
    set_rule(server, "merge", "hound", "dog")
    merged = verify_fleet(server)
    assert merged.statistics == statistics_of(HALL).relabel({"hound": "dog"}) + statistics_of(KITCHEN)
    assert merged.n_classes == 2
    clear_rule(server, "hound")
    assert fleet_memory(server).statistics == before
    assert list_rules(server) == []


def test_a_split_label_is_a_class_of_each_device(any_engine_server: Server) -> None:
    server = any_engine_server
    two_devices(server)
    set_rule(server, "split", "bell")
    assert labels_of(server) == (BACKGROUND, "bell (hall)", "bell (kitchen)", "dog", "hound")
    set_rule(server, "split", "bell", "gong", device="hall")
    assert labels_of(server) == (BACKGROUND, "bell (kitchen)", "dog", "gong", "hound")


def test_a_rule_of_the_device_goes_before_that_of_all_and_merges_are_followed(any_engine_server: Server) -> None:
    server = any_engine_server
    hall, _ = two_devices(server)
    set_rule(server, "merge", "hound", "dog")
    set_rule(server, "merge", "dog", "animal")
    assert labels_of(server) == (BACKGROUND, "animal", "bell")
    set_rule(server, "merge", "hound", "wolf", device=hall[:6])
    assert labels_of(server) == (BACKGROUND, "animal", "bell", "wolf")
    with pytest.raises(LabelError, match=r"in a circle: (animal -> dog -> animal|dog -> animal -> dog)"):
        set_rule(server, "merge", "animal", "dog")
    set_rule(server, "merge", "wolf", "cub")
    with pytest.raises(LabelError, match="in a circle"):
        set_rule(server, "merge", "cub", "hound")  # in a circle on the hall device only
    assert labels_of(server) == (BACKGROUND, "animal", "bell", "cub")


@given(
    st.dictionaries(
        st.tuples(st.sampled_from(["", "1", "2"]), st.sampled_from("abcd")),
        st.tuples(st.sampled_from(["merge", "split", "private"]), st.sampled_from("abcde")),
    )
)
def test_resolving_ends_where_no_merge_leads_on(drawn: dict[tuple[str, str], tuple[str, str]]) -> None:
    rules = LabelRules(
        (
            Rule(i, label, action, target if action == "merge" else None)
            for (i, label), (action, target) in drawn.items()
        ),
        {"1": "hall", "2": "hall"},
    )
    circle = rules.circle()
    for device in ("1", "2"):
        for label in "abcde":
            name = rules.resolve(device, label)
            if circle is None and name is not None and len(name) == 1:
                rule = rules.rule_of(device, name)
                assert rule is None
    assert LabelRules([Rule("", "a", "split")], {"1": "hall", "2": "hall"}).resolve("1", "a") == "a (hall 1)"


def test_a_private_label_leaves_the_server_at_once(any_engine_server: Server) -> None:
    server = any_engine_server
    hall, kitchen = two_devices(server)
    show(server, hall, HALL)
    set_rule(server, "private", "hound")
    assert fleet_memory(server).statistics == statistics_of(KITCHEN)
    with reading(server.engine) as session:
        held = {row.device_id: row.held_back for row in session.scalars(select(State))}
        kept = set(session.scalars(select(Embedded.label)))
    assert held[kitchen] is None
    assert "hound" in str(held[hall])
    assert kept == {"bell", BACKGROUND}
    clear_rule(server, "hound")
    assert fleet_memory(server).n_devices == 2
    set_rule(server, "private", "hound", device="hall")
    assert fleet_memory(server).n_devices == 1
    say(server, hall, [HALL[0]], revision=2)
    assert fleet_memory(server).statistics == statistics_of([HALL[0], *KITCHEN])


def test_senseless_rules_are_refused_in_one_sentence(sqlite_server: Server) -> None:
    server = sqlite_server
    two_devices(server)
    for words, error, arguments in (
        ("name that one", LabelError, ("merge", "dog")),
        ("name that one", LabelError, ("merge", "dog", "dog")),
        ("has no other name", LabelError, ("private", "dog", "cat")),
        ("cannot be split into one", LabelError, ("split", "dog", "cat")),
        ("choose one of", LabelError, ("hide", "dog")),
        ("reserved", LabelError, ("merge", BACKGROUND, "dog")),
        ("reserved", LabelError, ("merge", "dog", BACKGROUND)),
    ):
        with pytest.raises(error, match=words):
            set_rule(server, *arguments)
    with pytest.raises(MisuseError, match="no device is called 'cellar'"):
        set_rule(server, "merge", "dog", "cat", device="cellar")
    with pytest.raises(LabelError, match="there is no rule"):
        clear_rule(server, "dog")
    assert list_rules(server) == []


def test_commands(tmp_path: Path) -> None:
    data = tmp_path / "data"
    server = open_server(data)
    two_devices(server)
    server.close()

    def run(*words: str) -> str:
        result = CliRunner().invoke(main, [*words, "--data", str(data)])
        assert result.exit_code == 0, result.output
        return result.stdout

    assert "'hound' counts as 'dog'" in run("labels", "merge", "hound", "dog")
    run("labels", "split", "bell")
    run("labels", "private", "snore", "--device", "hall")
    rules = [json.loads(line) for line in run("--json", "labels", "list").splitlines()]
    assert [(rule["action"], rule["label"], rule["target"]) for rule in rules] == [
        ("split", "bell", None),
        ("merge", "hound", "dog"),
        ("private", "snore", None),
    ]
    assert json.loads(run("--json", "fleet", "show"))["n_classes"] == 3
    run("labels", "clear", "bell")
    assert json.loads(run("--json", "fleet", "show"))["n_classes"] == 2
    result = CliRunner().invoke(main, ["labels", "merge", "dog", "hound", "--data", str(data)])
    assert result.exit_code == 2
