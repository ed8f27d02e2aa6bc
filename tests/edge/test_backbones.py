"""Which backbone a device uses."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.backbones import (
    CHOICE_NAME,
    chosen_path,
    find_backbone,
    imported_path,
    list_backbones,
    open_backbone,
    remember_backbone,
)
from edge.bundle import Bundle, default_bundle_path
from edge.errors import BundleError, StateError
from tests.bundles import write_tiny_bundle


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_tiny_bundle(tmp_path_factory.mktemp("ear") / "tiny")


def test_without_a_choice_it_is_the_shipped_one(tmp_path: Path) -> None:
    assert chosen_path(tmp_path) == default_bundle_path()
    assert chosen_path(tmp_path / "missing") == default_bundle_path()


def test_a_choice_is_remembered_and_the_option_wins(tmp_path: Path, tiny: Bundle) -> None:
    remember_backbone(tmp_path, tiny.path)
    assert open_backbone(tmp_path, None).space == tiny.space
    other = write_tiny_bundle(tmp_path / "other", seed=1)
    assert open_backbone(tmp_path, str(other.path)).space == other.space != tiny.space


def test_imported_backbones_are_listed_by_name(tmp_path: Path) -> None:
    write_tiny_bundle(imported_path(tmp_path, "mine"))
    (imported_path(tmp_path, ".partial")).mkdir()
    found = [b for b in list_backbones(tmp_path) if not b.shipped]
    assert [(b.name, b.path) for b in found] == [("mine", tmp_path / "backbones" / "mine")]
    assert find_backbone(tmp_path, "mine") == tmp_path / "backbones" / "mine"


def test_a_name_that_is_none_lists_those_that_are(tmp_path: Path) -> None:
    write_tiny_bundle(imported_path(tmp_path, "mine"))
    with pytest.raises(BundleError, match=r"no backbone 'yours'; known are .*mine"):
        find_backbone(tmp_path, "yours")


def test_a_choice_that_is_gone_or_damaged_is_said(tmp_path: Path, tiny: Bundle) -> None:
    (tmp_path / CHOICE_NAME).write_text('{"path": "/no/such/ear"}')
    with pytest.raises(BundleError, match="/no/such/ear is missing; pass --bundle"):
        open_backbone(tmp_path, None)
    (tmp_path / CHOICE_NAME).write_text("{")
    with pytest.raises(StateError, match="is damaged; choose again"):
        open_backbone(tmp_path, None)
    assert open_backbone(tmp_path, str(tiny.path)).space == tiny.space


def test_an_altered_bundle_is_never_remembered(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "ear")
    (bundle.path / "MODEL_CARD.md").write_text("changed")
    with pytest.raises(BundleError):
        remember_backbone(tmp_path, bundle.path)
    assert not (tmp_path / CHOICE_NAME).exists()
