"""What a new ear must show before a device may have it.

``python -m trainer.server.gates PARENT CANDIDATE FOLDER SETTINGS``, in a process of its own, because it runs the model.
FOLDER holds ``train`` and ``heldout`` of a job, SETTINGS is the JSON of the policy. FOLDER/gates.json gets
{"passed": bool, "gates": {name: {"ok", "words", figures}}}. A gate that cannot be judged has not been passed.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.audio import audio_files_of
from edge.bundle import Bundle, open_bundle
from edge.embedder import Embedder, check_canary, probe_window
from edge.errors import SilenceError, SoundkeepError
from edge.heads import DetectionHead
from edge.hearing import example_of_file
from edge.linear_map import parent_map
from edge.readout import Readout
from edge.space import FeatureSpace
from edge.statistics import StatisticsAccumulator, SufficientStatistics
from trainer.server.material import HELD_OUT, TRAIN
from trainer.server.policy import Policy

LATENCY_ROUNDS = 31
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Verdict:
    """ok: passed. words: one sentence for the operator. figures: JSON values."""

    ok: bool
    words: str
    figures: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {"ok": self.ok, "words": self.words, **self.figures}


def judge(parent: Bundle, candidate: Bundle, folder: Path, policy: Policy) -> dict[str, Any]:
    """Ask every gate, also after one has failed: the operator wants to know all reasons at once."""
    ears = Embedder(parent), Embedder(candidate)
    gates: dict[str, Callable[[], Verdict]] = {
        "canary": lambda: canary(candidate, ears[1], policy.min_canary_cosine),
        "accuracy": lambda: accuracy(parent, candidate, ears, folder),
        "size": lambda: size(parent, candidate, policy.max_size_ratio),
        "latency": lambda: latency(ears, policy.max_latency_ratio),
        "map": lambda: link(parent, candidate, policy.min_map_cosine),
    }
    verdicts = {name: _asked(gate) for name, gate in gates.items()}
    return {
        "passed": all(verdict.ok for verdict in verdicts.values()),
        "gates": {name: verdict.to_json() for name, verdict in verdicts.items()},
    }


def canary(candidate: Bundle, embedder: Embedder, min_cosine: float) -> Verdict:
    """The ear answers here as it did where it was made."""
    report = check_canary(candidate, embedder)
    if report is None or report.n == 0:
        return Verdict(False, "the new ear carries no canary, so nobody can tell whether a machine runs it rightly")
    figures = {"min_cosine": report.min_cosine, "wanted": min_cosine, "n": report.n}
    words = f"{report.n} windows come out with cosine {report.min_cosine:.5f} to those at export, wanted {min_cosine:g}"
    return Verdict(math.isfinite(report.min_cosine) and report.min_cosine >= min_cosine, words, figures)


def accuracy(parent: Bundle, candidate: Bundle, ears: tuple[Embedder, Embedder], folder: Path) -> Verdict:
    """Both ears are taught the clips that were learnt from, and asked those that were not.

    Passed when the new ear names at least as many of them rightly. ``difference`` is new less current, in shares, with
    the 95 % interval of paired answers (normal, from the clips on which the two differ); it is told, not asked.
    """
    rights = []
    for bundle, embedder in zip((parent, candidate), ears, strict=True):
        rights.append(_answers(bundle, embedder, folder))
    if not rights[0]:
        return Verdict(
            False, "no clip of the fleet is held out for these classes, so nothing says that the ear is better"
        )
    n = len(rights[0])
    current, new = (np.array([right[clip] for clip in sorted(rights[0])]) for right in rights)
    gained, lost = int(np.sum(new & ~current)), int(np.sum(current & ~new))
    difference = (gained - lost) / n
    half = 1.96 * math.sqrt(max(0.0, gained + lost - (gained - lost) ** 2 / n)) / n
    figures = {
        "n": n,
        "current": float(np.mean(current)),
        "new": float(np.mean(new)),
        "gained": gained,
        "lost": lost,
        "difference": difference,
        "interval": [difference - half, difference + half],
    }
    words = (
        f"of {n} clips that were held out the current ear names {int(current.sum())} rightly, the new one "
        f"{int(new.sum())} ({gained} gained, {lost} lost)"
    )
    return Verdict(gained >= lost, words, figures)


def size(parent: Bundle, candidate: Bundle, max_ratio: float) -> Verdict:
    """All files of the bundle together: what a device downloads and stores."""
    before, now = (sum(e.size for e in b.manifest.files.values()) for b in (parent, candidate))
    words = f"it has {now / 1e6:.2f} MB, the current one {before / 1e6:.2f} MB, wanted at most {max_ratio:g} times that"
    return Verdict(now <= max_ratio * before, words, {"bytes": now, "current_bytes": before, "max_ratio": max_ratio})


def latency(
    ears: tuple[Embedder, Embedder], max_ratio: float, *, clock: Callable[[], float] = time.thread_time
) -> Verdict:
    """Median time of one core for one window, both ears in turn, so that other work on the machine hits both alike.

    A round gives each ear the span that the other's windows cover, where their hops differ: time per second of sound.
    """
    windows = [probe_window(e.space.window_length) for e in ears]
    taken: tuple[list[float], list[float]] = ([], [])
    for embedder, window in zip(ears, windows, strict=True):
        embedder.embed(window)
    for _ in range(LATENCY_ROUNDS):
        for embedder, window, times in zip(ears, windows, taken, strict=True):
            begun = clock()
            embedder.embed(window)
            times.append(clock() - begun)
    before, now = (1e3 * float(np.median(times)) for times in taken)
    share = [1e-3 * ms * e.space.sample_rate / e.space.hop_length for ms, e in zip((before, now), ears, strict=True)]
    words = (
        f"a window takes {now:.2f} ms ({100 * share[1]:.1f} % of a core), with the current one {before:.2f} ms "
        f"({100 * share[0]:.1f} %), wanted at most {max_ratio:g} times that"
    )
    ok = share[1] <= max_ratio * share[0]
    return Verdict(ok, words, {"ms": now, "current_ms": before, "max_ratio": max_ratio})


def link(parent: Bundle, candidate: Bundle, min_cosine: float) -> Verdict:
    """What devices know without clips gets over: the map, where there is one, is from the current ear and good."""
    of = parent_map(candidate)
    if of is None:
        return Verdict(True, "it carries no map; devices without clips will stay with the current ear")
    figures = {"held_out_cosine": of.held_out_cosine, "wanted": min_cosine, "n_held_out": of.n_held_out}
    if of.space != parent.space:
        return Verdict(False, "its map leads from another ear than the current one", figures)
    words = f"its map has cosine {of.held_out_cosine:.4f} on groups that it was not fitted on, wanted {min_cosine:g}"
    return Verdict(of.held_out_cosine >= min_cosine, words, figures)


def _asked(gate: Callable[[], Verdict]) -> Verdict:
    try:
        return gate()
    except SoundkeepError as error:
        return Verdict(False, f"it could not be judged: {error}")


def _answers(bundle: Bundle, embedder: Embedder, folder: Path) -> dict[str, bool]:
    """Teach as a device does and ask: name of each clip held out, and whether its best class is the right one.

    A clip without sound is a miss for both.
    """
    space = FeatureSpace(bundle.space)
    taught = StatisticsAccumulator(SufficientStatistics.zero(space))
    for path in audio_files_of(folder / TRAIN):
        try:
            taught.add(example_of_file(path, embedder).embeddings, path.parent.name)
        except SilenceError:
            continue
    detection, default = bundle.detection, Readout()
    readout = Readout(
        default.ridge if detection.ridge is None else detection.ridge,
        default.prior_weight if detection.prior_weight is None else detection.prior_weight,
    )
    head = readout.fitted(taught.snapshot(), SufficientStatistics.zero(space), bundle.prior())
    asked = audio_files_of(folder / HELD_OUT) if any((folder / HELD_OUT).glob("*/*.wav")) else []
    return {f"{p.parent.name}/{p.name}": _right(head, embedder, p) for p in asked if p.parent.name in head.labels}


def _right(head: DetectionHead, embedder: Embedder, path: Path) -> bool:
    try:
        scores = head.scores(example_of_file(path, embedder).embeddings).mean(axis=0)
    except SilenceError:
        return False
    return head.labels[int(np.argmax(scores))] == path.parent.name


def main(arguments: list[str]) -> int:
    """Exit codes: 0 judged, whatever the verdict; 1 when a bundle cannot be opened at all."""
    parent, candidate, folder, settings = map(Path, arguments)
    try:
        policy = Policy.from_mapping(json.loads(settings.read_text(encoding="utf-8")))
        verdicts = judge(open_bundle(parent), open_bundle(candidate), folder, policy)
    except SoundkeepError as error:
        sys.stderr.write(f"gates: {error}\n")
        return error.exit_code
    out = Path(folder / "gates.json.tmp")
    out.write_text(json.dumps(verdicts, indent=1, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")
    out.replace(folder / "gates.json")
    for name, gate in verdicts["gates"].items():
        sys.stderr.write(f"{name}: {'passed' if gate['ok'] else 'FAILED'}: {gate['words']}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
