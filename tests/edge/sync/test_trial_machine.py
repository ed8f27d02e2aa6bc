"""A device that changes its ear again and again, against devices that have always heard with one.

Whatever is taught, forgotten, purged, renamed, merged and undone, and wherever the process dies: the ear that hears,
and the one before it during a trial, know exactly, to the bit, what a device would know that heard all with that ear.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from numpy.typing import NDArray

from edge.audio_stream import SourceHealth
from edge.backbones import find_ear, remember_backbone, start_ear
from edge.bundle import Bundle, open_bundle
from edge.clips import ClipStore
from edge.config import SyncSettings
from edge.desk import LocalDesk
from edge.ear import Ear, Worn
from edge.embedder import Embedder
from edge.errors import LabelError, MisuseError, StateError
from edge.hearing import background_example, hear, sounding_example
from edge.journal import Journal
from edge.learner import Learner
from edge.linear_map import parent_map
from edge.recent import RecentSound
from edge.records import BACKGROUND, Record
from edge.snapshot import sum_of
from edge.space import FeatureSpace
from edge.sync.catching_up import brought_along
from edge.sync.moving import move_records
from edge.sync.prepare import Prepared, encode_images
from edge.sync.upgrade import LiveEar, Upgrade
from tests.bundles import TONES, tone
from tests.faults import repetitions
from tests.simulators.ears import write_ear
from tests.simulators.running_listener import DECISION

LABELS = st.sampled_from(["a", "b"])  # few, so that they meet often
SOUNDS = st.integers(0, 2)
SEEDS = (1, 2, 3, 1, 2, 2, 4)
"""Of the ears in order of version; equal seeds are one backbone and so one space."""
POINTS = ("verified", "prepared in the child", "images kept", "prepared", "trial noted", "switched")
CRASHES = st.sampled_from([*[None] * len(POINTS), *POINTS])
FOLDER = "/dev/shm" if Path("/dev/shm").is_dir() else None

Known = set[tuple[str, int]]


class Crash(BaseException):
    """The process dies here; nothing that catches errors sees it."""


class Ears:
    """Written once, in this process."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ears-", dir=FOLDER))
        self.bundles = [write_ear(self.folder / f"v{i + 1}", version=i + 1, seed=seed) for i, seed in enumerate(SEEDS)]
        self._embedders: dict[str, Embedder] = {}
        self._heard: dict[tuple[str, int, bool], NDArray[np.int16]] = {}
        rng = np.random.default_rng(0)
        pcm = [np.rint(32767 * tone(hz, 1.0, rng).clip(-1, 1)) for hz in list(TONES.values())[:3]]
        self.sounds = [(x / 32768.0).astype(np.float32) for x in pcm]  # as a clip keeps them

    def embedder(self, bundle: Bundle) -> Embedder:
        if bundle.space.sha256 not in self._embedders:
            self._embedders[bundle.space.sha256] = Embedder(bundle)
        return self._embedders[bundle.space.sha256]

    def record(self, bundle: Bundle, label: str, sound: int) -> Record:
        """A sound as a device hears it that has this ear and no other."""
        key = (bundle.space.sha256, sound, label == BACKGROUND)
        if key not in self._heard:
            make = background_example if label == BACKGROUND else sounding_example
            self._heard[key] = make(hear(self.sounds[sound], self.embedder(bundle)), {}).embeddings
        return Record(bundle.space.sha256, label, self._heard[key])


_made: list[Ears] = []


def ears() -> Ears:
    if not _made:
        _made.append(Ears())
    return _made[0]


@dataclass
class Model:
    known: Known = field(default_factory=set)
    before: list[Known] = field(default_factory=list)

    def remember(self) -> None:
        self.before.append(set(self.known))

    def labels(self) -> set[str]:
        return {label for label, _ in self.known} - {BACKGROUND}


class TrialMachine(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.state = Path(tempfile.mkdtemp(prefix="trial-", dir=FOLDER))
        remember_backbone(self.state, ears().bundles[0].path)
        self.model, self.version = Model(), 1
        self.journal: Journal | None = None
        self.start()
        for label, sound in (("a", 0), ("b", 1)):
            self.teach(label=label, sound=sound)

    def teardown(self) -> None:
        if hasattr(self, "state"):
            self.stop()
            shutil.rmtree(self.state)

    # ---- the device -------------------------------------------------------------------------------------------------

    def wear(self, bundle: Bundle) -> Worn:
        assert self.journal is not None
        learner = Learner(self.journal, FeatureSpace(bundle.space), prior=bundle.prior(), live=True)
        return Worn(bundle.name, ears().embedder(bundle), learner, DECISION, None, bundle)

    def start(self) -> None:
        self.journal = Journal.open(self.state)
        found = brought_along(self.state, start_ear(self.state, None), self.journal)
        self.journal.space = found.bundle.space
        self.ear = Ear(self.wear(found.bundle))
        self.upgrade = self.made_upgrade(live=True)
        self.upgrade.go_on(found)

    def stop(self) -> None:
        if self.journal is not None:
            self.journal.close()
        self.journal = None

    def made_upgrade(self, *, live: bool) -> Upgrade:
        def call(work: Callable[[], Any]) -> Future[Any]:
            done: Future[Any] = Future()
            done.set_result(work())
            return done

        recent = RecentSound(self.ear.space, 1.0)
        health = lambda: SourceHealth("running")  # noqa: E731
        return Upgrade(
            self.state,
            SyncSettings(),
            live=LiveEar(self.ear, call, recent, self.wear, health) if live else None,
            prepare=self.prepare,
            crash_point=self.reached,
        )

    dies_at: str | None = None

    def reached(self, point: str) -> None:
        if point == self.dies_at:
            raise Crash(point)

    def prepare(self, state_dir: Path, new: Bundle, old: Bundle, out: Path) -> Prepared:
        """What the child does, without proving the ear."""
        with Journal.open(state_dir, read_only=True) as journal:
            moving = move_records(
                journal, ClipStore(state_dir), ears().embedder(new), parent_map(new), known_to=old.space.sha256
            )
        assert moving.stuck == ()
        out.write_bytes(encode_images(moving.images, new.space))
        return Prepared()

    @contextlib.contextmanager
    def dying(self, point: str | None) -> Any:
        """Run something that may die; then the process is started again."""
        self.dies_at = point
        try:
            yield
        except Crash:
            self.stop()
            self.start()
        finally:
            self.dies_at = None

    @property
    def desk(self) -> LocalDesk:
        clips = ClipStore(self.state, max_bytes=1 << 24)
        return LocalDesk(self.ear.learner, clips=clips, on_trial=self.ear.before is not None)

    def example(self, sound: int, worn: Bundle, before: Bundle | None, *, background: bool = False) -> Any:
        make = background_example if background else sounding_example
        twin = None if before is None else ears().embedder(before)
        return make(hear(ears().sounds[sound], ears().embedder(worn), keep_audio=True), {}, twin=twin)

    @property
    def in_use(self) -> tuple[Bundle, Bundle | None]:
        worn, before = self.ear.worn.bundle, None if self.ear.before is None else self.ear.before.bundle
        assert worn is not None
        return worn, before

    # ---- what is taught ---------------------------------------------------------------------------------------------

    def learnt(self, label: str, sound: int) -> None:
        if (label, sound) not in self.model.known:
            self.model.remember()
            self.model.known.add((label, sound))

    @rule(label=LABELS, sound=SOUNDS)
    def teach(self, label: str, sound: int) -> None:
        self.desk.teach(label, [self.example(sound, *self.in_use)])
        self.learnt(label, sound)

    @rule(sound=SOUNDS)
    def ignore(self, sound: int) -> None:
        self.desk.ignore([self.example(sound, *self.in_use, background=True)])
        self.learnt(BACKGROUND, sound)

    @rule(label=LABELS | st.just(BACKGROUND), purge=st.booleans())
    def forget(self, label: str, purge: bool) -> None:
        going = {one for one in self.model.known if one[0] == label}
        try:
            self.desk.forget(label, purge=purge)
        except MisuseError:
            return
        self.model.remember()
        self.model.known -= going
        if purge:
            self.model.before.clear()

    @precondition(lambda self: self.model.known)
    @rule(which=st.integers(0, 8), as_before=st.booleans(), purge=st.booleans())
    def forget_record(self, which: int, as_before: bool, purge: bool) -> None:
        label, sound = sorted(self.model.known)[which % len(self.model.known)]
        worn, before = self.in_use
        bundle = before if as_before and before is not None else worn
        try:
            self.desk.forget_record(ears().record(bundle, label, sound).id, purge=purge)
        except MisuseError as error:
            assert purge and "same embeddings" in str(error)
            return
        self.model.remember()
        self.model.known.discard((label, sound))
        if purge:
            self.model.before.clear()

    @precondition(lambda self: self.ear.before is not None)
    @rule(label=LABELS, purge=st.booleans())
    def forget_and_teach_again(self, label: str, purge: bool) -> None:
        """In one step, because chance rarely gets there: what is purged and taught again lies in another row."""
        sounds = sorted(sound for name, sound in self.model.known if name == label)
        self.forget(label=label, purge=purge)
        for sound in sounds:
            self.teach(label=label, sound=sound)

    @rule(old=LABELS, new=LABELS, merge=st.booleans())
    def rename_or_merge(self, old: str, new: str, merge: bool) -> None:
        try:
            (self.desk.merge_classes if merge else self.desk.rename)(old, new)
        except LabelError:
            return
        self.model.remember()
        self.model.known = {(new if label == old else label, sound) for label, sound in self.model.known}

    @rule()
    def undo(self) -> None:
        try:
            self.desk.undo()
        except StateError:
            assert not self.model.before
            return
        self.model.known = self.model.before.pop()

    # ---- which ear hears --------------------------------------------------------------------------------------------

    def next_ear(self) -> Bundle:
        self.version += 1
        return ears().bundles[self.version - 1]

    @property
    def may_consider(self) -> bool:
        return self.ear.before is None and self.version < len(SEEDS)

    @precondition(lambda self: self.may_consider)
    @rule(point=CRASHES)
    def consider(self, point: str | None) -> None:
        bundle = self.next_ear()
        with self.dying(point):
            considered = self.upgrade.consider(bundle.path)
            assert considered.state == "TRIAL" and self.ear.worn.bundle is not None
            assert self.ear.worn.bundle.sha256 == bundle.sha256 and self.ear.before is not None

    @precondition(lambda self: self.may_consider)
    @rule(point=CRASHES, label=LABELS, sounds=st.lists(SOUNDS, max_size=2), undo=st.booleans())
    def consider_and_teach_without_a_listener(
        self, point: str | None, label: str, sounds: list[int], undo: bool
    ) -> None:
        self.stop()
        self.dies_at = point
        with contextlib.suppress(Crash):
            self.made_upgrade(live=False).consider(self.next_ear().path)
        self.dies_at = None
        found = find_ear(self.state, None)
        with Journal.open(self.state, space=found.bundle.space) as journal:
            learner = Learner(journal, FeatureSpace(found.bundle.space))
            desk = LocalDesk(learner, clips=ClipStore(self.state, max_bytes=1 << 24))
            for sound in sounds:
                desk.teach(label, [self.example(sound, found.bundle, found.before)])
                self.learnt(label, sound)
            if undo and self.model.before:
                desk.undo()
                self.model.known = self.model.before.pop()
            learner.save_snapshot()
        self.start()

    @precondition(lambda self: self.ear.before is not None)
    @rule(wrong=st.sampled_from([None, "a test says so"]), dies=st.booleans())
    def end_the_trial(self, wrong: str | None, dies: bool) -> None:
        worn, before = self.in_use
        with self.dying(("committed" if wrong is None else "rejected") if dies else None):
            live = self.upgrade._live
            assert live is not None and self.upgrade._end(live, worn, wrong)
        assert self.ear.before is None
        assert self.ear.worn.bundle is not None and before is not None
        assert self.ear.worn.bundle.sha256 == (worn if wrong is None else before).sha256

    @precondition(lambda self: self.ear.before is not None)
    @rule()
    def a_memory_waits_for_the_end_of_a_trial(self) -> None:
        with pytest.raises(StateError, match="when the trial has ended"):
            self.desk.import_memory(b"")

    @rule(clean=st.booleans())
    def restart(self, clean: bool) -> None:
        if clean:
            self.ear.save_snapshot()
        self.stop()
        self.start()

    # ---- what must hold ---------------------------------------------------------------------------------------------

    @invariant()
    def both_ears_know_what_they_would_have_heard(self) -> None:
        if self.journal is None:
            return
        for bundle in self.in_use:
            if bundle is None:
                continue
            records = {r.id: r for one in self.model.known for r in [ears().record(bundle, *one)]}
            known = self.journal.records(bundle.space.sha256)
            assert set(known) == set(records)
            expected = sum_of(FeatureSpace(bundle.space), records.values()).sha256
            assert sum_of(FeatureSpace(bundle.space), known.values()).sha256 == expected
            if bundle is self.ear.worn.bundle:
                assert self.ear.learner.statistics_sha256 == expected
                assert set(self.ear.learner.labels) == self.model.labels()

    @invariant()
    def what_the_slots_say_can_be_opened(self) -> None:
        if self.journal is not None:
            found = find_ear(self.state, None)
            assert found.findings == ()
            for path in (self.state / "slots").glob("*/manifest.json"):
                open_bundle(path.parent)


@pytest.mark.faults
def test_changes_of_ear_against_devices_that_never_change() -> None:
    """Short ways, and the shortest one that fails."""
    run_state_machine_as_test(
        TrialMachine,
        settings=settings(
            max_examples=repetitions(8, 200),
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def walk(seed: int, n_steps: int) -> list[str]:
    """A long way at random, which comes through many trials; returns the steps."""
    rng = np.random.default_rng(seed)
    device, taken = TrialMachine(), []

    def one_of(choices: Sequence[Any]) -> Any:
        return choices[rng.integers(len(choices))]

    def label() -> str:
        return str(one_of("ab"))

    def yes() -> bool:
        return bool(rng.integers(2))

    steps: dict[str, Callable[[], dict[str, Any]]] = {
        "teach": lambda: {"label": label(), "sound": int(rng.integers(3))},
        "ignore": lambda: {"sound": int(rng.integers(3))},
        "forget": lambda: {"label": one_of(("a", "b", BACKGROUND)), "purge": yes()},
        "forget_record": lambda: {"which": int(rng.integers(9)), "as_before": yes(), "purge": yes()},
        "forget_and_teach_again": lambda: {"label": label(), "purge": yes()},
        "rename_or_merge": lambda: {"old": label(), "new": label(), "merge": yes()},
        "undo": dict,
        "consider": lambda: {"point": one_of([None] * 12 + list(POINTS))},
        "consider_and_teach_without_a_listener": lambda: {
            "point": one_of([None] * 12 + list(POINTS)),
            "label": label(),
            "sounds": [int(rng.integers(3))],
            "undo": yes(),
        },
        "end_the_trial": lambda: {
            "wrong": one_of((None, "a test says so", "a test says so")),
            "dies": rng.random() < 0.1,
        },
        "restart": lambda: {"clean": yes()},
    }
    weights = {"teach": 4.0, "undo": 3.0, "end_the_trial": 2.0, "restart": 0.3, "ignore": 0.5}
    p = np.array([weights.get(name, 1.0) for name in steps])
    device.begin()
    try:
        for _ in range(n_steps):
            name = str(rng.choice(list(steps), p=p / p.sum()))
            if name.startswith("consider") and not device.may_consider:
                continue
            if name in ("end_the_trial", "forget_and_teach_again") and device.ear.before is None:
                continue
            if name == "forget_record" and not device.model.known:
                continue
            arguments = steps[name]()
            taken.append(f"{name} {arguments}")
            getattr(device, name)(**arguments)
            device.both_ears_know_what_they_would_have_heard()
            device.what_the_slots_say_can_be_opened()
    except BaseException as error:
        error.add_note(f"seed {seed}: " + "; ".join(taken))
        raise
    finally:
        device.teardown()
    return taken


@pytest.mark.faults
def test_long_ways_through_many_trials() -> None:
    n_trials = 0
    for seed in range(repetitions(4, 500)):
        n_trials += sum(step.startswith("end_the_trial") for step in walk(seed, 60))
    assert n_trials >= repetitions(4, 500)
