"""What the chosen precision costs beside float32, in one run: likeness, milliseconds, accuracy of a read-out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edge.embedder import Embedder
from export.loss import clips_with_groups, readout_of
from export.parity import AgreementReport, agreement
from export.speed import processor, window_ms
from trainer.datasets import ClipAudio, is_held_out

Measure = Literal["none", "speed", "accuracy"]
Step = Callable[[], object]
Watch = Callable[[str, int], AbstractContextManager[Step]]
"""Shows one stage of the work to who waits: called with its name and number of steps, gives what counts a step."""


@contextmanager
def unwatched(stage: str, n_steps: int) -> Iterator[Step]:
    """Show nothing."""
    yield lambda: None


@dataclass(frozen=True)
class Measured:
    """Figures by precision. window_ms: of one core. readout: accuracy by set, then by precision.

    to_float32: likeness of the last precision to float32, None when there is only float32. n_tested: clips kept
    out, by set. left_out: why a set has no accuracy, by set. processor: what the milliseconds are of.
    """

    to_float32: AgreementReport | None = None
    window_ms: Mapping[str, float] = field(default_factory=dict)
    readout: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    n_tested: Mapping[str, int] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    processor: str = ""


def measure(
    embedders: Mapping[str, Embedder],
    windows: NDArray[np.float32],
    sets: Mapping[str, Path],
    what: Measure,
    *,
    watch: Watch = unwatched,
) -> Measured:
    """Compare backbones of one network, float32 first.

    windows: (n, window_length) float32 that nothing was calibrated on. sets: folders of clips by name; the read-out is
    measured where a set has classes and groups on both sides. ``none`` gives likeness alone, ``speed`` adds times.
    """
    near = None
    if len(embedders) > 1:
        first, last = [e.embed(windows) for e in (embedders["float32"], list(embedders.values())[-1])]
        near = agreement(first, last)
    if what == "none":
        return Measured(near)
    times = window_ms(embedders, windows)
    if what == "speed":
        return Measured(near, times, processor=processor())
    readout: dict[str, dict[str, float]] = {}
    n_tested, left_out = {}, {}
    for name, folder in sets.items():
        clips = clips_with_groups(folder)
        if isinstance(clips, str):
            left_out[name] = clips
            continue
        audio = ClipAudio(next(iter(embedders.values())).space.sample_rate)
        n_tested[name], readout[name] = sum(map(is_held_out, clips)), {}
        for precision, embedder in embedders.items():
            with watch(f"{name}, read-out in {precision}", len(clips)) as step:
                readout[name][precision] = readout_of(embedder, clips, audio, step)
    return Measured(near, times, readout, n_tested, left_out, processor())
