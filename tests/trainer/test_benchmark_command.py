"""``soundkeep-trainer benchmark`` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.export.small_student import small_student, write_checkpoint
from tests.trainer.sets.official_layouts import write_esc50
from tests.trainer.synthetic_sets import write_set
from trainer.backbones.checkpoint import save_checkpoint
from trainer.cli import main
from trainer.commands.benchmark import SET_NAMES
from trainer.sets.catalogue import SETS


class House:
    """Two sets, an ear that heard nothing, one that kept groups out, one that heard all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sounds = write_set(folder / "sounds", n_classes=4, n_groups=4, seconds=1.0)
        self.others = write_set(folder / "others", n_classes=3, n_groups=4, seconds=1.0, seed=1)
        self.ear = write_checkpoint(folder / "ear")
        self.kept, self.heard = folder / "kept", folder / "heard"
        save_checkpoint(self.kept, small_student(), {"data": ["sounds"], "kept_out": True})
        save_checkpoint(self.heard, small_student(), {"data": ["sounds"], "kept_out": False})

    def run(self, out: Path, *more: str | Path) -> Result:
        words = ["benchmark", "--set", "folder", "--data", self.sounds, "--out", out, "--backbone", self.ear]
        words += ["--method", "frozen-analytic", "--method", "ncm", "--setting", "lift_dim=64", "--orders", "2"]
        words += ["--sessions", "2", "--cache", self.folder / "cache", *more]
        return CliRunner().invoke(main, [str(w) for w in words])


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    return House(tmp_path_factory.mktemp("house"))


@pytest.fixture(scope="module")
def out(house: House) -> Path:
    done = house.run(house.folder / "out", "--budget", "0.1,1")
    assert done.exit_code == 0, done.output
    assert "split by group: 2 sessions of 2 classes" in done.stdout
    assert "ncm against frozen-analytic" in done.stdout
    assert "equal memory" in done.stdout
    return house.folder / "out"


def test_both_splits_the_one_by_group_first(out: Path) -> None:
    result = json.loads((out / "result.json").read_text())
    assert [(t["split"], t["headline"]) for t in result["tables"]] == [("group", True), ("clip", False)]
    assert result["config"]["first_order_seed"] == 1993
    assert result["config"]["split_seed"] == 1993
    assert len(result["config_sha256"]) == 64
    names = {p.name for p in out.iterdir()}
    pictures = {f"{k}-{s}.png" for k in ("curves", "forgetting", "comparison", "budgets") for s in ("group", "clip")}
    assert names == {"result.json", "results.csv", "summary.csv", "paired.csv", "run.json", "runs"} | pictures


def test_the_same_command_runs_nothing_again_and_methods_and_orders_may_be_added(house: House, out: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in (out / "runs").rglob("*.json")}
    assert house.run(out).exit_code == 0
    assert {p: p.stat().st_mtime_ns for p in (out / "runs").rglob("*.json")} == before
    assert house.run(out, "--method", "teen", "--orders", "3", "--split", "group").exit_code == 0
    after = {p: p.stat().st_mtime_ns for p in (out / "runs").rglob("*.json")}
    assert {p: after[p] for p in before} == before
    assert {p.parent.name for p in after.keys() - before.keys()} == {"teen", "frozen-analytic", "ncm"}


def test_another_configuration_is_refused_by_name(house: House, out: Path) -> None:
    for words, said in (
        (("--hop", "4000"), "hop_length was 0, now 4000"),
        (("--seed", "3"), "seed was 0, now 3"),
        (("--setting", "ridge=4"), "settings was {'lift_dim': '64'}, now"),
        (("--max-windows", "1"), "max_windows was None, now 1"),
    ):
        done = house.run(out, *words)
        assert (done.exit_code, said in done.output) == (2, True), done.output


def test_a_backbone_that_heard_test_groups_is_refused(house: House, tmp_path: Path) -> None:
    refused = house.run(tmp_path / "a", "--backbone", house.heard)
    assert refused.exit_code == 2
    assert "heard 4 of the 4 clips that the split by group asks" in refused.output
    assert not (tmp_path / "a").exists()
    allowed = house.run(tmp_path / "b", "--backbone", house.heard, "--allow-heard", "--split", "group")
    assert allowed.exit_code == 0, allowed.output
    assert "The backbone heard 4 of the 4 test clips" in allowed.stdout
    kept = house.run(tmp_path / "c", "--backbone", house.kept, "--split", "group")
    assert kept.exit_code == 0, kept.output
    assert "heard" not in kept.stdout
    by_clip = house.run(tmp_path / "d", "--backbone", house.kept, "--split", "clip")
    assert by_clip.exit_code == 0
    assert "both sides" in by_clip.stdout


def test_kept_out_groups_do_not_help_when_groups_are_the_classes(house: House, tmp_path: Path) -> None:
    words = ("--backbone", house.kept, "--label", "group", "--split", "group", "--sessions", "1")
    refused = house.run(tmp_path / "a", *words)
    assert refused.exit_code == 2
    assert "the backbone's record says that it heard" in refused.output


def test_two_phases(house: House, tmp_path: Path) -> None:
    words = ("--tune-on", f"folder={house.others}", "--grid", "ridge=1,4096", "--split", "group")
    done = house.run(tmp_path, *words)
    assert done.exit_code == 0, done.output
    tuning = json.loads((tmp_path / "result.json").read_text())["tuning"]
    assert tuning["config_sha256"] == tuning["reported_config_sha256"]
    assert tuning["chosen"]["frozen-analytic"]["ridge"] in ("1", "4096")
    assert len(tuning["tried"]["frozen-analytic"]) == 2
    run = json.loads((tmp_path / "runs" / "group" / "frozen-analytic" / "1993.json").read_text())
    assert run["recipe"]["settings"] == tuning["chosen"]["frozen-analytic"]
    same = house.run(tmp_path / "b", "--tune-on", f"folder={house.sounds}", "--grid", "ridge=1,2")
    assert same.exit_code == 2
    assert "16 recordings are both in the set to tune on" in same.output


def test_an_official_set_brings_its_own_sessions(house: House, tmp_path: Path) -> None:
    data = write_esc50(tmp_path / "esc", n_classes=6, n_folds=3)
    words = ["benchmark", "--set", "esc50", "--data", data, "--out", tmp_path / "out", "--backbone", house.ear]
    words += ["--method", "ncm", "--orders", "1", "--split", "group"]
    done = CliRunner().invoke(main, [str(w) for w in words])
    assert done.exit_code == 0, done.output
    assert "2 sessions of 5 classes, the last of 1" in done.stdout
    assert "esc50 has 2000 clips as published; this folder holds 18" in done.stdout


def test_what_is_wrong_is_said_in_one_sentence_before_the_work(house: House, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    cases: list[tuple[int, str, list[str | Path]]] = [
        (2, "no method 'magic'", ["--method", "magic"]),
        (2, "takes the setting depth", ["--setting", "depth=1"]),
        (2, "is no KEY=VALUE", ["--setting", "ridge"]),
        (2, "exclude each other", ["--classes-per-session", "2"]),
        (2, "cannot be dealt into 9 sessions", ["--sessions", "9"]),
        (2, "belong together", ["--grid", "ridge=1,2"]),
        (2, "is no SET=DIR", ["--tune-on", "folder", "--grid", "ridge=1,2"]),
        (2, "is no list of MB", ["--budget", "many"]),
        (2, "out of range", ["--budget", "0,1"]),
        (2, "--device 'abacus' is not here", ["--device", "abacus"]),
        (2, "lower --min-clips", ["--min-clips", "99"]),
        (1, "no class folders", ["--data", tmp_path / "empty"]),
        (1, "meta/esc50.csv", ["--set", "esc50"]),
        (1, "neither a file or folder", ["--backbone", "nothing"]),
    ]
    for i, (code, said, more) in enumerate(cases):
        done = house.run(tmp_path / f"out {i}", *more)
        assert (done.exit_code, said in done.output) == (code, True), (said, done.output)
        assert "Traceback" not in done.output
        assert not (tmp_path / f"out {i}").exists()
    only = CliRunner().invoke(main, ["benchmark", "--set", "folder", "--data", str(house.sounds), "--out",
                                     str(tmp_path / "x"), "--backbone", str(house.ear)])  # fmt: skip
    assert only.exit_code == 2
    assert "has no sessions of its own" in only.output


def test_the_command_names_every_set() -> None:
    assert set(SET_NAMES) == set(SETS)
