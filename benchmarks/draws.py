"""Who teaches and who is asked: draws of examples that never share a recording or a speaker with the questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from benchmarks.embedded import TEN_WORDS, Embedded
from edge.errors import NotEnoughSamplesError
from edge.heads import LinearHead
from edge.statistics import SufficientStatistics

SOUND_SETS = ("esc50",)
WORD_SETS = ("speech_commands_test",)
WORD_LIKE_SETS = ("speech_commands_test", "fsdd")


@dataclass(frozen=True, eq=False)
class Questions:
    """Clips to recognise: means (m, d) of their windows that carry sound, labels (m,).

    A clip is decided by the mean of its windows' scores; every head here is linear, so that is the score of their mean.
    """

    means: NDArray[np.float64]
    labels: NDArray[np.str_]

    @classmethod
    def of(cls, data: Embedded, clips: Sequence[int]) -> Questions:
        """Take some clips; those without any sound are left out."""
        rows = [data.rows([c], data.sounding) for c in clips]
        heard = [i for i, r in enumerate(rows) if len(r)]
        means = np.stack([data.features[rows[i]].astype(np.float64).mean(axis=0) for i in heard])
        return cls(means, data.clips.labels[[clips[i] for i in heard]])

    def among(self, labels: Sequence[str]) -> Questions:
        """Only the questions about some classes."""
        chosen = np.isin(self.labels, list(labels))
        return Questions(self.means[chosen], self.labels[chosen])

    def accuracy(self, head: LinearHead) -> float:
        """Share of clips that the head names rightly."""
        return self.share_right(np.array(head.labels), head.scores(self.means))

    def share_right(self, labels: NDArray[np.str_], scores: NDArray[np.float64]) -> float:
        """Share of clips whose best score is their own. labels: (k,). scores: (m, k)."""
        return float(np.mean(labels[scores.argmax(axis=1)] == self.labels))

    def balanced_accuracy(self, head: LinearHead, labels: Sequence[str] = ()) -> float:
        """Mean over classes (all, or some) of the share of clips named rightly."""
        answers = np.array(head.labels)[head.scores(self.means).argmax(axis=1)]
        asked = labels or sorted(set(self.labels.tolist()))
        return float(np.mean([np.mean(answers[self.labels == label] == label) for label in asked]))


def shots_of(data: Embedded, clips: Sequence[int], shots: int | None, rng: Generator) -> list[int]:
    """Draw ``shots`` clips of each class (all when None), from as many sources as there are.

    Raises NotEnoughSamplesError when a class has too few.
    """
    drawn: list[int] = []
    for label in sorted({str(data.clips.labels[c]) for c in clips}):
        own = [c for c in clips if data.clips.labels[c] == label]
        if shots is not None and len(own) < shots:
            raise NotEnoughSamplesError(f"{label!r} has {len(own)} clips to teach from; wanted at least {shots}")
        drawn += spread_over_sources(data, own, rng)[:shots]
    return drawn


def fewest_clips(data: Embedded, clips: Sequence[int]) -> int:
    """Clips of the class that has the fewest."""
    return min(len(own) for own in clips_by_label(data, clips).values())


def taught(data: Embedded, clips: Sequence[int]) -> SufficientStatistics:
    """What a device knows after these clips: their windows that carry sound, under their labels."""
    rows = data.rows(clips, data.sounding)
    return data.statistics(rows, data.clips.labels[data.clip[rows]])


def taught_unequally(
    data: Embedded, clips: Sequence[int], ratio: float, rng: Generator
) -> tuple[SufficientStatistics, list[str]]:
    """Teach class after class fewer windows, in a geometric row down to 1 / ``ratio`` of what the first one has.

    Returns the statistics and the labels from the most to the least taught; which class is rare is drawn.
    """
    labels = [str(x) for x in rng.permutation(sorted({str(data.clips.labels[c]) for c in clips}))]
    rows = {
        x: data.rows(spread_over_sources(data, [c for c in clips if data.clips.labels[c] == x], rng), data.sounding)
        for x in labels
    }
    most = min(len(r) for r in rows.values())
    share = ratio ** (-np.arange(len(labels)) / max(1, len(labels) - 1))
    kept = [rows[x][: max(1, round(most * s))] for x, s in zip(labels, share, strict=True)]
    names = np.repeat(np.array(labels), [len(r) for r in kept])
    return data.statistics(np.concatenate(kept), names), labels


def episode(
    data: Embedded, clips: Mapping[str, Sequence[int]], ways: int, shots: int, rng: Generator
) -> tuple[list[int], list[int]]:
    """Draw ``ways`` classes, ``shots`` clips of each to teach, and ask all others that share no source with these."""
    teach, ask = [], []
    for label in rng.choice(sorted(clips), min(ways, len(clips)), replace=False):
        own = spread_over_sources(data, clips[str(label)], rng)
        sources = set(data.clips.sources[own[:shots]].tolist())
        teach += own[:shots]
        ask += [c for c in own[shots:] if data.clips.sources[c] not in sources]
    return teach, ask


def spread_over_sources(data: Embedded, clips: Sequence[int], rng: Generator) -> list[int]:
    """Shuffle clips so that every source comes once before any comes twice."""
    order = [clips[i] for i in rng.permutation(len(clips))]
    turn: dict[str, int] = {}
    keys = []
    for c in order:
        source = str(data.clips.sources[c])
        turn[source] = turn.get(source, -1) + 1
        keys.append(turn[source])
    return [order[i] for i in np.argsort(keys, kind="stable")]


def clips_by_label(data: Embedded, clips: Sequence[int]) -> dict[str, list[int]]:
    """Group clip indices by class."""
    groups: dict[str, list[int]] = {}
    for c in clips:
        groups.setdefault(str(data.clips.labels[c]), []).append(c)
    return groups


def task_clips(data: Embedded, task: str, *, held_out: bool) -> list[int]:
    """Clips of one task, ``sounds`` or ``words``, on one side of the split."""
    if task == "sounds":
        return data.where(sets=SOUND_SETS, held_out=held_out)
    return data.where(sets=WORD_SETS, held_out=held_out, labels=TEN_WORDS)
