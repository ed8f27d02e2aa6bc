"""Drawing windows: which clip comes next, what happens to it on the way, and which labels it keeps.

A window is cut from a clip or from a synthesised sound, perhaps played faster, set into a room, mixed with a second
one, filtered, covered with noise, and brought to a random level. All of it comes from one random generator.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from edge.errors import ConfigurationError
from edge.scenes import SOUNDS
from trainer.backbones.log_mel import FrontEndSettings
from trainer.datasets import Clip, ClipAudio
from trainer.distillation import augment

SYNTHETIC = "synthetic"
NO_CLASS = -1


@dataclass(frozen=True)
class BankSettings:
    """How windows are drawn. Probabilities in [0, 1], ratios in dB.

    set_weights: relative share of each set of clips, 1 where none is given; the synthesised sounds are the set
    ``synthetic``, 0 where none is given. p_speech_teacher: share of the windows without known speech that the speech
    teacher is asked about all the same; windows with speech always are.
    """

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
        """Return (sound class, word) of a clip, ``NO_CLASS`` where it has none or there is no clip."""
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
    """Draws one augmented window and its labels at a time.

    audio: decoded clips to share with others; its own when not given. Raises ConfigurationError when there is nothing
    to draw from.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        frontend: FrontEndSettings,
        settings: BankSettings,
        audio: ClipAudio | None = None,
    ) -> None:
        self.audio = audio if audio is not None else ClipAudio(frontend.sample_rate)
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
        if not weights.sum() > 0.0:
            raise ConfigurationError(
                f"{len(clips)} clips with set weights {dict(settings.set_weights)} leave nothing to draw from; "
                f"give clips, or a weight above 0"
            )
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
        """Return the window, its first and second clip (None: none or synthetic), the first one's share in [0, 1]."""
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
            share = share_of_first(snr_db)
        if rng.random() < s.p_filter:
            window = augment.random_filter(window, rng)
        if rng.random() < s.p_noise:
            window = augment.mix(window, augment.coloured_noise(len(window), rng), float(rng.uniform(*s.noise_snr_db)))
        return augment.set_level(window, rng), first, second, share


def share_of_first(snr_db: float) -> float:
    """Share in [0, 1] of the first of two mixed sounds in what is heard: a half where it is 2 dB below the second."""
    return float(1.0 / (1.0 + np.exp(-(snr_db + 2.0) / 3.0)))
