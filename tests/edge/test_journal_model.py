"""The journal against a model that keeps everything in plain dictionaries, in two embedding spaces at once."""

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
from edge.journal import Image, Journal, Twin
from edge.records import BACKGROUND, Record
from edge.snapshot import sum_of
from edge.space import EmbeddingSpace, FeatureSpace
from tests.edge.examples import OTHER_SPACE, SPACE, example, image, origins

LABELS = st.sampled_from(["a", "b", "c"])
SEEDS = st.integers(0, 5)
OTHER_SEEDS = st.integers(10, 13)


def space_of(seed: int) -> EmbeddingSpace:
    """Which space the examples of a seed are taught in: 10 and above in the other one."""
    return SPACE if seed < 10 else OTHER_SPACE


def record(label: str, seed: int) -> Record:
    return example(label, seed, space=space_of(seed))


def elsewhere(seed: int) -> EmbeddingSpace:
    return OTHER_SPACE if seed < 10 else SPACE


@dataclass
class Model:
    """Known examples as (label, seed), and the states before each command."""

    known: set[tuple[str, int]] = field(default_factory=set)
    disabled: set[str] = field(default_factory=set)
    before: list[tuple[set[tuple[str, int]], set[str]]] = field(default_factory=list)
    images: dict[int, int] = field(default_factory=dict)
    """Seed of an example -> seed of its image in the space that it was not taught in."""
    held: set[int] = field(default_factory=set)
    """Seeds whose embeddings are still in the journal, known or not."""
    ever: set[tuple[str, int]] = field(default_factory=set)

    def in_space(self, space: EmbeddingSpace) -> set[tuple[str, int]]:
        """What is known in a space as (label, seed of the embeddings there)."""
        own = {(label, seed) for label, seed in self.known if space_of(seed) == space}
        moved = {(label, self.images[s]) for label, s in self.known if space_of(s) != space and s in self.images}
        return own | moved

    def learn(self, label: str, seed: int) -> None:
        self.known.add((label, seed))
        self.held.add(seed)
        self.ever.add((label, seed))

    def purge(self, seeds: set[int]) -> None:
        self.held -= seeds
        self.images = {seed: image for seed, image in self.images.items() if seed not in seeds}
        self.before.clear()

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
                self.model.learn(label, seed)
        assert len(outcome.new_ids) + len(outcome.duplicate_ids) == len(seeds)

    @rule(seed=SEEDS)
    def ignore(self, seed: int) -> None:
        self.journal.ignore([example("x", seed)], provenance=origins(1))
        if (BACKGROUND, seed) not in self.model.known:
            self.model.remember()
            self.model.learn(BACKGROUND, seed)

    @rule(label=LABELS, seed=OTHER_SEEDS, twin=st.integers(20, 25) | st.none())
    def teach_in_the_other_space(self, label: str, seed: int, twin: int | None) -> None:
        twins = [None if twin is None else Twin(SPACE, example("x", twin).embeddings)]
        self.journal.close()
        with Journal.open(self.folder, space=OTHER_SPACE) as journal:
            journal.teach([record(label, seed)], provenance=origins(1), twins=twins)
        self.journal = Journal.open(self.folder, space=SPACE)
        if (label, seed) not in self.model.known:
            self.model.remember()
            self.model.learn(label, seed)
            if twin is not None:
                self.model.images[seed] = twin

    @rule(moves=st.lists(st.tuples(SEEDS | OTHER_SEEDS, st.integers(20, 23)), max_size=4))
    def move_to_the_other_space(self, moves: list[tuple[int, int]]) -> None:
        for target in (SPACE, OTHER_SPACE):
            images: list[Image] = []
            for seed, image_seed in moves:
                if elsewhere(seed) == target:
                    images.append(image(record("x", seed), image_seed + 10 * (seed % 5), space=target))
                    if seed in self.model.held:
                        self.model.images[seed] = image_seed + 10 * (seed % 5)
            self.journal.move(images, target)

    @rule(examples=st.lists(st.tuples(LABELS, SEEDS), max_size=4))
    def import_records(self, examples: list[tuple[str, int]]) -> None:
        self.journal.import_records([example(*one) for one in examples])
        if not set(examples) <= self.model.known:
            self.model.remember()
            for one in examples:
                self.model.learn(*one)

    @rule(label=LABELS, purge=st.booleans())
    def forget(self, label: str, purge: bool) -> None:
        going = {(name, seed) for name, seed in self.model.known if name == label}
        staying = {seed for name, seed in self.model.known if name != label}
        if purge and staying & {seed for _, seed in going}:
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
            self.model.purge({seed for name, seed in self.model.ever if name == label} - staying)

    @rule(label=LABELS, seed=SEEDS | OTHER_SEEDS, by_image=st.booleans())
    def forget_record(self, label: str, seed: int, by_image: bool) -> None:
        named = record(label, seed).id
        if by_image and seed in self.model.images:
            named = example(label, self.model.images[seed], space=elsewhere(seed)).id
        going = {(label, s) for name, s in self.model.known if name == label and self.is_behind(label, s, named)}
        if going:
            self.journal.forget_record(named)
            self.model.remember()
            self.model.known -= going
            self.model.settle()
        else:
            with pytest.raises(MisuseError):
                self.journal.forget_record(named)

    def is_behind(self, label: str, seed: int, named: str) -> bool:
        image_seed = self.model.images.get(seed)
        by_image = image_seed is not None and example(label, image_seed, space=elsewhere(seed)).id == named
        return by_image or record(label, seed).id == named

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
        self.model.ever |= self.model.known
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
            assert set(self.journal.natives()) == {record(*one).id for one in self.model.known}
            for space in (SPACE, OTHER_SPACE):
                known = [example(*one, space=space) for one in self.model.in_space(space)]
                assert set(self.journal.records(space.sha256)) == {one.id for one in known}
                folded = sum_of(FeatureSpace(space), self.journal.records(space.sha256).values())
                assert folded.sha256 == sum_of(FeatureSpace(space), {one.id: one for one in known}.values()).sha256
            unmoved = {record(*one).id for one in self.model.known if space_of(one[1]) == SPACE}
            unmoved -= {record(*one).id for one in self.model.known if one[1] in self.model.images}
            assert {known.id for known in self.journal.not_in(OTHER_SPACE.sha256)} == unmoved
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
