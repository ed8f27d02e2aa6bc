"""The journal against a model that keeps everything in plain dictionaries."""

from __future__ import annotations

import copy
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from edge.errors import LabelError, MisuseError, StateError
from edge.journal import Journal
from edge.records import BACKGROUND
from tests.edge.examples import SPACE, example, origins

LABELS = st.sampled_from(["a", "b", "c"])
SEEDS = st.integers(0, 5)


@dataclass
class Model:
    """Known examples as (label, seed), and the states before each command."""

    known: set[tuple[str, int]] = field(default_factory=set)
    disabled: set[str] = field(default_factory=set)
    before: list[tuple[set[tuple[str, int]], set[str]]] = field(default_factory=list)

    def labels(self) -> set[str]:
        return {label for label, _ in self.known} - {BACKGROUND}

    def remember(self) -> None:
        self.before.append(copy.deepcopy((self.known, self.disabled)))

    def settle(self) -> None:
        self.disabled &= self.labels()


class JournalMachine(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="journal-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
        self.journal = Journal.open(self.folder, space=SPACE)
        self.model = Model()

    def teardown(self) -> None:
        if hasattr(self, "journal"):
            self.journal.close()
            shutil.rmtree(self.folder)

    @rule(label=LABELS, seeds=st.lists(SEEDS, min_size=1, max_size=3))
    def teach(self, label: str, seeds: list[int]) -> None:
        records = [example(label, seed) for seed in seeds]
        outcome = self.journal.teach(records, provenance=origins(len(records)))
        for seed in seeds:
            if (label, seed) not in self.model.known:
                assert example(label, seed).id in outcome.new_ids
                self.model.remember()
                self.model.known.add((label, seed))
        assert len(outcome.new_ids) + len(outcome.duplicate_ids) == len(seeds)

    @rule(seed=SEEDS)
    def ignore(self, seed: int) -> None:
        self.journal.ignore([example("x", seed)], provenance=origins(1))
        if (BACKGROUND, seed) not in self.model.known:
            self.model.remember()
            self.model.known.add((BACKGROUND, seed))

    @rule(examples=st.lists(st.tuples(LABELS, SEEDS), max_size=4))
    def import_records(self, examples: list[tuple[str, int]]) -> None:
        self.journal.import_records([example(*one) for one in examples])
        if not set(examples) <= self.model.known:
            self.model.remember()
            self.model.known |= set(examples)

    @rule(label=LABELS, purge=st.booleans())
    def forget(self, label: str, purge: bool) -> None:
        going = {(name, seed) for name, seed in self.model.known if name == label}
        if purge and any(
            name != label and ("", seed) in {("", s) for _, s in going} for name, seed in self.model.known
        ):
            with pytest.raises(MisuseError, match="holds the same embeddings"):
                self.journal.forget(label, purge=True)
            return
        try:
            self.journal.forget(label, purge=purge)
        except LabelError:
            assert not going
            return
        assert going or purge, "a purge also reaches what was forgotten before"
        self.model.remember()
        self.model.known -= going
        self.model.settle()
        if purge:
            self.model.before.clear()

    @rule(label=LABELS, seed=SEEDS)
    def forget_record(self, label: str, seed: int) -> None:
        if (label, seed) in self.model.known:
            self.journal.forget_record(example(label, seed).id)
            self.model.remember()
            self.model.known.discard((label, seed))
            self.model.settle()
        else:
            with pytest.raises(MisuseError):
                self.journal.forget_record(example(label, seed).id)

    @rule(old=LABELS, new=LABELS)
    def rename(self, old: str, new: str) -> None:
        if old not in self.model.labels() or new in self.model.labels():
            with pytest.raises(LabelError):
                self.journal.rename(old, new)
            return
        self.journal.rename(old, new)
        self.move(old, new, carry_switch=True)

    @rule(source=LABELS, into=LABELS)
    def merge_classes(self, source: str, into: str) -> None:
        if source == into or not {source, into} <= self.model.labels():
            with pytest.raises(LabelError):
                self.journal.merge_classes(source, into)
            return
        self.journal.merge_classes(source, into)
        self.move(source, into, carry_switch=False)

    def move(self, source: str, target: str, *, carry_switch: bool) -> None:
        self.model.remember()
        self.model.known = {(target if name == source else name, seed) for name, seed in self.model.known}
        if carry_switch and source in self.model.disabled:
            self.model.disabled.add(target)
        self.model.settle()

    @rule(label=LABELS, on=st.booleans())
    def enable(self, label: str, on: bool) -> None:
        if label not in self.model.labels():
            with pytest.raises(LabelError):
                self.journal.enable(label, on)
        elif self.journal.enable(label, on) is not None:
            self.model.remember()
            (self.model.disabled.discard if on else self.model.disabled.add)(label)

    @rule()
    def undo(self) -> None:
        if not self.model.before:
            with pytest.raises(StateError, match="nothing can be undone"):
                self.journal.undo()
            return
        assert self.journal.undo().undone
        self.model.known, self.model.disabled = self.model.before.pop()

    @rule()
    def reopen(self) -> None:
        self.journal.close()
        self.journal = Journal.open(self.folder, space=SPACE)
        assert self.journal.findings == ()

    @invariant()
    def agrees(self) -> None:
        if hasattr(self, "journal"):
            assert set(self.journal.records()) == {example(*one).id for one in self.model.known}
            assert self.journal.disabled_labels() == self.model.disabled
            assert set(self.journal.labels()) == self.model.labels()

    @invariant()
    def a_reader_agrees_and_the_chain_holds(self) -> None:
        if hasattr(self, "journal"):
            with Journal.open(self.folder, space=SPACE, read_only=True) as reader:
                assert list(reader.records()) == list(self.journal.records())
                assert [r.id for r in reader.records().values()] == list(reader.records())
                assert reader.verify().intact


TestJournalAgainstModel = JournalMachine.TestCase
TestJournalAgainstModel.settings = settings(max_examples=25, stateful_step_count=30)
