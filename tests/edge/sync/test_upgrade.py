"""A change of ear while listening: no window is lost, nothing taught is lost, and a bad ear is off again by itself."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from starlette.testclient import TestClient

import edge.sync.prepare
from edge.api import make_app
from edge.api_guard import Guard
from edge.api_words import example_from_json, example_to_json
from edge.backbones import FoundEar, find_ear, remember_backbone, start_ear
from edge.bundle import Bundle
from edge.cli import main
from edge.clips import ClipStore
from edge.config import ApiSettings, SyncSettings
from edge.embedder import Embedder
from edge.errors import MisuseError, SilenceError, SpaceMismatchError, StateError, SyncError
from edge.hearing import hear, sounding_example
from edge.journal import Journal
from edge.linear_map import LinearMap, ParentMap
from edge.memory_file import encode_memory
from edge.snapshot import sum_of
from edge.space import FeatureSpace
from edge.sync.moving import Accuracy, falls_too_far, move_records, to_ask
from edge.sync.prepare import Prepared, decode_images, encode_images, prepare
from edge.sync.slots import load_slots
from edge.sync.upgrade import Upgrade
from tests.bundles import HOP_LENGTH, SAMPLE_RATE, TONES, noise, tone, write_wav
from tests.simulators.ears import Kind, write_ear
from tests.simulators.upgrading import Upgrading, prepare_here, taught, upgrading_listener

Sound = tuple[str, NDArray[np.float32]]


@pytest.fixture(scope="module")
def ears(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Bundle]:
    """Bundles by version and kind, written once. From version 2 on, good ones share a backbone and so a space."""
    folder = tmp_path_factory.mktemp("ears")
    made: dict[tuple[int, str], Bundle] = {}

    def ear(version: int, kind: Kind = "good") -> Bundle:
        if (version, kind) not in made:
            name = f"v{version}-{kind.replace(' ', '-')}"
            made[version, kind] = write_ear(folder / name, version=version, seed=min(version, 2), kind=kind)
        return made[version, kind]

    return ear


def sounds(n: int = 4, *, seed: int = 0) -> list[Sound]:
    rng = np.random.default_rng(seed)
    return [(label, tone(hz, 1.5, rng)) for label, hz in TONES.items() for _ in range(n)]


def quiet(seconds: float = 2.0) -> NDArray[np.float32]:
    return noise(seconds, np.random.default_rng(1), level=0.01)


def used_state(folder: Path, ear: Bundle, *, clips: bool = True) -> Path:
    """A device that uses ``ear`` and was taught four sounds."""
    folder.mkdir()
    remember_backbone(folder, ear.path)
    taught(folder, None, sounds(), clips=clips)
    return folder


def fold(state: Path, bundle: Bundle) -> str:
    """The statistics of everything known in a bundle's space, added up anew."""
    with Journal.open(state, read_only=True) as journal:
        return sum_of(FeatureSpace(bundle.space), journal.records(bundle.space.sha256).values()).sha256


def n_known(state: Path, bundle: Bundle) -> int:
    with Journal.open(state, read_only=True) as journal:
        return len(journal.records(bundle.space.sha256))


def until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


# ---- moving ---------------------------------------------------------------------------------------------------------


def test_a_kept_clip_moves_to_the_bits_that_teaching_it_would_give(quick: Path, ears: Callable[..., Bundle]) -> None:
    state = used_state(quick / "state", ears(1))
    with Journal.open(state, read_only=True) as journal:
        moving = move_records(journal, ClipStore(state), Embedder(ears(2)), None)
        assert (moving.n_clip, moving.n_map, moving.n_kept, moving.stuck) == (16, 0, 0, ())
        natives = journal.natives()
        contents = {natives.about(i).content: natives.about(i).label for i in natives}
    with Journal.open(state) as journal:
        assert journal.move(moving.images, ears(2).space) == 16
        assert journal.move(moving.images, ears(2).space) == 0, "moving twice changes nothing"
    remember_backbone(quick / "fresh", ears(2).path) if (quick / "fresh").mkdir() is None else None
    clips = [ClipStore(state).load(content) for _, content in contents]
    again = [(contents[c], clip[0]) for c, clip in zip(contents, clips, strict=True) if clip is not None]
    assert fold(state, ears(2)) == taught(quick / "fresh", None, again)


def test_without_a_clip_the_map_moves_it_and_without_a_map_it_is_named(
    quick: Path, ears: Callable[..., Bundle]
) -> None:
    state = used_state(quick / "state", ears(1), clips=False)
    with Journal.open(state) as journal:
        stuck = move_records(journal, ClipStore(state), Embedder(ears(2)), None)
        assert len(stuck.stuck) == 16 and "16 of 16 examples cannot move" in str(stuck.refusal())
        way = ParentMap(LinearMap.identity(24), ears(1).space, ears(1).sha256, 1.0, 0.0, 1, 1)
        moving = move_records(journal, ClipStore(state), Embedder(ears(2)), way)
        assert moving.n_map == 16 and moving.refusal() is None
        journal.move(moving.images, ears(2).space)
        # a third ear, whose parent is the second: what was mapped there is mapped on
        onward = ParentMap(LinearMap.identity(24), ears(2).space, ears(2).sha256, 1.0, 0.0, 1, 1)
        third = move_records(journal, ClipStore(state), Embedder(ears(3, "fails when loud")), onward)
        assert third.n_map == 16 and third.stuck == ()


def test_the_file_of_images_and_what_is_asked(ears: Callable[..., Bundle], quick: Path) -> None:
    state = used_state(quick / "state", ears(1))
    with Journal.open(state, read_only=True) as journal:
        images = move_records(journal, ClipStore(state), Embedder(ears(2)), None).images
    data = encode_images(images, ears(2).space)
    again = decode_images(data, ears(2).space)
    assert [(i.of, i.how, i.embeddings.tobytes()) for i in again] == [
        (i.of, i.how, i.embeddings.tobytes()) for i in images
    ]
    for position in range(0, len(data), 97):
        altered = bytearray(data)
        altered[position] ^= 4
        with pytest.raises(SyncError, match="cannot be used"):
            decode_images(bytes(altered), ears(2).space)
    with pytest.raises(SyncError):
        decode_images(data, ears(1).space)
    assert to_ask({f"{i:04d}": "a" for i in range(500)}) == [f"{(k * 5) // 2:04d}" for k in range(200)]
    assert to_ask({"1": "a", "2": "b", "3": "b"}) == ["2", "3"]
    assert falls_too_far(Accuracy(50, 50), Accuracy(49, 50)) is None
    assert "from 96 % to 88 % on your own 25 examples" in str(falls_too_far(Accuracy(24, 25), Accuracy(22, 25)))


# ---- without a listener ---------------------------------------------------------------------------------------------


def test_without_a_listener_the_trial_waits_for_the_next_start(quick: Path, ears: Callable[..., Bundle]) -> None:
    state = used_state(quick / "state", ears(1))
    before = fold(state, ears(1))
    considered = Upgrade(state, SyncSettings()).consider(ears(2).path)  # with its real child process
    assert considered.state == "TRIAL" and considered.prepared.n_clip == 16, considered.words
    assert considered.prepared.new_accuracy >= considered.prepared.old_accuracy - 0.02
    found = find_ear(state, None)
    assert found.bundle.sha256 == ears(2).sha256 and found.before is not None and found.before.sha256 == ears(1).sha256
    for sound in sounds(1, seed=5):
        taught(state, None, [sound], clips=False)
    assert n_known(state, ears(1)) == n_known(state, ears(2)) == 20
    for left in (2, 1, 0):
        assert start_ear(state, None).bundle.sha256 == ears(2).sha256
        trial = load_slots(state)[0].trial
        assert trial is not None and trial.boots_left == left
    found = start_ear(state, None)
    assert found.bundle.sha256 == ears(1).sha256 and found.before is None and "taken off again" in found.findings[0]
    other = used_state(quick / "other", ears(1))
    assert fold(other, ears(1)) == before
    assert taught(other, None, sounds(1, seed=5)) == fold(state, ears(1)), "nothing that was taught is lost, to the bit"


def test_a_slot_that_was_altered_gives_way_to_the_one_before(quick: Path, ears: Callable[..., Bundle]) -> None:
    state = used_state(quick / "state", ears(1))
    Upgrade(state, SyncSettings(), prepare=prepare_here).consider(ears(2).path)
    slot = state / load_slots(state)[0].slots[ears(2).sha256].folder
    model = bytearray((slot / "backbone.onnx").read_bytes())
    model[100] ^= 1
    (slot / "backbone.onnx").write_bytes(model)
    found = start_ear(state, None)
    assert found.bundle.sha256 == ears(1).sha256 and "the one before it hears now" in found.findings[0]
    assert load_slots(state)[0].slots[ears(2).sha256].state == "REJECTED"
    shutil.rmtree(slot)
    assert find_ear(state, None).bundle.sha256 == ears(1).sha256


# ---- with a listener ------------------------------------------------------------------------------------------------


def heard_tone(running: Upgrading, label: str, *, seed: int) -> set[str | None]:
    """Play a sound between quiet and return what was named."""
    n = len(running.events)
    rng = np.random.default_rng(seed)
    running.hear(np.concatenate([quiet(1.5), tone(TONES[label], 1.5, rng), quiet(1.5)]))
    return {event.label for event in running.events[n:]}


def test_the_switch_drops_and_doubles_no_window(quick: Path, ears: Callable[..., Bundle]) -> None:
    state = used_state(quick / "state", ears(1))
    with upgrading_listener(state, None, trial_seconds=4.0) as running:
        assert heard_tone(running, "bell", seed=1) == {"bell"}
        stop = time.monotonic() + 60.0
        answers: list[Any] = []
        worker = _thread(lambda: answers.append(running.upgrade.consider(ears(2).path)))
        while worker.is_alive():
            assert time.monotonic() < stop
            running.hear(quiet(0.25))
        (considered,) = answers
        assert considered.state == "TRIAL" and considered.busy_ms < 250.0, considered
        print(f"the loop was busy with the change for {considered.busy_ms:.2f} ms")
        assert running.ear.space == ears(2).space and running.live.health()["trial"] is not None
        assert heard_tone(running, "bell", seed=2) == {"bell"}, "what was taught before is known by the new ear"
        until(lambda: running.hear(quiet(0.5)) or running.ear.trial is None)
        slots = load_slots(state)[0]
        assert slots.slots[ears(2).sha256].state == "COMMITTED" and slots.fallback is None
        assert heard_tone(running, "hum", seed=3) == {"hum"}
        starts = running.recent.starts
        assert starts == list(range(0, starts[-1] + 1, HOP_LENGTH)), "every window once, in order"
        changes = sum(a != b for a, b in zip(running.recent.spaces, running.recent.spaces[1:], strict=False))
        assert changes == 1
        assert running.ear.learner.statistics_sha256 == fold(state, ears(2))
    assert find_ear(state, None).bundle.sha256 == ears(2).sha256
    with pytest.raises(SyncError, match="older ear is never taken"):
        Upgrade(state, SyncSettings(), prepare=prepare_here).consider(ears(1).path)


def _thread(work: Callable[[], Any]) -> Any:
    import threading

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_what_is_taught_on_trial_is_known_to_both_ears(
    quick: Path, ears: Callable[..., Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every way of teaching during a trial, then roll-back: the old sums are those of a device that never changed."""
    never = used_state(quick / "never", ears(1))
    fresh = sounds(1, seed=9)
    with upgrading_listener(never, None) as running:
        _teach_every_way(running, fresh)
        expected = running.ear.learner.statistics_sha256
        embeddings = hear(sounds(1, seed=4)[2][1], running.ear.worn.embedder).embeddings
        labels, scores = running.inbox.call(lambda: running.ear.judge(embeddings)).result()
    for twin in (True, False):
        state = used_state(quick / f"twin-{twin}", ears(1))
        with upgrading_listener(state, None, trial_seconds=600.0) as running:
            running.upgrade.consider(ears(2).path)
            if not twin:  # the mechanism switched off
                monkeypatch.setattr(type(running.ear), "twin", property(lambda self: None))
            _teach_every_way(running, fresh)
            assert running.ear.space == ears(2).space
            assert n_known(state, ears(2)) == 16 + 6
            memory = encode_memory(ears(2).space, running.ear.learner.records)
            with pytest.raises(StateError, match="when the trial has ended"):
                running.inbox.call(lambda m=memory: running.live.import_memory(m)).result()
            running.inbox.call(lambda: running.upgrade._end(running.upgrade._live, ears(2), "a test says so")).result()
            assert running.ear.space == ears(1).space
            assert (running.ear.learner.statistics_sha256 == expected) is twin
            assert running.ear.learner.statistics_sha256 == fold(state, ears(1))
            labels_now, scores_now = running.inbox.call(lambda r=running: r.ear.judge(embeddings)).result()
            assert (labels_now == labels) is twin
            assert not twin or np.allclose(scores_now, scores, rtol=1e-6, atol=1e-6)
        assert load_slots(state)[0].slots[ears(2).sha256].state == "ROLLED_BACK"
        monkeypatch.undo()


def _teach_every_way(running: Upgrading, fresh: list[Sound]) -> None:
    rng = np.random.default_rng(11)
    for label, samples in fresh:
        running.taught_while_running(label, samples)
    running.hear(np.concatenate([quiet(1.0), tone(600.0, 2.0, rng)]))
    end = running.live.heard_until
    running.inbox.call(lambda: running.live.teach_span("drone", end - 2 * SAMPLE_RATE, end)).result()
    running.hear(quiet(2.0))
    end = running.live.heard_until
    running.inbox.call(lambda: running.live.ignore_span(end - SAMPLE_RATE, end)).result()


def test_forgetting_on_trial_is_forgotten_in_both(quick: Path, ears: Callable[..., Bundle]) -> None:
    state = used_state(quick / "state", ears(1))
    with upgrading_listener(state, None, trial_seconds=600.0) as running:
        running.upgrade.consider(ears(2).path)
        in_loop = lambda work: running.inbox.call(work).result()  # noqa: E731
        in_loop(lambda: running.live.forget("hum", purge=True))
        in_loop(lambda: running.live.rename("bell", "gong"))
        one = next(i for i in running.ear.learner.records if running.ear.learner.records.about(i).label == "beep")
        in_loop(lambda: running.live.forget_record(one))
        assert running.ear.learner.statistics_sha256 == fold(state, ears(2))
        in_loop(lambda: running.upgrade._end(running.upgrade._live, ears(2), "a test says so"))
        assert running.ear.learner.statistics_sha256 == fold(state, ears(1))
        assert [c["label"] for c in running.ear.learner.classes()] == ["beep", "gong", "whistle"]
        assert running.ear.learner.n_records_of("beep") == 3


def test_taught_between_preparing_and_the_switch(quick: Path, ears: Callable[..., Bundle]) -> None:
    state = used_state(quick / "state", ears(1))

    def teaching_meanwhile(state_dir: Path, new: Bundle, old: Bundle, out: Path) -> Prepared:
        prepared = prepare_here(state_dir, new, old, out)
        running.taught_while_running("drone", tone(600.0, 1.5, np.random.default_rng(8)))
        return prepared

    with upgrading_listener(state, None, trial_seconds=600.0, prepare=teaching_meanwhile) as running:
        assert running.upgrade.consider(ears(2).path).state == "TRIAL"
        assert "drone" in running.ear.learner.labels and n_known(state, ears(2)) == 17
        assert running.ear.learner.statistics_sha256 == fold(state, ears(2))


def test_the_words_of_a_twin(ears: Callable[..., Bundle]) -> None:
    old, new = Embedder(ears(1)), Embedder(ears(2))
    example = sounding_example(hear(sounds()[0][1], new), {}, twin=old)
    again = example_from_json(example_to_json(example), new.space, old.space)
    assert again.twin is not None and example.twin is not None
    assert again.twin.embeddings.tobytes() == example.twin.embeddings.tobytes()
    assert example_from_json(example_to_json(example), new.space).twin is None
    alone = example_to_json(sounding_example(hear(sounds()[0][1], new), {}))
    with pytest.raises(SpaceMismatchError, match="on trial"):
        example_from_json(alone, new.space, old.space)
    with pytest.raises(MisuseError):
        example_from_json({**alone, "twins": 1}, new.space)


def test_a_bundle_with_the_same_backbone_moves_nothing(quick: Path, ears: Callable[..., Bundle]) -> None:
    state = used_state(quick / "state", ears(2))
    with upgrading_listener(state, None, trial_seconds=1.0) as running:
        considered = running.upgrade.consider(ears(3).path)
        assert considered.state == "TRIAL" and considered.prepared.n_records == 0
        running.taught_while_running("drone", tone(600.0, 1.5, np.random.default_rng(8)))
        running.hear(quiet(3.0))
        assert running.ear.trial is None and load_slots(state)[0].slots[ears(3).sha256].state == "COMMITTED"
        assert running.ear.learner.statistics_sha256 == fold(state, ears(2)) and n_known(state, ears(3)) == 17


def test_what_was_heard_before_the_switch_can_be_taught_after_it(quick: Path, ears: Callable[..., Bundle]) -> None:
    state = used_state(quick / "state", ears(1))
    sound = tone(600.0, 2.0, np.random.default_rng(8))
    with upgrading_listener(state, None, trial_seconds=600.0) as running:
        running.hear(quiet(1.0))
        with pytest.raises(SilenceError, match="not at hand"):
            running.upgrade.consider(ears(2).path)
            running.inbox.call(lambda: running.live.teach_span("early", 0, SAMPLE_RATE)).result()
    again = used_state(quick / "again", ears(1))

    def hearing_meanwhile(state_dir: Path, new: Bundle, old: Bundle, out: Path) -> Prepared:
        running.hear(np.concatenate([quiet(1.0), sound]))
        return prepare_here(state_dir, new, old, out)

    with upgrading_listener(again, None, trial_seconds=600.0, prepare=hearing_meanwhile) as running:
        running.upgrade.consider(ears(2).path)
        end = running.live.heard_until
        running.inbox.call(lambda: running.live.teach_span("drone", end - SAMPLE_RATE, end)).result()
        embeddings = hear(sound[-SAMPLE_RATE:], Embedder(ears(2))).embeddings
        with Journal.open(again, read_only=True) as journal:
            drone = next(r for r in journal.records(ears(2).space.sha256).values() if r.label == "drone")
        assert np.abs(drone.embeddings.astype(int) - embeddings).max() <= 1, "as the new ear hears it"
        assert n_known(again, ears(1)) == n_known(again, ears(2)) == 17


def test_an_upload_and_a_command_beside_it_teach_both_ears(quick: Path, ears: Callable[..., Bundle]) -> None:
    state = used_state(quick / "state", ears(1))
    wav = write_wav(quick / "drone.wav", tone(600.0, 1.5, np.random.default_rng(8)))
    with upgrading_listener(state, None, trial_seconds=600.0) as running:
        running.upgrade.consider(ears(2).path)
        with TestClient(make_app(running.live, Guard("t", "127.0.0.1", 1), ApiSettings())) as client:
            client.headers["authorization"] = "Bearer t"
            client.headers["host"] = "127.0.0.1:1"
            answer = client.post("/teach?label=drone", content=wav.read_bytes(), headers={"content-type": "audio/wav"})
            assert answer.status_code == 200, answer.text
            assert n_known(state, ears(1)) == n_known(state, ears(2)) == 17
            assert client.post("/memory", content=b"").status_code == 507
    other = used_state(quick / "other", ears(1))
    Upgrade(other, SyncSettings(), prepare=prepare_here).consider(ears(2).path)
    result = CliRunner().invoke(main, ["--state", str(other), "teach", "drone", str(wav)])
    assert result.exit_code == 0, result.output
    assert n_known(other, ears(1)) == n_known(other, ears(2)) == 17
    result = CliRunner().invoke(main, ["--state", str(other), "backbone", "use", str(ears(1).path)])
    assert result.exit_code == 0 and find_ear(other, None).bundle.sha256 == ears(1).sha256
    assert load_slots(other)[0].slots[ears(2).sha256].state == "ROLLED_BACK", "the owner's word ends a trial"


# ---- bad ears -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["nan when loud", "fails when loud"])
def test_an_ear_that_fails_on_trial_is_off_within_the_window(
    quick: Path, ears: Callable[..., Bundle], kind: Kind
) -> None:
    """Nothing quiet shows the fault, so it passes every check before; the first loud window takes it off."""
    state = used_state(quick / "state", ears(1))
    before = fold(state, ears(1))
    bad = ears(3, kind)
    with upgrading_listener(state, None, trial_seconds=600.0) as running:
        assert running.upgrade.consider(bad.path).state == "TRIAL"
        running.hear(quiet(1.0))
        loud = tone(TONES["whistle"], 1.5, np.random.default_rng(3), level=1.2)
        running.hear(np.concatenate([loud, quiet(1.5)]))
        assert running.ear.space == ears(1).space and not running.errors
        assert "whistle" in {event.label for event in running.events}, "the window that failed was heard by the old ear"
        starts = running.recent.starts
        assert starts == list(range(0, starts[-1] + 1, HOP_LENGTH))
        assert running.ear.learner.statistics_sha256 == before == fold(state, ears(1))
        with pytest.raises(SyncError, match="turned down before"):
            running.upgrade.consider(bad.path)
    assert load_slots(state)[0].slots[bad.sha256].state == "ROLLED_BACK"
    assert start_ear(state, None).bundle.sha256 == ears(1).sha256


def test_an_ear_that_became_slow_is_taken_off(quick: Path, ears: Callable[..., Bundle]) -> None:
    state = used_state(quick / "state", ears(1))

    class Slow:
        def __init__(self, embedder: Embedder) -> None:
            self.space, self._embedder = embedder.space, embedder

        def quantized(self, windows: NDArray[np.float32]) -> tuple[NDArray[np.int16], int]:
            time.sleep(0.26)
            return self._embedder.quantized(windows)

    def wrap(bundle: Bundle, embedder: Embedder) -> Any:
        return Slow(embedder) if bundle.version == 2 else embedder

    with upgrading_listener(state, None, trial_seconds=5.0, wrap=wrap) as running:
        assert running.upgrade.consider(ears(2).path).state == "TRIAL"
        running.hear(quiet(2.0))
        until(lambda: running.ear.trial is None)
        assert running.ear.space == ears(1).space and "windows took longer" in running.said[-1]


def test_lost_sound_and_a_canary_gone_wrong_end_a_trial(quick: Path, ears: Callable[..., Bundle]) -> None:
    state = used_state(quick / "state", ears(1))
    with upgrading_listener(state, None, trial_seconds=1.0) as running:
        running.upgrade.consider(ears(2).path)
        assert running.ear.trial is not None
        running.ear.trial._n_lost = lambda: 4000
        running.hear(quiet(3.0))
        assert running.ear.space == ears(1).space and "of the sound was lost" in running.said[-1]
        running.upgrade.consider(ears(4).path)
        assert running.ear.trial is not None
        running.ear.trial._last_check = lambda: "its canary comes out with cosine 0.5"
        running.hear(quiet(3.0))
        assert running.ear.space == ears(1).space and "canary" in running.said[-1]


def test_garbage_is_refused_by_the_devices_own_examples(quick: Path, ears: Callable[..., Bundle]) -> None:
    state = used_state(quick / "state", ears(1))
    considered = Upgrade(state, SyncSettings(), prepare=prepare_here).consider(ears(5, "garbage").path)
    assert considered.state == "REJECTED" and "on your own 16 examples" in considered.words, considered.words
    assert find_ear(state, None).bundle.sha256 == ears(1).sha256
    assert not list((state / "slots").iterdir()), "its files are gone"


def test_a_model_that_breaks_on_real_sound_is_refused_by_its_child(quick: Path, ears: Callable[..., Bundle]) -> None:
    """The clip is loud enough to show the fault: the child meets it, not the listener."""
    state = quick / "state"
    state.mkdir()
    remember_backbone(state, ears(1).path)
    taught(state, None, [("siren", tone(700.0, 1.5, np.random.default_rng(0), level=1.2)) for _ in range(2)])
    for kind in ("nan when loud", "fails when loud"):
        considered = Upgrade(state, SyncSettings()).consider(ears(6, kind).path)
        assert considered.state == "REJECTED", considered.words
    assert find_ear(state, None).bundle.sha256 == ears(1).sha256


def test_a_slow_model_is_refused_before_it_is_tried(
    quick: Path, ears: Callable[..., Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge.sync.prepare, "N_TIMED", 3)
    state = used_state(quick / "state", ears(1))
    prepared, images = prepare(state, ears(7, "slow"), ears(1))
    assert images == [] and "half a hop is 125 ms" in str(prepared.refusal), prepared


# ---- kill -9 --------------------------------------------------------------------------------------------------------

POINTS = ("verified", "prepared in the child", "images kept", "prepared", "trial noted", "switched", "trial ended")
POINTS_OF_THE_END = ("committed", "rejected")


def in_a_child(work: Callable[[Callable[[str], None]], None], kill_at: str) -> None:
    """Run ``work`` in a forked process that kills itself at a crash point."""
    child = os.fork()
    if child == 0:
        try:
            work(lambda point: os.kill(os.getpid(), signal.SIGKILL) if point == kill_at else None)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(3)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, (kill_at, status)


@pytest.mark.parametrize("point", [*POINTS, *POINTS_OF_THE_END])
def test_killed_anywhere_the_next_start_hears_with_one_of_the_two(
    quick: Path, ears: Callable[..., Bundle], point: str
) -> None:
    state = used_state(quick / "state", ears(1))
    kind: Kind = "nan when loud" if point == "rejected" else "good"
    new = ears(8, kind)
    expected = fold(state, ears(1))

    def work(crash_point: Callable[[str], None]) -> None:
        with upgrading_listener(state, None, trial_seconds=1.0, crash_point=crash_point) as running:
            considered = running.upgrade.consider(new.path)
            assert considered.state == "TRIAL", considered.words
            running.hear(tone(600.0, 2.0, np.random.default_rng(1), level=1.2), timeout_s=5.0)

    in_a_child(work, point)
    assert fold(state, ears(1)) == expected, "what was taught is there to the bit"
    n_starts = 0
    found: FoundEar | None = None
    for _ in range(5):
        found = start_ear(state, None)
        assert found.bundle.sha256 in (ears(1).sha256, new.sha256)
        if found.before is None:
            break
        n_starts += 1
        assert n_known(state, new) == 16, "an ear on trial knows everything"
    assert found is not None and found.before is None and n_starts <= 3
    with upgrading_listener(state, None) as running:
        assert heard_tone(running, "bell", seed=2) == {"bell"}
        assert len(running.ear.learner.records) == 16
        assert running.ear.learner.statistics_sha256 == fold(state, found.bundle)


def test_the_command_goes_on_with_a_trial_and_commits_it(quick: Path, ears: Callable[..., Bundle]) -> None:
    """Three processes that are killed while they hear, or one that hears enough: `soundkeep listen` as it is."""
    for killed in (True, False):
        state = used_state(quick / f"killed-{killed}", ears(1))
        (state / "soundkeep.toml").write_text(f"[sync]\ntrial_seconds = {600 if killed else 1}\n")
        Upgrade(state, SyncSettings(), prepare=prepare_here).consider(ears(2).path)
        command = [sys.executable, "-m", "edge", "--state", str(state), "listen", "--source", "-", "--pcm-rate", "8000"]
        words = ""
        for _ in range(4 if killed else 1):
            process = subprocess.Popen(
                [*command, "--api", "off"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
            assert process.stdin is not None and process.stderr is not None
            process.stdin.write(np.zeros(8000 * 3, dtype="<i2").tobytes())
            process.stdin.flush()
            if killed:
                while "listening to" not in (line := process.stderr.readline().decode()):
                    words += line
                    assert line
                process.kill()
            words += process.communicate()[1].decode()
        slots = load_slots(state)[0]
        assert slots.slots[ears(2).sha256].state == ("ROLLED_BACK" if killed else "COMMITTED"), words
        assert find_ear(state, None).bundle.sha256 == ears(1 if killed else 2).sha256
        assert ("taken off again" if killed else "has passed its trial") in words
