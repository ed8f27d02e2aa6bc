"""KEY=VALUE into a dataclass, and to the method that it is for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import pytest

from edge.errors import ConfigurationError
from trainer.harness.methods import DEFAULT_METHODS, choose, deal_settings, known_methods
from trainer.harness.settings import keys_of, pairs_of, settings_from


@dataclass(frozen=True)
class Everything:
    rate: float = 0.1
    rank: int = 4
    width: int | None = 8
    on: bool = True
    how: Literal["a", "b"] = "a"
    blocks: tuple[int, ...] = (1,)
    word: str = "x"
    inner: list[int] = field(default_factory=list)


def test_every_kind_of_value_is_read() -> None:
    words = {"rate": "1e-3", "rank": "8", "width": "none", "on": "false", "how": "b", "blocks": "2,3", "word": "y"}
    assert settings_from(Everything, words) == Everything(1e-3, 8, None, False, "b", (2, 3), "y")
    assert settings_from(Everything, {"width": "3"}, {"rank": 7}) == Everything(width=3, rank=7)
    assert "inner" not in keys_of(Everything)


@pytest.mark.parametrize(
    ("key", "text", "said"),
    [
        ("rank", "many", "wanted a whole number"),
        ("rate", "x", "wanted a number"),
        ("on", "yes", "wanted true or false"),
        ("how", "c", "wanted a or b"),
        ("width", "x", "wanted int or NoneType"),
        ("depth", "1", "'depth' is no setting here; wanted one of rate, rank"),
        ("inner", "1", "'inner' is no setting here"),
    ],
)
def test_what_does_not_fit_is_named(key: str, text: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        settings_from(Everything, {key: text})


def test_pairs() -> None:
    assert pairs_of(["a=1", "b.c=x=y"], "--setting") == {"a": "1", "b.c": "x=y"}
    for bad in (["a"], ["=1"], ["a="]):
        with pytest.raises(ConfigurationError, match="is no KEY=VALUE"):
            pairs_of(bad, "--setting")
    with pytest.raises(ConfigurationError, match="gives a twice, 1 and 2"):
        pairs_of(["a=1", "a=2"], "--setting")


def test_a_setting_goes_to_every_method_that_has_it_and_a_named_one_wins() -> None:
    kinds = choose(["frozen-analytic", "lda", "teen", "ncm"], known_methods())
    dealt = deal_settings({"lda.ridge": "64", "ridge": "2", "alpha": "0.1"}, kinds)
    assert dealt == {"frozen-analytic": {"ridge": "2"}, "lda": {"ridge": "64"}, "teen": {"alpha": "0.1"}, "ncm": {}}
    for key in ("depth", "ncm.ridge", "pace.rank"):
        with pytest.raises(ConfigurationError, match=f"takes the setting {key}"):
            deal_settings({key: "1"}, kinds)


def test_methods_by_name() -> None:
    known = known_methods()
    assert [k.name for k in choose([], known)] == [name for name in DEFAULT_METHODS if name in known]
    assert [k.name for k in choose(["ncm", "lda", "ncm"], known)] == ["ncm", "lda"]
    with pytest.raises(ConfigurationError, match="no method 'magic'; wanted one of frozen-analytic, ncm"):
        choose(["magic"], known)
