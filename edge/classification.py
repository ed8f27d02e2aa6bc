"""What is heard in a whole recording: one answer for the file, and the events in it, by the rules of the live path."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.decision import SILENT, Decider, DecisionSettings, Event, decide_clip
from edge.errors import StateError
from edge.hearing import Heard, WindowEmbedder, hear
from edge.listener import Judge


@dataclass(frozen=True)
class Classified:
    """label: None is unknown. score, scores: in [0, 1]. events: those that ended, in order of onset."""

    label: str | None
    score: float
    scores: Mapping[str, float]
    events: Sequence[Event]
    sample_rate: int

    def to_json(self) -> dict[str, Any]:
        """Return the answer of `soundkeep classify`, less the file's name."""
        return {
            "label": self.label,
            "score": self.score,
            "scores": dict(self.scores),
            "events": [
                {
                    "label": event.label,
                    "onset_s": round(event.onset_sample / self.sample_rate, 3),
                    "offset_s": round(event.offset_sample / self.sample_rate, 3),
                    "score": event.score,
                }
                for event in self.events
            ],
        }


def classify_sound(
    samples: NDArray[np.float32], embedder: WindowEmbedder, judge: Judge, settings: DecisionSettings
) -> Classified:
    """Judge a whole sound: windows that carry sound are pooled by the rule that teaching uses; all make events.

    samples: (m,) float32 at the embedder's sample rate.
    """
    heard = hear(samples, embedder)
    labels, z = judge.judge(heard.embeddings)
    whole = decide_clip(labels, z[heard.levels.carry_sound()], settings)
    events = _events(heard, labels, z, settings)
    return Classified(whole.label, whole.score, whole.scores, events, embedder.space.sample_rate)


def _events(heard: Heard, labels: Sequence[str], z: NDArray[np.float64], settings: DecisionSettings) -> list[Event]:
    space = heard.space
    decider = Decider(
        settings, sample_rate=space.sample_rate, window_length=space.window_length, hop_length=space.hop_length
    )
    audible = heard.levels.audible()
    with np.errstate(divide="ignore"):
        levels = np.where(audible, 10.0 * np.log10(heard.levels.power), SILENT)
    reported = []
    for start, row, level in zip(heard.starts.tolist(), z, levels.tolist(), strict=True):
        reported += decider.push(start, labels, row, level)
    reported += decider.flush()
    return sorted((e for e in reported if e.phase == "offset"), key=lambda e: (e.onset_sample, e.label or ""))


def write_embeddings(
    path: str,
    embeddings: NDArray[np.float32],
    file_index: NDArray[np.int64],
    start_sample: NDArray[np.int64],
    files: NDArray[np.str_],
) -> None:
    """Write the answer of `soundkeep embed` to exactly ``path``, whole or not at all. Raises StateError."""
    beside = Path(f"{path}.{os.getpid()}.tmp")
    try:
        try:
            with beside.open("wb") as file:
                np.savez(file, embeddings=embeddings, file_index=file_index, start_sample=start_sample, files=files)
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise StateError(f"{path} cannot be written ({error.strerror}); choose another --out") from error
