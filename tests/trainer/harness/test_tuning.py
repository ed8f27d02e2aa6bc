"""Chosen on one set, reported on another, nothing changed in between."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.errors import ConfigurationError
from tests.trainer.harness.synthetic_material import run_of
from trainer.datasets import Clip
from trainer.harness.methods import choose, known_methods
from trainer.harness.tuning import (
    candidates,
    choose_best,
    config_sha256,
    phase_config,
    require_disjoint,
    require_unchanged,
)

KINDS = choose(["frozen-analytic", "lda", "ncm"], known_methods())
NOTHING: dict[str, dict[str, str]] = {kind.name: {} for kind in KINDS}


def test_every_combination_of_a_methods_own_keys() -> None:
    tried = candidates(KINDS, {**NOTHING, "lda": {"lift_dim": "64"}}, ["ridge=1,16", "frozen-analytic.lift_dim=64,128"])
    assert [v.name for v in tried["frozen-analytic"]] == [
        f"frozen-analytic@lift_dim={a},ridge={b}" for a in (64, 128) for b in (1, 16)
    ]
    assert [dict(v.settings) for v in tried["lda"]] == [{"lift_dim": "64", "ridge": r} for r in ("1", "16")]
    assert [v.name for v in tried["ncm"]] == ["ncm"]


def test_what_is_fixed_is_not_tuned() -> None:
    with pytest.raises(ConfigurationError, match="both say ridge of lda"):
        candidates(KINDS, {**NOTHING, "lda": {"ridge": "4"}}, ["ridge=1,16"])
    with pytest.raises(ConfigurationError, match="takes the setting depth"):
        candidates(KINDS, NOTHING, ["depth=1,2"])


def test_the_best_last_accuracy_wins_and_the_first_of_equals() -> None:
    tried = candidates(KINDS[1:2], NOTHING, ["ridge=1,2,4"])
    last = {"lda@ridge=1": 0.4, "lda@ridge=2": 0.7, "lda@ridge=4": 0.7}
    choice = choose_best(tried, {name: [run_of([[value]])] for name, value in last.items()})[0]
    assert choice.settings == {"ridge": "2"}
    assert choice.tried == last


def test_a_value_that_differs_between_the_phases_is_named() -> None:
    a = phase_config({"seed": 0, "hop_length": 800}, {"lda": {"ridge": "2"}, "ncm": {}})
    require_unchanged(a, phase_config({"hop_length": 800, "seed": 0}, {"ncm": {}, "lda": {"ridge": "2"}}))
    b = phase_config({"seed": 0, "hop_length": 400}, {"lda": {"ridge": "4"}, "ncm": {}})
    with pytest.raises(ConfigurationError, match=r"hop_length was 800, now 400; methods\.lda\.ridge was 2, now 4"):
        require_unchanged(a, b)
    assert config_sha256(a) != config_sha256(b)
    assert config_sha256(a) == config_sha256(dict(reversed(list(a.items()))))


def test_a_recording_in_both_sets_is_found_under_another_name(tmp_path: Path) -> None:
    for name, data in (("a", b"12345678"), ("b", b"abcdefgh"), ("c", b"12345678"), ("d", b"1234")):
        (tmp_path / name).write_bytes(data)
    clip = {name: Clip(tmp_path / name, "s", "x", "1") for name in "abcd"}
    require_disjoint([clip["a"]], [clip["b"], clip["d"]])
    with pytest.raises(ConfigurationError, match=r"1 recordings are both .*a = .*c; tune on other data"):
        require_disjoint([clip["a"], clip["d"]], [clip["b"], clip["c"]])
