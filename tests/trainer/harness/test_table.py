"""A table runs the frozen backbone once, outside every method's clock, and only when a method wants it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge.errors import ConfigurationError
from tests.trainer.harness.synthetic_material import PlainBackbone
from tests.trainer.synthetic_sets import write_set
from trainer.harness.method import MethodContext, MethodKind
from trainer.harness.methods import known_methods
from trainer.harness.table import TableSettings, Variant, courses_of, fill_table, prepare
from trainer.pace.settings import PaceSettings
from trainer.protocols import Session
from trainer.sets.catalogue import SETS, SetClips, read_set

SETTINGS = TableSettings(orders=2, sessions=2)
KNOWN = known_methods()


class SlowBackbone(PlainBackbone):
    def tokens(self, features: Any) -> Any:
        time.sleep(0.3)
        return super().tokens(features)


class Idle:
    name = "idle"

    def __init__(self, context: MethodContext) -> None:
        self._context = context

    def learn(self, session: Session) -> None: ...

    def scores(self, rows: NDArray[np.int64]) -> tuple[tuple[str, ...], NDArray[np.float64]]:
        return (), np.zeros((len(rows), 0))

    def figures(self) -> dict[str, Any]:
        return {"seed": self._context.seed, "out": str(self._context.out)}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> SetClips:
    return read_set("folder", write_set(tmp_path_factory.mktemp("sets") / "sounds", n_classes=4, seconds=0.4))


def test_the_backbone_runs_once_and_on_nobodys_time(found: SetClips, tmp_path: Path) -> None:
    backbone = SlowBackbone()
    subject = prepare(SETS["folder"], found, backbone, {}, SETTINGS, tmp_path / "cache", progress=False)
    rows = [Variant(name, KNOWN[name], {}) for name in ("ncm", "teen")]
    table = fill_table(subject, "group", rows, SETTINGS, tmp_path)
    assert backbone.n_encoded == len(subject.material.clip)
    assert all(run.seconds[0] < 0.3 for runs in table.runs.values() for run in runs)
    with pytest.raises(ValueError, match="read-only"):
        subject.embed()[0] = 0.0


def test_methods_that_train_do_not_make_it_run(found: SetClips, tmp_path: Path) -> None:
    backbone = PlainBackbone()
    subject = prepare(SETS["folder"], found, backbone, {}, SETTINGS, tmp_path / "cache", progress=False)
    said: list[str] = []
    kind = MethodKind("idle", Idle)
    table = fill_table(subject, "group", [Variant("idle", kind, {})], SETTINGS, tmp_path, said=said.append)
    assert backbone.n_encoded == 0
    assert [run.figures["seed"] for run in table.runs["idle"]] == [0, 1]
    assert len({run.figures["out"] for run in table.runs["idle"]}) == 2
    assert table.runs["idle"][0].overall == (0.0, 0.0)
    assert said[0] == "group idle 1993: session 1 of 2: 0.0 %"


def test_orders_of_written_seeds_on_one_division(found: SetClips) -> None:
    courses = courses_of(SETS["folder"], found, "clip", TableSettings(orders=3, classes_per_session=3))
    assert [c.order_seed for c in courses] == [1993, 1994, 1995]
    assert len({c.test for c in courses}) == 1
    with pytest.raises(ConfigurationError, match="has no sessions of its own"):
        courses_of(SETS["folder"], found, "clip", TableSettings())


def test_runs_of_a_version_with_other_defaults_are_not_taken_up(
    found: SetClips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = prepare(SETS["folder"], found, PlainBackbone(), {}, SETTINGS, tmp_path / "cache", progress=False)
    rows = [Variant("idle", MethodKind("idle", Idle), {})]
    fill_table(subject, "group", rows, SETTINGS, tmp_path)
    fill_table(subject, "group", rows, SETTINGS, tmp_path)
    monkeypatch.setattr("trainer.harness.table.PaceSettings", lambda: PaceSettings(margin=0.5))
    with pytest.raises(ConfigurationError, match="defaults was"):
        fill_table(subject, "group", rows, SETTINGS, tmp_path)
