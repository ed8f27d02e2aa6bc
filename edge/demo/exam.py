"""Marking: what was heard against what is true. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from edge.scenes import Occurrence


@dataclass(frozen=True)
class Detection:
    """An event as a device reported it, in samples of the scene. ``label`` None: an unknown sound."""

    label: str | None
    onset: int
    offset: int
    score: float


@dataclass(frozen=True)
class Answer:
    """One sound of the scene: what should have been reported (None: no taught label) and which labels were."""

    occurrence: Occurrence
    expected: str | None
    heard: tuple[str, ...]

    @property
    def right(self) -> bool:
        """The taught label and no other; for a sound that is not taught, no label at all."""
        return self.heard == (() if self.expected is None else (self.expected,))


@dataclass(frozen=True)
class Marked:
    """answers: one per sound. false_alarms: labels reported where there was no sound."""

    answers: tuple[Answer, ...]
    false_alarms: tuple[Detection, ...]

    @property
    def n_right(self) -> int:
        return sum(answer.right for answer in self.answers)

    @property
    def accuracy(self) -> float:
        """Share of sounds answered rightly, in [0, 1]; 1 when there was none."""
        return self.n_right / len(self.answers) if self.answers else 1.0


def mark(
    truth: Sequence[Occurrence], detections: Sequence[Detection], *, taught: Collection[str], slack: int
) -> Marked:
    """Give every labelled detection to the sound that it overlaps most, at most ``slack`` samples away, and judge.

    taught: labels that the device knows; sounds with other labels count as unknown. A detection near no sound is a
    false alarm. Unknown-sound detections are never wrong: they say that something was there.
    """
    heard: list[set[str]] = [set() for _ in truth]
    false_alarms = []
    for detection in detections:
        if detection.label is None:
            continue
        overlaps = [min(detection.offset, o.offset) - max(detection.onset, o.onset) for o in truth]
        best = max(range(len(truth)), key=overlaps.__getitem__, default=None)
        if best is None or overlaps[best] < -slack:
            false_alarms.append(detection)
        else:
            heard[best].add(detection.label)
    answers = tuple(
        Answer(o, o.label if o.label in taught else None, tuple(sorted(labels)))
        for o, labels in zip(truth, heard, strict=True)
    )
    return Marked(answers, tuple(false_alarms))
