"""What the demonstration plays: sounds to teach, other takes of them to test with, and sounds that nobody teaches."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.random import Generator

from edge.errors import AudioError
from edge.scenes import SOUNDS, Scene, background, impulse_response, scene_from_clips
from edge.sounds.blocks import Samples, peak_normalized
from edge.sounds.rooms import reverberated, rms

KITCHEN = ("doorbell", "dog_bark", "smoke_alarm", "knock", "kettle_whistle")
HALL = ("phone_ring", "baby_cry")
STRANGERS = (
    "glass_breaking",
    "siren",
    "cat_meow",
    "sawing",
    "cough",
    "coin_drop",
    "car_horn",
    "songbird",
    "drill",
    "laughter",
)

_AUDIO_SUFFIXES = {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif"}
_ROOM_RMS = 0.002
_GAP_S = (1.2, 2.2)


@dataclass(frozen=True)
class Plan:
    """How much of everything.

    n_examples: taught of each sound. n_repeats: takes of each known sound in a lap of testing, n_unknown: strangers in
    it. n_live: sounds played in real time at the end.
    """

    n_kitchen: int = 5
    n_hall: int = 2
    n_examples: int = 3
    n_repeats: int = 2
    n_unknown: int = 4
    n_live: int = 5
    seed: int = 7


@dataclass(frozen=True, eq=False)
class Material:
    """lessons: examples to teach, by label. tests: other takes of the same things. unknown: sounds of other things.

    All samples float32 at ``sample_rate``; ``room`` is the quiet of the place, repeated under everything.
    """

    origin: str
    sample_rate: int
    kitchen: tuple[str, ...]
    hall: tuple[str, ...]
    lessons: Mapping[str, tuple[Samples, ...]]
    tests: Mapping[str, tuple[Samples, ...]]
    unknown: tuple[Samples, ...]
    room: Samples

    def lesson(self, label: str, index: int) -> Scene:
        """One example as it sounds in the room, half a second of quiet around it: the same samples whenever asked."""
        clip = (label, self.lessons[label][index])
        rng = np.random.default_rng(0)
        dry = scene_from_clips(rng, self.sample_rate, [clip], gap_s=(0.5, 0.5), background_kind=None)
        place = list(self.lessons).index(label) * 10 + index
        return self._in_room(dry, place * self.sample_rate)

    def lap(self, number: int, labels: Sequence[str], plan: Plan) -> Scene:
        """Every label ``n_repeats`` times and ``n_unknown`` strangers, in an order in which no sound follows itself.

        number: of the lap; other laps have other takes.
        """
        rng = np.random.default_rng([plan.seed, number])
        clips: list[tuple[str | None, Samples]] = []
        for turn in range(plan.n_repeats):
            strangers = range(turn, plan.n_unknown, plan.n_repeats)
            round_: list[tuple[str | None, Samples]] = [
                (label, _nth(self.tests[label], number * plan.n_repeats + turn)) for label in labels
            ]
            round_ += [(None, _nth(self.unknown, number * plan.n_unknown + i)) for i in strangers]
            order = [round_[i] for i in rng.permutation(len(round_))]
            if clips and clips[-1][0] == order[0][0]:
                order.append(order.pop(0))
            clips += order
        return self._in_room(
            scene_from_clips(rng, self.sample_rate, clips, gap_s=_GAP_S, background_kind=None),
            number * self.sample_rate,
        )

    def _in_room(self, dry: Scene, at: int) -> Scene:
        bed = np.take(self.room, np.arange(at, at + len(dry.samples)), mode="wrap")
        return Scene(np.clip(dry.samples + bed, -1.0, 1.0), self.sample_rate, dry.truth)


def _nth(clips: Sequence[Samples], index: int) -> Samples:
    return clips[index % len(clips)]


def _room(rng: Generator, sample_rate: int) -> Samples:
    bed = background("fan", 30.0, rng, sample_rate)
    return bed * np.float32(_ROOM_RMS / rms(bed))


def synthetic_material(sample_rate: int, plan: Plan) -> Material:
    """Make everything with the synthesiser: a household in one room, always the same for the same plan."""
    rng = np.random.default_rng(plan.seed)
    room = impulse_response(rng, sample_rate, 0.25)
    kitchen, hall = KITCHEN[: plan.n_kitchen], HALL[: plan.n_hall]
    n_laps = plan.n_kitchen + 3
    lessons, tests = {}, {}
    for label in (*kitchen, *hall):
        thing = SOUNDS[label].instance(rng)
        takes = [
            reverberated(thing.example(rng, sample_rate), room)
            for _ in range(plan.n_examples + plan.n_repeats * n_laps)
        ]
        lessons[label], tests[label] = tuple(takes[: plan.n_examples]), tuple(takes[plan.n_examples :])
    strangers = [SOUNDS[name].instance(rng) for name in STRANGERS]
    n_unknown = n_laps * plan.n_unknown
    unknown = [strangers[i % len(strangers)].example(rng, sample_rate) for i in range(n_unknown)]
    return Material(
        origin="made by soundkeep's own synthesiser",
        sample_rate=sample_rate,
        kitchen=kitchen,
        hall=hall,
        lessons=lessons,
        tests=tests,
        unknown=tuple(reverberated(x, room) for x in unknown),
        room=_room(rng, sample_rate),
    )


@dataclass(frozen=True)
class _Clip:
    path: Path
    label: str
    group: str


def recorded_material(folder: Path, sample_rate: int, plan: Plan) -> Material:
    """Read a folder of class folders, as ``<class>/<clip>``; ``meta.csv`` beside them may name each clip's source.

    Taught and tested clips of a class never share a source (column source_recording, else fold_or_speaker, else the
    clip itself). Every clip is played at the same peak. Raises AudioError when there are too few classes or clips.
    """
    rng = np.random.default_rng(plan.seed)
    by_class = _clips(folder)
    n_taught = plan.n_kitchen + plan.n_hall
    split = {label: _split_by_source(clips, plan.n_examples, rng) for label, clips in sorted(by_class.items())}
    enough = [label for label, (taught, tested) in split.items() if len(taught) == plan.n_examples and len(tested) >= 2]
    if len(enough) < n_taught or len(by_class) < n_taught + 1:
        raise AudioError(
            f"{folder} has {len(enough)} of {len(by_class)} class folders with {plan.n_examples} clips to teach and 2 "
            f"of other sources to test; wanted {n_taught} such classes and one more; give --data such a folder"
        )
    chosen = [enough[i] for i in rng.permutation(len(enough))[:n_taught]]
    others = [clip for label, clips in by_class.items() if label not in chosen for clip in clips]
    n_unknown = min(len(others), (plan.n_kitchen + 3) * plan.n_unknown)
    unknown = [others[i] for i in rng.permutation(len(others))[:n_unknown]]

    def load(clips: Sequence[_Clip]) -> tuple[Samples, ...]:
        from edge.audio import read_audio

        loud = (peak_normalized(read_audio(clip.path, sample_rate), 0.6) for clip in clips)
        return tuple(x for x in loud if np.any(x))

    n_tests = (plan.n_kitchen + 3) * plan.n_repeats
    return Material(
        origin=f"recordings of {folder.name}",
        sample_rate=sample_rate,
        kitchen=tuple(chosen[: plan.n_kitchen]),
        hall=tuple(chosen[plan.n_kitchen :]),
        lessons={label: load(split[label][0]) for label in chosen},
        tests={label: load(split[label][1][:n_tests]) for label in chosen},
        unknown=load(unknown),
        room=_room(rng, sample_rate),
    )


def _clips(folder: Path) -> dict[str, list[_Clip]]:
    """Find the clips of every class folder, with the source that meta.csv names."""
    if not folder.is_dir():
        raise AudioError(
            f"{folder} is not a folder; give --data a folder that holds one folder of clips for each class"
        )
    sources: dict[str, str] = {}
    meta = folder / "meta.csv"
    if meta.is_file():
        with meta.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                sources[row.get("clip") or ""] = row.get("source_recording") or row.get("fold_or_speaker") or ""
    found: dict[str, list[_Clip]] = {}
    for path in sorted(folder.glob("*/*")):
        if path.suffix.lower() in _AUDIO_SUFFIXES and path.is_file():
            name = f"{path.parent.name}/{path.name}"
            found.setdefault(path.parent.name, []).append(_Clip(path, path.parent.name, sources.get(name) or name))
    return found


def _split_by_source(clips: Sequence[_Clip], n_taught: int, rng: Generator) -> tuple[list[_Clip], list[_Clip]]:
    """Take ``n_taught`` clips to teach; what comes from other sources is left to test."""
    shuffled = [clips[i] for i in rng.permutation(len(clips))]
    taught = shuffled[:n_taught]
    sources = {clip.group for clip in taught}
    return taught, [clip for clip in shuffled if clip.group not in sources]
