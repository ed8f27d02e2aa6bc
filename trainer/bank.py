"""The bank: augmented windows with every teacher's answer to exactly the same audio, made once, read many times.

A shard is made from (seed, shard number) alone, so an interrupted bank continues where it stopped and several processes
may fill it together.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from tqdm import tqdm

from edge.scenes import SOUNDS
from trainer import augment
from trainer.datasets import Clip, ClipAudio
from trainer.frontend import FrontEndSettings, LogMel
from trainer.teachers import Teacher, load_teachers

SYNTHETIC = "synthetic"
NO_CLASS = -1


@dataclass(frozen=True)
class BankSettings:
    """How windows are drawn. Probabilities in [0, 1], ratios in dB. ``set_weights``: relative share of each set."""

    seed: int = 0
    shard_size: int = 1024
    set_weights: Mapping[str, float] = field(default_factory=dict)
    p_mix: float = 0.5
    mix_snr_db: tuple[float, float] = (-3.0, 20.0)
    p_speed: float = 0.4
    p_filter: float = 0.5
    p_reverberation: float = 0.35
    p_noise: float = 0.4
    noise_snr_db: tuple[float, float] = (8.0, 40.0)
    p_speech_teacher: float = 0.3


@dataclass(frozen=True)
class LabelSpace:
    """Names of the sound classes and words whose labels are used beside the teachers' answers."""

    sounds: tuple[str, ...]
    words: tuple[str, ...]

    @classmethod
    def of(cls, clips: Sequence[Clip]) -> LabelSpace:
        """Words come from the clips that name one; sound classes from sets of at least ten classes without words."""
        worded = {c.set_name for c in clips if c.word}
        labels: dict[str, set[str]] = {}
        for c in clips:
            if c.set_name not in worded:
                labels.setdefault(c.set_name, set()).add(c.label)
        sounds = {label for found in labels.values() if len(found) >= 10 for label in found}
        return cls(tuple(sorted(sounds)), tuple(sorted({c.word for c in clips if c.word})))

    def indices(self, clip: Clip | None) -> tuple[int, int]:
        if clip is None:
            return NO_CLASS, NO_CLASS
        sound = self.sounds.index(clip.label) if clip.label in self.sounds and not clip.word else NO_CLASS
        word = self.words.index(clip.word) if clip.word else NO_CLASS
        return sound, word


def root_share(counts: Sequence[int]) -> NDArray[np.float64]:
    """Probabilities in proportion to the square root of each class's clips: between fair to classes and to clips."""
    root = np.sqrt(np.asarray(counts, dtype=np.float64))
    return np.asarray(root / root.sum())


class WindowDrawer:
    """Draws one augmented window and its labels at a time."""

    def __init__(self, clips: Sequence[Clip], frontend: FrontEndSettings, settings: BankSettings) -> None:
        self.audio = ClipAudio(frontend.sample_rate)
        self.frontend = frontend
        self.settings = settings
        by_set: dict[str, dict[str, list[Clip]]] = {}
        for clip in clips:
            by_set.setdefault(clip.set_name, {}).setdefault(clip.word or clip.label, []).append(clip)
        self.sets = sorted(by_set)
        self.members = {name: [classes[label] for label in sorted(classes)] for name, classes in by_set.items()}
        self.class_probability = {name: root_share([len(m) for m in members]) for name, members in self.members.items()}
        if settings.set_weights.get(SYNTHETIC, 0.0) > 0.0:
            self.sets.append(SYNTHETIC)
        weights = np.array([settings.set_weights.get(s, 1.0) for s in self.sets])
        self.set_probability = weights / weights.sum()

    def _source(self, rng: Generator) -> tuple[augment.Samples, Clip | None]:
        name = self.sets[int(rng.choice(len(self.sets), p=self.set_probability))]
        length = self.frontend.window_length
        if name == SYNTHETIC:
            recipe = SOUNDS[sorted(SOUNDS)[int(rng.integers(len(SOUNDS)))]]
            samples, clip = recipe.instance(rng).example(rng, self.frontend.sample_rate), None
        else:
            members = self.members[name][int(rng.choice(len(self.members[name]), p=self.class_probability[name]))]
            clip = members[int(rng.integers(len(members)))]
            samples = self.audio[clip]
        if rng.random() < self.settings.p_speed:
            span = min(len(samples), int(length * 1.3))
            samples = augment.cut_window(samples, span, rng) if len(samples) > span else samples
            samples = augment.change_speed(samples, float(rng.uniform(0.88, 1.14)))
        return augment.cut_window(samples, length, rng), clip

    def draw(self, rng: Generator) -> tuple[augment.Samples, Clip | None, Clip | None, float]:
        """Return the window, its first and second clip (None: none or synthetic) and the first one's share in [0, 1]."""
        s = self.settings
        window, first = self._source(rng)
        second: Clip | None = None
        share = 1.0
        if rng.random() < s.p_reverberation:
            window = augment.reverberate(window, rng, self.frontend.sample_rate)
        if rng.random() < s.p_mix:
            other, second = self._source(rng)
            snr_db = float(rng.uniform(*s.mix_snr_db))
            window = augment.mix(window, other, snr_db)
            share = float(1.0 / (1.0 + np.exp(-(snr_db + 2.0) / 3.0)))
        if rng.random() < s.p_filter:
            window = augment.random_filter(window, rng)
        if rng.random() < s.p_noise:
            window = augment.mix(window, augment.coloured_noise(len(window), rng), float(rng.uniform(*s.noise_snr_db)))
        return augment.set_level(window, rng), first, second, share


def make_shard(
    path: Path, number: int, drawer: WindowDrawer, labels: LabelSpace, teachers: Mapping[str, Teacher], features: LogMel
) -> None:
    """Draw one shard, ask the teachers, and write it beside and rename."""
    rng = np.random.default_rng([drawer.settings.seed, number])
    size = drawer.settings.shard_size
    windows = np.zeros((size, drawer.frontend.window_length), dtype=np.float32)
    sound = np.full((size, 2), NO_CLASS, dtype=np.int16)
    word = np.full((size, 2), NO_CLASS, dtype=np.int16)
    share = np.ones(size, dtype=np.float32)
    ask_speech = np.zeros(size, dtype=bool)
    for i in range(size):
        windows[i], first, second, share[i] = drawer.draw(rng)
        for j, clip in enumerate((first, second)):
            sound[i, j], word[i, j] = labels.indices(clip)
        spoken = any(c is not None and (c.word or c.label == "speech") for c in (first, second))
        ask_speech[i] = spoken or rng.random() < drawer.settings.p_speech_teacher
    arrays: dict[str, NDArray[np.generic]] = {"sound_label": sound, "word_label": word, "share": share}
    with torch.no_grad():
        log_mel = [features(torch.from_numpy(windows[i : i + 256])).numpy() for i in range(0, size, 256)]
    arrays["log_mel"] = np.concatenate(log_mel).astype(np.float16)
    for name, teacher in teachers.items():
        rows = np.flatnonzero(ask_speech) if name == "speech" else np.arange(size)
        parts = [teacher.targets(windows[rows[i : i + 64]]) for i in range(0, len(rows), 64)]
        arrays[f"{name}_rows"] = rows.astype(np.int32)
        for key in parts[0]:
            arrays[key] = np.concatenate([p[key] for p in parts]).astype(np.float16)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    with temporary.open("wb") as f:
        np.savez(f, **arrays)
    temporary.rename(path)


def _fill(
    directory: Path, numbers: Sequence[int], clips: Sequence[Clip], labels: LabelSpace, teacher_files: Sequence[Path],
    frontend: FrontEndSettings, settings: BankSettings, progress: bool,
) -> None:
    torch.set_num_threads(1)
    drawer = WindowDrawer(clips, frontend, settings)
    teachers = load_teachers(teacher_files)
    features = LogMel(frontend)
    for number in tqdm(numbers, desc="bank", unit="shard", disable=not progress):
        path = directory / f"shard-{number:05d}.npz"
        if not path.exists():
            make_shard(path, number, drawer, labels, teachers, features)


def fill_bank(
    directory: Path, n_shards: int, clips: Sequence[Clip], teacher_files: Sequence[Path], *, labels: LabelSpace,
    frontend: FrontEndSettings, settings: BankSettings, workers: int = 1, first_shard: int = 0,
) -> None:
    """Make the shards ``first_shard .. n_shards - 1`` that are missing, in ``workers`` processes."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "bank.json").write_text(json.dumps({"sounds": labels.sounds, "words": labels.words}, indent=1) + "\n")
    numbers = range(first_shard, n_shards)
    if workers <= 1:
        _fill(directory, numbers, clips, labels, teacher_files, frontend, settings, True)
        return
    with ProcessPoolExecutor(workers) as pool:
        jobs = [
            pool.submit(_fill, directory, numbers[w::workers], clips, labels, teacher_files, frontend, settings, w == 0)
            for w in range(workers)
        ]
        for job in jobs:
            job.result()
