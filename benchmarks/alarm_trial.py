"""Teach a few sounds, let hours of everything else go by, and keep every score: one trial of the false-alarm protocol.

``STEPS`` are the states of the cure, from a poor prior and raw scores to all that the device does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from benchmarks.alarm_curves import HOME, STREAMS, Curve, Outcome
from benchmarks.counting import distinct_hours, held_for, timeline
from benchmarks.draws import clips_by_label, spread_over_sources, taught
from benchmarks.embedded import Embedded, prior_of
from edge.heads import Background, DetectionHead, fit_detection
from edge.records import BACKGROUND
from edge.space import FeatureSpace
from edge.statistics import SufficientStatistics

Array = NDArray[np.float64]
Score = Literal["raw", "z", "rivals", "own distance"]
SOUNDS = (
    "car_horn", "cat", "church_bells", "clapping", "clock_alarm", "coughing", "cow", "crying_baby", "dog",
    "door_wood_knock", "glass_breaking", "mouse_click", "rooster", "siren", "sneezing",
)  # fmt: skip
STREAM_OF = {
    "running_speech": "speech",
    "background_long": "rooms",
    "esc50": "other sounds",
    "speech_commands_test": "words",
    "fsdd": "words",
}
AMBIENCE = (
    "airplane", "chirping_birds", "crackling_fire", "crickets", "engine", "hand_saw", "helicopter", "insects",
    "keyboard_typing", "pouring_water", "rain", "sea_waves", "snoring", "thunderstorm", "train", "vacuum_cleaner",
    "washing_machine", "water_drops", "wind",
)  # fmt: skip
EVERYDAY = ("esc50",)
ROOMS = (*EVERYDAY, "background_long")
SPEECH = (*ROOMS, "running_speech")
WHOLE = (*SPEECH, "speech_commands_test", "fsdd")
N_TAUGHT, MOST_SHOTS, MOST_TESTS = 5, 5, 10
REFRACTORY_SECONDS = 2
OWN_SHARE = 0.25
ROOM_MINUTES = 18.0


@dataclass(frozen=True)
class Step:
    """One state of the cure. sets: what the prior was made of. minutes: of the room taught as background, of
    ``aside`` minutes that are not counted. new_kinds: the sounds to be taught are left out of the prior."""

    name: str
    sets: tuple[str, ...] = WHOLE
    score: Score = "own distance"
    minutes: float = 0.0
    aside: float = 0.0
    in_a_row: int = 1
    new_kinds: bool = False


STEPS = (
    Step("everyday sounds in the prior", EVERYDAY, "raw"),
    Step("+ rooms and noises", ROOMS, "raw"),
    Step("+ speech", SPEECH, "raw"),
    Step("+ words: the whole prior", WHOLE, "raw"),
    Step("+ normalised per class", score="z"),
    Step("+ rivals", score="rivals"),
    Step("+ own distance"),
    Step("0 min of the room ignored", aside=ROOM_MINUTES),
    Step("5 min of the room ignored", minutes=5.0, aside=ROOM_MINUTES),
    Step("18 min of the room ignored", minutes=18.0, aside=ROOM_MINUTES),
)
SHIPPED = STEPS[6]


@dataclass(frozen=True)
class Lesson:
    """What one draw teaches and asks, and what is aside. Clip indices."""

    teach: Mapping[str, tuple[int, ...]]
    ask: Mapping[str, tuple[int, ...]]
    room: tuple[int, ...]


def lessons(data: Embedded, kinds: Sequence[str], draws: int) -> list[Lesson]:
    """Draw taught sounds and their clips; every number of shots teaches the first of the same five."""
    sets = ("esc50",) if kinds is SOUNDS else ("speech_commands_test",)
    pool = clips_by_label(data, data.where(sets=sets, held_out=True, labels=kinds))
    found = []
    for seed in range(draws):
        rng = np.random.default_rng(seed)
        teach, ask = {}, {}
        for label in sorted(rng.choice(sorted(pool), min(N_TAUGHT, len(pool)), replace=False).tolist()):
            order = spread_over_sources(data, pool[label], rng)
            sources = set(data.clips.sources[order[:MOST_SHOTS]].tolist())
            teach[label] = tuple(order[:MOST_SHOTS])
            others = [c for c in order[MOST_SHOTS:] if data.clips.sources[c] not in sources]
            ask[label] = tuple(others[:MOST_TESTS])
        found.append(Lesson(teach, ask, _room(data, set(teach), rng)))
    return found


def _room(data: Embedded, labels: set[str], rng: Generator) -> tuple[int, ...]:
    """About ``ROOM_MINUTES`` of the negatives in random order, of every stream its share."""
    clips = negatives(data, labels)
    order = [clips[i] for i in rng.permutation(len(clips))]
    ends = np.cumsum(data.clips.seconds[order]) / 60.0
    return tuple(order[: int(np.searchsorted(ends, ROOM_MINUTES)) + 1])


def negatives(data: Embedded, labels: set[str]) -> list[int]:
    """Held-out clips of every stream in which none of these sounds or words is."""
    known = data.where(sets=[s for s in STREAM_OF if s in set(data.clips.sets.tolist())], held_out=True)
    return [c for c in known if str(data.clips.labels[c]) not in labels and str(data.clips.words[c]) not in labels]


def own_distance(head: DetectionHead) -> Array:
    """D_c = z_c(mu_c), how far the taught mean stands from the background, (k,): minus twice bias over gain."""
    return np.asarray(-2.0 * head.bias / head.gain)


def scores_of(head: DetectionHead, features: NDArray[np.int16], score: Score) -> Array:
    """Scores (n, k) of windows (n, d) as a step counts them."""
    z = head.z(features)
    if score == "raw":
        return z * head.gain
    if score == "z":
        return z
    against = z - head.rivals.against(features, head.admitted)
    return against if score == "rivals" else against - OWN_SHARE * own_distance(head)


@dataclass(frozen=True, eq=False)
class Trial:
    """What is on trial. data: windows of one ear. shipped: the bundle's prior, which stands for the whole one, if any.

    asked: the test clips by condition, ``clean`` among them. ridge: isotropic windows, a power of two.
    """

    data: Embedded
    shipped: SufficientStatistics | None
    ridge: float
    asked: Mapping[str, Embedded] = field(default_factory=dict)

    def curves(self, found: Sequence[Lesson], step: Step, shots: int) -> dict[str, Curve]:
        """Run every lesson with so many clips of each sound; a curve for each condition, the home's streams counted."""
        prior = self._prior(step)
        plain = self._background(prior, None) if step.minutes == 0.0 else None
        outcomes = [
            self._outcomes(lesson, step, shots, plain or self._ignoring(prior, lesson, step)) for lesson in found
        ]
        refractory = REFRACTORY_SECONDS * self.data.space.sample_rate
        return {name: Curve(tuple(o[name] for o in outcomes), refractory, HOME) for name in outcomes[0]}

    def _prior(self, step: Step) -> SufficientStatistics:
        if step.sets == WHOLE and not step.new_kinds and self.shipped is not None:
            return self.shipped
        clips = self.data.where(sets=step.sets, held_out=False)
        return prior_of(self.data, [c for c in clips if not (step.new_kinds and self.data.clips.labels[c] in SOUNDS)])

    def _background(self, prior: SufficientStatistics, ignored: SufficientStatistics | None) -> Background:
        return Background.from_statistics(prior, 1.0, ignored, self.ridge, FeatureSpace(self.data.space))

    def _ignoring(self, prior: SufficientStatistics, lesson: Lesson, step: Step) -> Background:
        ends = np.cumsum(self.data.clips.seconds[list(lesson.room)]) / 60.0
        rows = self.data.rows(lesson.room[: int(np.searchsorted(ends, step.minutes)) + 1], self.data.audible)
        return self._background(prior, self.data.statistics(rows, np.full(len(rows), BACKGROUND)))

    def _outcomes(self, lesson: Lesson, step: Step, shots: int, background: Background) -> dict[str, Outcome]:
        data, hop = self.data, self.data.space.hop_length
        known = taught(data, [c for clips in lesson.teach.values() for c in clips[:shots]])
        head = fit_detection(known, background, ridge=self.ridge)
        aside = set(lesson.room) if step.aside else set()
        clips = [c for c in negatives(data, set(lesson.teach)) if c not in aside]
        rows = data.rows(clips, data.audible)
        times = timeline(data.starts[rows], data.clip[rows], REFRACTORY_SECONDS * data.space.sample_rate)
        scores = scores_of(head, data.features[rows], step.score)
        held = np.stack([held_for(z, times, step.in_a_row, hop) for z in scores.T], axis=1)
        stream = np.array([STREAMS.index(stream_of(data, c)) for c in range(len(data.clips))])[data.clip[rows]]
        hours = np.array([distinct_hours(_played(data, clips, s)) for s in STREAMS])
        questions = [(i, c) for i, label in enumerate(head.labels) for c in lesson.ask[label]]
        outcomes = {}
        for name, heard in (self.asked or {"clean": data}).items():
            best = np.array([_best(heard, c, head, i, step) for i, c in questions])
            outcomes[name] = Outcome(best, held, times, stream, hours)
        return outcomes


def _played(data: Embedded, clips: Sequence[int], stream: str) -> list[tuple[str, float]]:
    return [(str(data.clips.paths[c]), float(data.clips.seconds[c])) for c in clips if stream_of(data, c) == stream]


def stream_of(data: Embedded, clip: int) -> str:
    """The kind of stream that a clip counts for.

    What goes on for long is ambience, not another sound; recorded noise in a set of words is a room.
    """
    label, name = str(data.clips.labels[clip]), STREAM_OF[str(data.clips.sets[clip])]
    return "rooms" if label == "_silence_" else "ambience" if name == "other sounds" and label in AMBIENCE else name


def _best(data: Embedded, clip: int, head: DetectionHead, column: int, step: Step) -> float:
    rows = data.rows([clip], data.audible)
    if len(rows) == 0:
        return -np.inf
    z = scores_of(head, data.features[rows], step.score)[:, column]
    return float(held_for(z, data.starts[rows], step.in_a_row, data.space.hop_length).max())
