"""A table's backbone never heard its test clips, or every table says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edge.errors import ConfigurationError
from trainer.datasets import Clip, is_held_out
from trainer.harness.guard import OUR_BUNDLES, heard_test_groups, record_of, refuse_heard, warnings_of

REPOSITORY = Path(__file__).resolve().parents[3]


def clips(set_name: str, groups: list[str]) -> list[Clip]:
    return [Clip(Path(f"a/{g}.wav"), set_name, "a", g) for g in groups]


FOLDS = clips("esc50", ["1", "2", "3", "4", "5"])
KEPT = {"data": ["esc50", "fsdd"], "kept_out": True}
ALL = {"data": ["esc50", "fsdd"], "kept_out": False}


def test_fold_3_was_kept_out_and_the_others_were_not() -> None:
    assert heard_test_groups(KEPT, FOLDS[2:3]).n_heard == 0
    assert heard_test_groups(KEPT, FOLDS).n_heard == 4
    assert heard_test_groups(ALL, FOLDS[2:3]).n_heard == 1
    assert heard_test_groups(ALL, clips("urbansound8k", ["3"])).n_heard == 0
    unknown = heard_test_groups({}, FOLDS)
    assert unknown.n_heard is None
    assert "No record" in unknown.words


def test_a_part_of_a_set_under_another_name_is_the_same_recordings() -> None:
    record = {"data": ["speech_commands_test"], "kept_out": True}
    speakers = clips("speech_commands", [f"{i:08x}" for i in range(60)])
    heard = heard_test_groups(record, speakers).n_heard
    named = clips("speech_commands_test", [c.group for c in speakers])
    assert heard == sum(not is_held_out(c) for c in named)
    assert 0 < heard < 60
    assert heard_test_groups({"data": ["esc"], "kept_out": False}, FOLDS).n_heard == 0


def test_refusals() -> None:
    clean, part, whole = (heard_test_groups(r, f) for r, f in ((KEPT, FOLDS[2:3]), (KEPT, FOLDS), (ALL, FOLDS)))
    refuse_heard(clean, "group", allow=False)
    refuse_heard(heard_test_groups({}, FOLDS), "group", allow=False)
    refuse_heard(part, "clip", allow=False)
    for hearing, split in ((part, "group"), (whole, "group"), (whole, "clip")):
        with pytest.raises(ConfigurationError, match=r"heard . of the 5 clips .*--keep-out, or --allow-heard"):
            refuse_heard(hearing, split, allow=False)
        refuse_heard(hearing, split, allow=True)
        assert any("heard" in words for words in warnings_of(hearing, split))


def test_a_split_by_clip_always_says_that_it_leaks() -> None:
    clean = heard_test_groups(KEPT, FOLDS[2:3])
    assert warnings_of(clean, "group") == []
    assert "both sides" in warnings_of(clean, "clip")[0]


def test_records_of_checkpoints_and_of_our_bundles(tmp_path: Path) -> None:
    assert record_of(tmp_path) == {}
    (tmp_path / "checkpoint.json").write_text(json.dumps({"data": ["esc50"], "kept_out": True, "schema": 2}))
    assert record_of(tmp_path) == {"data": ["esc50"], "kept_out": True}
    (tmp_path / "checkpoint.json").write_text(json.dumps({"data": ["esc50"]}))
    assert record_of(tmp_path)["kept_out"] is False
    (tmp_path / "checkpoint.json").write_text("[]")
    assert record_of(tmp_path) == {}


@pytest.mark.parametrize(("folder", "kept_out"), [("edge/bundles/ear", False), ("benchmarks/bundles/evaluation", True)])
def test_every_bundle_of_ours_is_known(folder: str, kept_out: bool) -> None:
    record = record_of(REPOSITORY / folder)
    assert record["kept_out"] is kept_out
    assert "esc50" in record["data"]
    assert set(OUR_BUNDLES.values()) == {("ear", False), ("ear-int8", False), ("evaluation", True)}
