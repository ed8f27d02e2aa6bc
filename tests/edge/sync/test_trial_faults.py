"""What goes wrong around a change of ear, and what must then still hold: each of these was a fault once."""

from __future__ import annotations

import errno
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

import edge.sync.slots
from edge.audio_stream import SourceHealth
from edge.backbones import find_ear, remember_backbone
from edge.bundle import Bundle
from edge.bundle_archive import write_archive
from edge.cli import main
from edge.commands.sync import _offers_beside
from edge.commands.workbench import Workbench
from edge.config import SyncSettings
from edge.errors import BundleError, StateError, SyncError
from edge.hearing import hear, sounding_example
from edge.journal import Journal
from edge.linear_map import LinearMap, ParentMap
from edge.snapshot import sum_of
from edge.space import FeatureSpace
from edge.sync.prepare import Prepared
from edge.sync.slots import change_slots, load_slots
from edge.sync.upgrade import Upgrade
from tests.bundles import SAMPLE_RATE, TONES, noise, tone, write_wav
from tests.simulators.ears import write_ear
from tests.simulators.listener_process import listener_process
from tests.simulators.upgrading import Upgrading, prepare_here, taught, upgrading_listener

Ears = Callable[[int], Bundle]
Sound = tuple[str, NDArray[np.float32]]


@pytest.fixture(scope="module")
def ears(tmp_path_factory: pytest.TempPathFactory) -> Ears:
    folder = tmp_path_factory.mktemp("ears")
    made: dict[int, Bundle] = {}

    def ear(version: int) -> Bundle:
        if version not in made:
            made[version] = write_ear(folder / f"v{version}", version=version, seed=version)
        return made[version]

    return ear


def sounds(n: int = 2, *, seed: int = 0) -> list[Sound]:
    rng = np.random.default_rng(seed)
    return [(label, tone(hz, 1.5, rng)) for label, hz in TONES.items() for _ in range(n)]


def used_state(folder: Path, ear: Bundle, *, clips: bool = True) -> Path:
    folder.mkdir()
    remember_backbone(folder, ear.path)
    taught(folder, None, sounds(), clips=clips)
    return folder


def fold(state: Path, bundle: Bundle) -> str:
    with Journal.open(state, read_only=True) as journal:
        return sum_of(FeatureSpace(bundle.space), journal.records(bundle.space.sha256).values()).sha256


def quiet(seconds: float = 2.0) -> NDArray[np.float32]:
    return noise(seconds, np.random.default_rng(1), level=0.01)


def in_loop(running: Upgrading, work: Callable[[], Any]) -> Any:
    return running.inbox.call(work).result(20.0)


def roll_back(running: Upgrading, bundle: Bundle) -> None:
    in_loop(running, lambda: running.upgrade._end(running.upgrade._live, bundle, "a test says so"))


# ---- exactness ------------------------------------------------------------------------------------------------------


def test_purged_and_taught_again_on_trial_is_forgotten_exactly_after_the_roll_back(quick: Path, ears: Ears) -> None:
    """The purge moves the record to another row of the journal while its name stays the same."""
    state = used_state(quick / "state", ears(1))
    sound = sounds()[0]
    with upgrading_listener(state, None, trial_seconds=600.0) as running:
        running.upgrade.consider(ears(2).path)
        in_loop(running, lambda: running.live.forget(sound[0], purge=True))
        for label, samples in sounds()[:2]:
            running.taught_while_running(label, samples)
        roll_back(running, ears(2))
        assert running.ear.learner.statistics_sha256 == fold(state, ears(1))
        in_loop(running, lambda: running.live.forget(sound[0]))
        assert running.ear.learner.statistics_sha256 == fold(state, ears(1)), "what was forgotten still counts"


def test_undo_brings_back_for_the_new_ear_what_was_forgotten_for_the_old_one(quick: Path, ears: Ears) -> None:
    state = used_state(quick / "state", ears(1))
    with upgrading_listener(state, None, trial_seconds=1.0) as running:
        before = running.ear.learner.statistics_sha256
        in_loop(running, lambda: running.live.forget("bell"))
        assert running.upgrade.consider(ears(2).path).state == "TRIAL"
        running.hear(quiet(3.0))
        assert running.ear.trial is None and running.ear.space == ears(2).space
        in_loop(running, running.live.undo)
        assert "bell" in running.ear.learner.labels
        assert running.ear.learner.statistics_sha256 == fold(state, ears(2))
        assert fold(state, ears(1)) == before


# ---- what cannot move -----------------------------------------------------------------------------------------------


def test_a_switch_that_cannot_be_made_leaves_the_old_ear_and_no_trial(quick: Path, ears: Ears) -> None:
    """Something is taught without a clip while the new ear is prepared, and there is no map for it."""
    state = used_state(quick / "state", ears(1))

    def teaching_meanwhile(state_dir: Path, new: Bundle, old: Bundle, out: Path) -> Prepared:
        prepared = prepare_here(state_dir, new, old, out)
        samples = tone(600.0, 1.5, np.random.default_rng(8))
        example = sounding_example(hear(samples, running.ear.worn.embedder), {})
        in_loop(running, lambda: running.live.teach("drone", [example]))
        return prepared

    with upgrading_listener(state, None, trial_seconds=600.0, prepare=teaching_meanwhile) as running:
        with pytest.raises(SyncError, match="not now: 1 of 1 examples cannot move"):
            running.upgrade.consider(ears(2).path)
        assert running.ear.space == ears(1).space and running.ear.trial is None
        slots = load_slots(state)[0]
        assert slots.active is None and slots.slots[ears(2).sha256].state == "VERIFIED"
        running.hear(quiet(1.0))
        assert not running.recent.hold_audio
    assert find_ear(state, None).bundle.sha256 == ears(1).sha256


def test_a_trial_that_waited_does_not_begin_without_what_was_taught_meanwhile(quick: Path, ears: Ears) -> None:
    """Taught with the old ear named by hand, without a clip: the new one cannot know it, so it does not hear yet."""
    state = used_state(quick / "state", ears(1))
    assert Upgrade(state, SyncSettings(), prepare=prepare_here).consider(ears(2).path).state == "TRIAL"
    wav = write_wav(quick / "drone.wav", tone(600.0, 1.5, np.random.default_rng(8)))
    command = ["--state", str(state), "--bundle", str(ears(1).path), "teach", "drone", str(wav)]
    assert CliRunner().invoke(main, command).exit_code == 0
    with upgrading_listener(state, None, trial_seconds=600.0) as running:
        assert running.ear.space == ears(1).space and "drone" in running.ear.learner.labels
        assert running.ear.trial is None and any("cannot move" in words for words in running.said), running.said
        assert load_slots(state)[0].slots[ears(2).sha256].state == "VERIFIED"
    in_loop_again = Upgrade(state, SyncSettings(), prepare=prepare_here).consider(ears(2).path)
    assert in_loop_again.state == "VERIFIED" and not in_loop_again.prepared.for_good


def test_what_the_ear_in_use_does_not_know_is_in_nobodys_way(quick: Path, ears: Ears) -> None:
    """Taught once with another backbone, without a clip: neither ear knows it, so nothing is lost by the change."""
    state = used_state(quick / "state", ears(1))
    other = ears(9)
    taught(state, other.path, [("elsewhere", tone(600.0, 1.5, np.random.default_rng(8)))], clips=False)
    considered = Upgrade(state, SyncSettings(), prepare=prepare_here).consider(ears(2).path)
    assert considered.state == "TRIAL", considered.words
    assert considered.prepared.n_records == 8


# ---- the file of slots ----------------------------------------------------------------------------------------------


def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(edge.sync.slots, "write_file", refuse)


@pytest.mark.parametrize("wrong", [None, "a test says so"])
def test_a_full_disk_at_the_end_of_a_trial_does_not_end_listening(
    quick: Path, ears: Ears, monkeypatch: pytest.MonkeyPatch, wrong: str | None
) -> None:
    state = used_state(quick / "state", ears(1))
    with upgrading_listener(state, None, trial_seconds=1.0) as running:
        running.upgrade.consider(ears(2).path)
        assert running.ear.trial is not None
        running.ear.trial._last_check = lambda: wrong
        with monkeypatch.context() as full:
            full_disk(full)
            running.hear(quiet(3.0))
            assert not running.errors, running.errors
            assert (running.ear.trial is None) is (wrong is not None), "a trial whose end cannot be noted goes on"
            running.taught_while_running("drone", tone(600.0, 1.5, np.random.default_rng(8)))
        running.hear(quiet(15.0))
        assert running.ear.trial is None and not running.errors
        assert running.ear.learner.statistics_sha256 == fold(state, running.ear.worn.bundle or ears(1))
        assert sum("make room" in words for words in running.said) == 1
    with upgrading_listener(state, None, trial_seconds=600.0) as running:
        assert "drone" in running.ear.learner.labels
        assert running.ear.space == ears(2).space
        assert (running.ear.trial is None) is (wrong is None), "a bad end that was not noted is found once more"


def test_changes_of_the_slots_do_not_overwrite_each_other(quick: Path) -> None:
    """Threads and processes: each change sees the one before. Without the lock most of them are lost."""
    (quick / "state").mkdir()

    def admit(first: int) -> None:
        for i in range(first, first + 20):
            change_slots(quick / "state", lambda slots, i=i: slots.admit(f"{i:064x}", f"ear{i}", 1))

    threads = [threading.Thread(target=admit, args=(100 * k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(load_slots(quick / "state")[0].slots) == 80


def test_a_listener_that_starts_meanwhile_hears_with_what_the_slots_say(quick: Path, ears: Ears) -> None:
    """`sync now` without a listener notes the trial only while no listener can start."""
    state = used_state(quick / "state", ears(1))
    locked: list[str] = []

    def look(point: str) -> None:
        if point in ("images kept", "prepared"):
            try:
                Journal.open(state).close()
            except StateError:
                locked.append(point)

    considered = Upgrade(state, SyncSettings(), prepare=prepare_here, crash_point=look).consider(ears(2).path)
    assert considered.state == "TRIAL" and locked == ["images kept", "prepared"]


def test_the_owners_choice_meanwhile_counts(quick: Path, ears: Ears) -> None:
    state = used_state(quick / "state", ears(1))

    def choosing_meanwhile(state_dir: Path, new: Bundle, old: Bundle, out: Path) -> Prepared:
        prepared = prepare_here(state_dir, new, old, out)
        remember_backbone(state, ears(9).path)
        return prepared

    with upgrading_listener(state, None, prepare=choosing_meanwhile) as running:
        with pytest.raises(SyncError, match="chose another backbone meanwhile"):
            running.upgrade.consider(ears(2).path)
        assert running.ear.space == ears(1).space
    assert find_ear(state, None).bundle.sha256 == ears(9).sha256


def test_only_the_slots_that_are_needed_lie_on_the_disk(quick: Path, ears: Ears) -> None:
    state = used_state(quick / "state", ears(1), clips=False)
    upgrade = Upgrade(state, SyncSettings(), prepare=prepare_here)
    for version in (2, 3, 4):
        considered = upgrade.consider(ears(version).path)
        assert considered.state == "VERIFIED", considered.words
        (state / "slots" / "0123456789abcdef.images").write_bytes(b"left by a child whose parent died")
    folders = {path.name for path in (state / "slots").iterdir() if path.is_dir()}
    assert folders == {ears(4).sha256[:16]}


# ---- what is nobody's fault -----------------------------------------------------------------------------------------


def test_a_microphone_that_was_unplugged_is_not_the_new_ears_fault(
    quick: Path, ears: Ears, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = used_state(quick / "state", ears(1))
    with upgrading_listener(state, None, trial_seconds=2.0) as running:
        health = SourceHealth("running")
        monkeypatch.setattr(running.source, "health", lambda: health)
        object.__setattr__(running.upgrade._live, "health", lambda: health)
        running.upgrade.consider(ears(2).path)
        running.hear(quiet(1.0))
        health = SourceHealth("running", n_lost=10 * SAMPLE_RATE, n_away=10 * SAMPLE_RATE, n_reopened=1)
        running.hear(quiet(3.0))
        assert running.ear.trial is None and running.ear.space == ears(2).space, running.said


# ---- on its way -----------------------------------------------------------------------------------------------------


def test_an_archive_with_a_map_takes_a_device_without_clips_along(quick: Path, ears: Ears) -> None:
    """As it comes from a server: one file, and the memory moves by the map alone, with its real child."""
    state = used_state(quick / "state", ears(1), clips=False)
    way = ParentMap(LinearMap.identity(24), ears(1).space, ears(1).sha256, 0.99, 0.1, 100, 20)
    new = write_ear(quick / "mapped", version=5, seed=1, kind="nan when loud", parent=way)
    archive = quick / "tiny-5.skb"
    write_archive(new, archive)
    seen: list[Bundle] = []
    considered = Upgrade(state, SyncSettings()).consider(archive, seen.append)
    assert considered.state == "TRIAL" and considered.prepared.n_map == 8, considered.words
    assert [bundle.sha256 for bundle in seen] == [new.sha256]
    with upgrading_listener(state, None, trial_seconds=1.0) as running:
        assert running.ear.space == new.space and running.ear.learner.labels == tuple(sorted(TONES))
        running.hear(quiet(3.0))
        assert running.ear.trial is None
    assert load_slots(state)[0].slots[new.sha256].state == "COMMITTED"

    def refuse(bundle: Bundle) -> None:
        raise SyncError("it is not what was offered")

    damaged = bytearray(archive.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (quick / "damaged.skb").write_bytes(damaged)
    for file, require, error in ((archive, refuse, SyncError), (quick / "damaged.skb", seen.append, BundleError)):
        with pytest.raises(error):
            Upgrade(state, SyncSettings()).consider(file, require)
    assert [path.name for path in (state / "slots").iterdir()] == [new.sha256[:16]]


def test_an_ear_with_other_windows_waits_and_commands_still_reach_the_listener(quick: Path, ears: Ears) -> None:
    """Its trial waits for a start. Until then the files that are taught go to the ear that hears."""
    state = used_state(quick / "state", ears(1))
    other = write_ear(quick / "longer", version=6, seed=2, hop_length=1000)
    with upgrading_listener(state, None, trial_seconds=1.0) as running:
        considered = running.upgrade.consider(other.path)
        assert considered.state == "TRIAL" and "next start" in considered.words, considered.words
        assert running.ear.space == ears(1).space and running.ear.trial is None
        running.taught_while_running("drone", tone(600.0, 1.5, np.random.default_rng(8)))
        assert running.ear.learner.statistics_sha256 == fold(state, ears(1))
    with upgrading_listener(state, None, trial_seconds=1.0) as running:
        assert running.ear.space == other.space and "drone" in running.ear.learner.labels
        assert running.ear.trial is not None and running.ear.learner.n_records == 9
        running.taught_while_running("siren", tone(900.0, 1.5, np.random.default_rng(9)))
        assert "siren" in running.ear.learner.labels
        running.hear(quiet(3.0))
        assert running.ear.trial is None
        assert running.ear.learner.statistics_sha256 == fold(state, other)
    assert load_slots(state)[0].slots[other.sha256].state == "COMMITTED"
    with Journal.open(state, read_only=True) as journal:
        assert len(journal.records(ears(1).space.sha256)) == len(journal.records(other.space.sha256)) == 10


def test_a_file_taught_beside_a_listener_whose_trial_waits_goes_to_the_ear_that_hears(quick: Path, ears: Ears) -> None:
    state = used_state(quick / "state", ears(1))
    wav = write_wav(quick / "drone.wav", tone(600.0, 1.5, np.random.default_rng(8)))
    with listener_process(state, ears(1).path):
        slots = change_slots(
            state, lambda slots: slots.admit(ears(2).sha256, "tiny", 2).move(ears(2).sha256, "VERIFIED")
        )
        shutil.copytree(ears(2).path, state / slots.slots[ears(2).sha256].folder)
        change_slots(state, lambda s: s.move(ears(2).sha256, "PREPARED").move(ears(2).sha256, "TRIAL"))
        result = CliRunner().invoke(main, ["--state", str(state), "teach", "drone", str(wav)])
        assert result.exit_code == 0, result.output
    with Journal.open(state, read_only=True) as journal:
        assert [known.label for known in journal.not_in(ears(2).space.sha256)].count("drone") == 1


def test_a_model_that_grows_with_the_sound_is_refused_within_the_limits_of_its_child(quick: Path, ears: Ears) -> None:
    """32 GiB for a loud clip. Quiet, as at its first load, it needs nothing."""
    state = quick / "state"
    state.mkdir()
    remember_backbone(state, ears(1).path)
    taught(state, None, [("siren", tone(700.0, 1.5, np.random.default_rng(0), level=1.2)) for _ in range(2)])
    new = write_ear(quick / "growing", version=7, seed=1, kind="grows when loud")
    considered = Upgrade(state, SyncSettings()).consider(new.path)
    assert considered.state == "REJECTED", considered.words
    assert find_ear(state, None).bundle.sha256 == ears(1).sha256


def test_a_backbone_that_the_owner_names_is_not_replaced(quick: Path, ears: Ears) -> None:
    (quick / "state").mkdir()
    for option, wanted in ((str(ears(1).path), True), (None, False)):
        bench = Workbench(quick / "state", option, False)
        assert (_offers_beside(bench, ears(1)) is None) is wanted
