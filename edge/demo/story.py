"""The story of the demonstration, told with devices that are given: teach, kill, forget, merge, and test in between.

Every claim is an equality of bytes or hashes that the devices' own commands report. The reference is one more device
that never heard what was forgotten, and heard in another order all that was merged.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.demo.device import Device, ScoresOverTime
from edge.demo.exam import Detection, Marked, mark
from edge.demo.material import Material, Plan
from edge.memory_file import decode_memory
from edge.scenes import Occurrence, Scene
from edge.space import EmbeddingSpace

Tell = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Lap:
    """One stretch of testing. at: sample of the whole scene where it begins. known: labels the device had then."""

    title: str
    at: int
    scene: Scene
    known: tuple[str, ...]
    detections: tuple[Detection, ...]
    marked: Marked


@dataclass(frozen=True)
class Proof:
    """A claim, and the two values that must be equal for it to hold."""

    claim: str
    found: str
    wanted: str

    @property
    def holds(self) -> bool:
        return self.found == self.wanted


@dataclass(frozen=True, eq=False)
class Story:
    """What happened. samples: all that the first device heard, (n,) float32. Times in the unit of their names."""

    origin: str
    backbone: str
    sample_rate: int
    samples: NDArray[np.float32]
    truth: tuple[Occurrence, ...]
    laps: tuple[Lap, ...]
    n_taught: int
    forgotten: str
    hall: tuple[str, ...]
    restarted: tuple[Proof, ...]
    forget: tuple[Proof, ...]
    merge: tuple[Proof, ...]
    scores: ScoresOverTime
    teach_ms: tuple[float, ...]
    delays_s: tuple[float, ...]
    embedding_ms: float
    wall_s: float

    @property
    def accuracy_after_each_teaching(self) -> list[float]:
        return [lap.marked.accuracy for lap in self.laps[: self.n_taught]]

    @property
    def kept_its_word(self) -> bool:
        """Whether every exactness claim holds."""
        return all(proof.holds for proof in (*self.restarted, *self.forget, *self.merge))


@dataclass
class _Tape:
    """All that the first device heard, and the truth about it."""

    pieces: list[NDArray[np.float32]] = field(default_factory=list)
    truth: list[Occurrence] = field(default_factory=list)
    n: int = 0

    def add(self, scene: Scene) -> None:
        self.truth += [Occurrence(o.label, o.onset + self.n, o.offset + self.n) for o in scene.truth]
        self.pieces.append(scene.samples)
        self.n += len(scene.samples)


class _Teller:
    """Runs the story; holds what grows while it is told."""

    def __init__(self, material: Material, plan: Plan, space: EmbeddingSpace, folder: Path, tell: Tell) -> None:
        self.material = material
        self.plan = plan
        self.space = space
        self.folder = folder
        self.tell = tell
        self.tape = _Tape()
        self.laps: list[Lap] = []
        self.teach_ms: list[float] = []

    def whole_hops(self, scene: Scene) -> Scene:
        """Cut the quiet end so that windows fall alike wherever the scene is played."""
        n = len(scene.samples) - len(scene.samples) % self.space.hop_length
        return Scene(scene.samples[:n], scene.sample_rate, scene.truth)

    def teach(self, device: Device, label: str, n_examples: int, *, taped: bool = False) -> list[str]:
        """Let the device hear each example, and say right after it what that was. Returns the records' ids."""
        ids = []
        not_in_a_window = -self.space.window_length % self.space.hop_length
        for index in range(n_examples):
            scene = self.whole_hops(self.material.lesson(label, index))
            device.hear(scene.samples)
            began = time.perf_counter()
            ids.append(device.teach_last(label, len(scene.samples) - not_in_a_window))
            if taped:
                self.teach_ms.append(1000.0 * (time.perf_counter() - began))
                self.tape.add(scene)
        return ids

    def test(self, device: Device, title: str, known: Sequence[str], played: Sequence[str]) -> Lap:
        """Play a lap of ``played`` sounds and strangers; mark what the device reports, which knows ``known``."""
        scene = self.whole_hops(self.material.lap(len(self.laps), played, self.plan))
        detections = device.hear(scene.samples)
        marked = mark(scene.truth, detections, taught=known, slack=self.space.sample_rate // 2)
        lap = Lap(title, self.tape.n, scene, tuple(known), tuple(detections), marked)
        self.tape.add(scene)
        self.laps.append(lap)
        false_alarms = f", {len(marked.false_alarms)} false alarm(s)" if marked.false_alarms else ""
        self.tell(f"  {title}: {marked.n_right} of {len(marked.answers)} right{false_alarms}")
        return lap

    def survive(self, device: Device, ids: Sequence[str]) -> tuple[Proof, ...]:
        """Kill the device just after it acknowledged its last lesson, and start it again."""
        died = device.kill()
        dead = device.verify()
        device.start()
        alive = device.verify()
        _, records = decode_memory(device.export_memory(self.folder / "kitchen-after-restart.memory"))
        return (
            Proof("the process was killed (SIGKILL)", "killed" if died else "ended otherwise", "killed"),
            Proof("every acknowledged record is there", _names(r.id for r in records), _names(ids)),
            Proof("statistics before and after the restart", alive.statistics_sha256, dead.statistics_sha256),
        )


def _names(ids: Iterable[str]) -> str:
    return " ".join(sorted({i[:16] for i in ids}))


def tell_story(
    material: Material,
    plan: Plan,
    *,
    kitchen: Device,
    hall: Device,
    reference: Device,
    space: EmbeddingSpace,
    backbone: str,
    folder: Path,
    tell: Tell,
) -> Story:
    """Run everything on three devices that are not started and know nothing; they are stopped at the end.

    folder: where exported memories are written.
    """
    began = time.monotonic()
    teller = _Teller(material, plan, space, folder, tell)
    devices = (kitchen, hall, reference)
    try:
        tell("A device in the kitchen is taught live, and tested after each sound")
        kitchen.start()
        restarted = _teach_kitchen(teller, kitchen)

        forgotten, kept = material.kitchen[0], material.kitchen[1:]
        tell(f"It forgets {_say(forgotten)}; another device never hears it at all")
        kitchen.forget(forgotten)
        reference.start()
        for label in reversed(kept):
            teller.teach(reference, label, plan.n_examples)
        after, never = kitchen.verify(), reference.verify()
        forget = (
            Proof("statistics: forgotten, and never taught", after.statistics_sha256, never.statistics_sha256),
            _same_files("memory file: forgotten, and never taught", kitchen, reference, folder, "forgotten"),
        )
        teller.test(kitchen, f"after forgetting {_say(forgotten)}", kept, material.kitchen)

        tell(f"A device in the hall learns {' and '.join(map(_say, material.hall))}; the kitchen takes over its memory")
        hall.start()
        for label in material.hall:
            teller.teach(hall, label, plan.n_examples)
        teller.teach(hall, kept[0], 1)
        kitchen.import_memory(hall.export_memory(folder / "hall.memory"))
        for label in reversed(material.hall):
            teller.teach(reference, label, plan.n_examples)
        merged, all_heard = kitchen.verify(), reference.verify()
        merge = (
            Proof("statistics: merged, and heard by one device", merged.statistics_sha256, all_heard.statistics_sha256),
            _same_files("memory file: merged, and heard by one device", kitchen, reference, folder, "merged"),
        )
        everything = (*kept, *material.hall)
        last = teller.test(kitchen, "after the merge", everything, everything)

        tell("In real time: how long until a sound is reported")
        delays = _delays(teller, kitchen, everything[: plan.n_live])
        return Story(
            origin=material.origin,
            backbone=backbone,
            sample_rate=material.sample_rate,
            samples=np.concatenate(teller.tape.pieces),
            truth=tuple(teller.tape.truth),
            laps=tuple(teller.laps),
            n_taught=len(material.kitchen),
            forgotten=forgotten,
            hall=material.hall,
            restarted=restarted,
            forget=forget,
            merge=merge,
            scores=kitchen.scores(last.scene.samples),
            teach_ms=tuple(teller.teach_ms),
            delays_s=tuple(delays),
            embedding_ms=kitchen.embedding_ms(),
            wall_s=time.monotonic() - began,
        )
    finally:
        for device in devices:
            device.stop()


def _teach_kitchen(teller: _Teller, kitchen: Device) -> tuple[Proof, ...]:
    """Teach one sound after another with a lap after each; the process dies half-way. Returns what that proved."""
    labels = teller.material.kitchen
    proofs: tuple[Proof, ...] = ()
    ids: list[str] = []
    for n_known, label in enumerate(labels, start=1):
        ids += teller.teach(kitchen, label, teller.plan.n_examples, taped=True)
        if n_known == (len(labels) + 1) // 2:
            teller.tell(f"  {_say(label)} is taught; the process is killed at once, and started again")
            proofs = teller.survive(kitchen, ids)
        teller.test(kitchen, f"{n_known} taught, now {_say(label)}", labels[:n_known], labels)
    return proofs


def _same_files(claim: str, one: Device, other: Device, folder: Path, name: str) -> Proof:
    """Export both memories; the proof compares their bytes by hash and length."""
    found, wanted = (d.export_memory(folder / f"{name}-{d.name}.memory") for d in (one, other))
    return Proof(claim, _fingerprint(found), _fingerprint(wanted))


def _fingerprint(data: bytes) -> str:
    return f"{hashlib.sha256(data).hexdigest()} ({len(data)} bytes)"


def _delays(teller: _Teller, device: Device, labels: Sequence[str]) -> list[float]:
    """Play one take of each label in real time; returns seconds from onset to report."""
    plan = replace(teller.plan, n_repeats=1, n_unknown=0)
    scene = teller.whole_hops(teller.material.lap(len(teller.laps), labels, plan))
    device.hear(scene.samples, real_time=True)
    teller.tape.add(scene)
    return device.report_delays(scene.truth)


def _say(label: str) -> str:
    return label.replace("_", " ")
