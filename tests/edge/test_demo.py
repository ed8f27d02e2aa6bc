"""The demonstration for real, with a tiny ear; and its claims fail when exactness is taken away."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import wave
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

import edge.demo
from edge.cli import main
from edge.demo import Plan, result_of, run_demo
from edge.demo.device import ListeningDevice, ScoresOverTime, Verified
from edge.demo.exam import Detection, mark
from edge.demo.material import HALL, KITCHEN, STRANGERS, Material, recorded_material, synthetic_material
from edge.demo.story import Proof, Story, tell_story
from edge.errors import AudioError, DeviceError, StateError
from edge.memory_file import decode_memory, encode_memory
from edge.records import Record
from edge.scenes import SOUNDS, Occurrence
from edge.space import EmbeddingSpace
from tests.bundles import SPACE, write_tiny_bundle, write_wav

pytestmark = pytest.mark.timeout(900)  # a dozen processes are started; on a busy machine that takes its time

SHORT = Plan(n_kitchen=2, n_hall=1, n_examples=2, n_repeats=1, n_unknown=1, n_live=1)


# ---- marking --------------------------------------------------------------------------------------------------------


def heard(label: str | None, onset: int, offset: int) -> Detection:
    return Detection(label, onset, offset, 0.9)


TRUTH = (Occurrence("bell", 100, 200), Occurrence("dog", 400, 500), Occurrence(None, 700, 800))


@pytest.mark.parametrize(
    ("detections", "right", "n_false"),
    [
        ([], [False, False, True], 0),
        ([heard("bell", 110, 220)], [True, False, True], 0),
        ([heard("bell", 110, 220), heard("dog", 390, 480)], [True, True, True], 0),
        ([heard("bell", 110, 220), heard("dog", 120, 210)], [False, False, True], 0),
        ([heard("bell", 720, 790)], [False, False, False], 0),
        ([heard(None, 720, 790)], [False, False, True], 0),
        ([heard("bell", 560, 590)], [False, False, True], 1),
        ([heard("bell", 205, 240), heard("bell", 110, 150)], [True, False, True], 0),
    ],
)
def test_marking(detections: list[Detection], right: list[bool], n_false: int) -> None:
    marked = mark(TRUTH, detections, taught={"bell", "dog"}, slack=20)
    assert [answer.right for answer in marked.answers] == right
    assert len(marked.false_alarms) == n_false
    assert marked.accuracy == sum(right) / 3


def test_a_sound_that_is_not_taught_yet_must_not_be_named() -> None:
    assert mark(TRUTH, [], taught={"bell"}, slack=0).n_right == 2
    assert mark(TRUTH, [heard("bell", 400, 500)], taught={"bell"}, slack=0).n_right == 1
    assert mark((), [], taught=set(), slack=0).accuracy == 1.0


# ---- material -------------------------------------------------------------------------------------------------------


def test_the_household_is_always_the_same_and_never_teaches_what_it_tests() -> None:
    one, other = synthetic_material(8_000, SHORT), synthetic_material(8_000, SHORT)
    assert one.kitchen == KITCHEN[:2] and one.hall == HALL[:1]
    assert not {*KITCHEN, *HALL} & set(STRANGERS) and {*KITCHEN, *HALL, *STRANGERS} <= set(SOUNDS)
    for number in range(3):
        laps = [m.lap(number, m.kitchen, SHORT) for m in (one, other)]
        assert laps[0].samples.tobytes() == laps[1].samples.tobytes() and laps[0].truth == laps[1].truth
    taught = {x.tobytes() for clips in one.lessons.values() for x in clips}
    tested = {x.tobytes() for clips in one.tests.values() for x in clips}
    assert not taught & tested
    assert one.lesson("doorbell", 0).samples.tobytes() == one.lesson("doorbell", 0).samples.tobytes()


def test_no_sound_follows_itself() -> None:
    material = synthetic_material(8_000, Plan())
    for number in range(6):
        labels = [o.label for o in material.lap(number, material.kitchen, Plan()).truth]
        assert sorted(x for x in labels if x) == sorted(material.kitchen * 2) and labels.count(None) == 4
        assert all(a is None or a != b for a, b in itertools.pairwise(labels))


def recordings(folder: Path, n_classes: int, n_clips: int, *, n_sources: int) -> Path:
    """A folder of class folders of short tones, with meta.csv."""
    rows = ["clip,class,source_recording"]
    rng = np.random.default_rng(0)
    for c in range(n_classes):
        (folder / f"class{c}").mkdir(parents=True)
        for i in range(n_clips):
            clip = rng.standard_normal(2_000).astype(np.float32) * 0.1 + np.float32(0.001 * i)
            write_wav(folder / f"class{c}" / f"{i}.wav", clip)
            rows.append(f"class{c}/{i}.wav,class{c},{i % n_sources}")
    (folder / "meta.csv").write_text("\n".join(rows) + "\n")
    return folder


def test_recordings_are_split_by_source(tmp_path: Path) -> None:
    folder = recordings(tmp_path / "clips", 5, 12, n_sources=6)
    material = recorded_material(folder, 8_000, Plan(n_kitchen=2, n_hall=1, n_examples=2, n_repeats=1, n_unknown=2))
    assert len(material.kitchen) == 2 and len(material.hall) == 1
    for label, lessons in material.lessons.items():
        assert len(lessons) == 2 and len(material.tests[label]) >= 2
        lesson_bytes = {x.tobytes() for x in lessons}
        assert not lesson_bytes & {x.tobytes() for x in material.tests[label]}
        assert all(np.max(np.abs(x)) == pytest.approx(0.6) for x in lessons)


@pytest.mark.parametrize(("n_classes", "n_sources"), [(3, 6), (5, 2)])
def test_too_few_recordings_are_refused_with_numbers(tmp_path: Path, n_classes: int, n_sources: int) -> None:
    folder = recordings(tmp_path / "clips", n_classes, 6, n_sources=n_sources)
    with pytest.raises(AudioError, match="wanted 3 such classes and one more"):
        recorded_material(folder, 8_000, Plan(n_kitchen=2, n_hall=1, n_examples=3))


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="give --data a folder"):
        recorded_material(tmp_path / "nowhere", 8_000, SHORT)


# ---- the story, with devices that are not exact ---------------------------------------------------------------------


@dataclass
class SimulatedDevice:
    """A device in memory. On the grid its features are integers; off it, what adds up depends on the order."""

    name: str
    on_grid: bool
    loses_on_kill: bool = False
    space: EmbeddingSpace = SPACE
    tape: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, dtype=np.float32))
    records: dict[str, Record] = field(default_factory=dict)
    features: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    total: NDArray[np.float64] = field(default_factory=lambda: np.zeros(SPACE.dim))

    def start(self) -> None:
        pass

    def stop(self) -> None:
        pass

    def kill(self) -> bool:
        if self.loses_on_kill:
            self._drop(next(iter(self.records)))
        return True

    def hear(self, samples: NDArray[np.float32], *, real_time: bool = False) -> list[Detection]:
        self.tape = samples
        return []

    def report_delays(self, truth: Sequence[Occurrence]) -> list[float]:
        return []

    def teach_last(self, label: str, n_samples: int) -> str:
        spectrum = np.abs(np.fft.rfft(self.tape[-n_samples:].astype(np.float64)))[: self.space.dim]
        feature = 2.0**14 * spectrum / np.linalg.norm(spectrum)
        stored = np.rint(feature).astype(np.int16)
        record = Record(self.space.sha256, label, stored[None])
        self._add(record, np.rint(feature) if self.on_grid else feature)
        return record.id

    def _add(self, record: Record, feature: NDArray[np.float64]) -> None:
        if record.id not in self.records:
            self.records[record.id], self.features[record.id] = record, feature
            self.total = self.total + feature

    def _drop(self, record_id: str) -> None:
        del self.records[record_id]
        self.total = self.total - self.features.pop(record_id)

    def forget(self, label: str) -> None:
        for record_id in [i for i, record in self.records.items() if record.label == label]:
            self._drop(record_id)

    def import_memory(self, data: bytes) -> None:
        for record in decode_memory(data)[1]:
            feature = record.embeddings[0].astype(np.float64)
            self._add(record, feature if self.on_grid else feature * 1.0000001)

    def export_memory(self, path: Path) -> bytes:
        return b"".join([encode_memory(self.space, self.records)])

    def verify(self) -> Verified:
        return Verified(hashlib.sha256(self.total.tobytes()).hexdigest(), len(self.records), 0)

    def embedding_ms(self) -> float:
        return 0.0

    def scores(self, samples: NDArray[np.float32]) -> ScoresOverTime:
        return ScoresOverTime(np.zeros(0), (), np.zeros((0, 0)))


def simulated_story(tmp_path: Path, material: Material, **changes: bool) -> Story:
    kitchen, hall, reference = (
        SimulatedDevice(name, on_grid=changes.get("on_grid", True)) for name in ("kitchen", "hall", "reference")
    )
    kitchen.loses_on_kill = changes.get("loses_on_kill", False)
    return tell_story(
        material,
        SHORT,
        kitchen=kitchen,
        hall=hall,
        reference=reference,
        space=SPACE,
        backbone="simulated",
        folder=tmp_path,
        tell=lambda words: None,
    )


@pytest.fixture(scope="module")
def material() -> Material:
    return synthetic_material(SPACE.sample_rate, SHORT)


def test_an_exact_device_is_called_exact(tmp_path: Path, material: Material) -> None:
    story = simulated_story(tmp_path, material)
    result = result_of(story)
    assert result["forget_exact"] is result["merge_exact"] is result["restarted"] is True
    assert story.kept_its_word


def test_without_the_grid_nothing_is_called_exact(tmp_path: Path, material: Material) -> None:
    story = simulated_story(tmp_path, material, on_grid=False)
    result = result_of(story)
    assert result["forget_exact"] is False
    assert result["merge_exact"] is False
    assert not story.kept_its_word


def test_a_device_that_loses_a_record_when_killed_is_found_out(tmp_path: Path, material: Material) -> None:
    result = result_of(simulated_story(tmp_path, material, loses_on_kill=True))
    assert result["restarted"] is False


def test_no_proof_is_no_claim(tmp_path: Path, material: Material) -> None:
    story = simulated_story(tmp_path, material)
    object.__setattr__(story, "merge", ())
    assert result_of(story)["merge_exact"] is False


# ---- for real -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ear(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny", with_prior=True).path


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory, ear: Path) -> Path:
    """The folder that a short demonstration with real processes left behind."""
    out = tmp_path_factory.mktemp("demo") / "out"
    run_demo(out, bundle_option=str(ear), plan=SHORT)
    return out


def test_the_demonstration_keeps_its_word(shown: Path) -> None:
    result = json.loads((shown / "result.json").read_text())
    assert result["forget_exact"] is result["merge_exact"] is result["restarted"] is True
    accuracy = result["accuracy_after_each_teaching"]
    assert len(accuracy) == SHORT.n_kitchen and all(0.0 <= a <= 1.0 for a in accuracy)
    assert len(result["teach_ms"]) == SHORT.n_kitchen * SHORT.n_examples


def test_what_it_leaves_behind_can_be_heard_and_read(shown: Path) -> None:
    with wave.open(str(shown / "scene.wav")) as file:
        assert file.getframerate() == SPACE.sample_rate and file.getnframes() > 10 * SPACE.sample_rate
    page = (shown / "report.html").read_text("utf-8")
    assert page.startswith("<!doctype html>") and "not exact" not in page
    merged = [(shown / "devices" / f"merged-{name}.memory").read_bytes() for name in ("kitchen", "reference")]
    assert merged[0] == merged[1]
    labels = {record.label for record in decode_memory(merged[0])[1]}
    assert labels == {KITCHEN[1], HALL[0]}


def test_the_command_writes_over_its_own_folder_and_nothing_else(
    shown: Path, ear: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "out" / "devices"
    mine.mkdir(parents=True)
    (mine / "precious.txt").write_text("mine")
    done = CliRunner().invoke(main, ["--bundle", str(ear), "demo", "--out", str(tmp_path / "out")])
    assert done.exit_code == 1 and "is not from a demonstration" in done.output
    assert (mine / "precious.txt").read_text() == "mine"
    assert edge.demo._fresh_devices(shown.parent / "again") == shown.parent / "again" / "devices"
    (shown.parent / "again" / "devices" / "old").touch()
    edge.demo._fresh_devices(shown.parent / "again")
    assert not (shown.parent / "again" / "devices" / "old").exists()


def test_the_command_fails_when_a_claim_does_not_hold(
    tmp_path: Path, material: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    story = simulated_story(tmp_path, material)
    object.__setattr__(story, "forget", (Proof("statistics", "abc", "abd"),))
    monkeypatch.setattr(edge.demo, "run_demo", lambda *a, **k: (story, result_of(story)))
    done = CliRunner().invoke(main, ["--json", "demo", "--out", str(tmp_path / "out")])
    assert done.exit_code == 1 and "did not hold" in done.output
    assert json.loads(done.output.splitlines()[0])["forget_exact"] is False


@pytest.mark.skipif(os.geteuid() == 0, reason="needs a user whom a read-only folder stops; root writes everywhere")
def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StateError, match="choose another --out"):
        edge.demo._fresh_devices(tmp_path / "out")


def test_a_device_that_cannot_start_says_why(tmp_path: Path) -> None:
    device = ListeningDevice("broken", tmp_path / "devices", SPACE, str(tmp_path / "no-bundle"))
    with pytest.raises(DeviceError, match=r"ended with code 1: .*no-bundle"):
        device.start()
    device.stop()
