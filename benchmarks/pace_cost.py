"""What PACE's first session and its exact classifier cost, and the identities that they rest on: rows for tables."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.machine import single_thread

single_thread()

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import nn  # noqa: E402

from benchmarks.turns import CLASSES, Bench, lesson_of, random_eat  # noqa: E402
from trainer.analytic import AnalyticClassifier, AnalyticSettings  # noqa: E402
from trainer.backbones.backbone import Backbone  # noqa: E402
from trainer.backbones.checkpoint import add_deltas  # noqa: E402
from trainer.backbones.eat import EatSettings  # noqa: E402
from trainer.pace.adaptation import block_similarities  # noqa: E402
from trainer.pace.boundary import BoundarySet, boundary_set  # noqa: E402
from trainer.pace.embedding import embed_features  # noqa: E402
from trainer.pace.fitting import Fitting, Lesson, Stage, torch_generator, warmed_head  # noqa: E402
from trainer.pace.lora import with_lora  # noqa: E402
from trainer.pace.settings import PaceSettings  # noqa: E402

RATE, TARGET = 1e-3, 2.5
Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class FirstSession:
    """Everything that an epoch of the first session starts from, and the seconds that it took, by part."""

    backbone: Backbone
    lesson: Lesson
    settings: PaceSettings
    head: nn.Linear
    boundary: BoundarySet
    seconds: Mapping[str, float]

    def fitting(self, lowest_block: int, *, naive: bool) -> Fitting:
        """An epoch of stage C with a frozen head, or of naive adaptation, which trains the head too."""
        s = self.settings
        blocks = range(lowest_block, len(self.backbone.blocks))
        live = with_lora(self.backbone, "measured", blocks, rank=s.rank, alpha=s.alpha, seed=s.seed)
        stage = Stage("measured", 1, 1, RATE, RATE)
        boundary = None if naive else self.boundary
        head = copy.deepcopy(self.head)
        return Fitting(live.model, head, self.lesson, stage, s, lora=live, train_head=naive, boundary=boundary)


def first_session(backbone: Backbone, n_windows: int, points: int, batch: int, bench: Bench) -> FirstSession:
    """Warm a head, find the boundary set, thinned to ``points``, and probe for one epoch; each is timed."""
    lesson = lesson_of(backbone, n_windows, bench.device)
    s = PaceSettings(batch_size=batch, precision=bench.precision, most_boundary_points=points)
    heads: list[nn.Linear] = []
    sets: list[BoundarySet] = []

    def find_set() -> None:
        generator = torch_generator([s.seed])
        sets.append(boundary_set(backbone, heads[0], lesson.features, lesson.targets, s, generator))

    seconds = {"head": bench.seconds(lambda: heads.append(warmed_head(backbone, lesson, s)))}
    seconds["boundary set"] = bench.seconds(find_set)
    found = FirstSession(backbone, lesson, s, heads[0], sets[0], seconds)
    probe = found.fitting(0, naive=True)
    assert probe.lora is not None
    seconds["probe, one epoch"] = bench.seconds(probe.run)
    model = probe.lora.model
    seconds["probe, CKA"] = bench.seconds(lambda: block_similarities(model, backbone, lesson.features))
    return found


def epoch_rows(name: str, session: FirstSession, bench: Bench) -> list[Row]:
    """Seconds of an epoch: naive, stage C from three quarters of the depth up, and stage C on all blocks."""
    depth = len(session.backbone.blocks)
    lowest = min(math.ceil(0.75 * depth), depth - 1)
    kinds = {"naive": (0, True), "PACE from 3/4 of the depth": (lowest, False), "PACE, all blocks": (0, False)}
    times, _ = bench.turns({kind: _again(session.fitting(low, naive=naive)) for kind, (low, naive) in kinds.items()})
    rows = []
    for kind, found in times.items():
        ratio = float(np.median(np.array(found) / times["naive"]))
        rows.append(
            {
                "backbone": name,
                "epoch of": kind,
                "LoRA on": f"{kinds[kind][0] + 1}-{depth}",
                "windows": len(session.lesson),
                "boundary points": 0 if kind == "naive" else len(session.boundary),
                "s an epoch": float(np.median(found)),
                "of naive": ratio,
                "at most 2.5": None if kind == "naive" else ratio <= TARGET,
            }
        )
    return rows


def _again(fitting: Fitting) -> Callable[[], None]:
    """One epoch more whenever it is called."""

    def epoch() -> None:
        fitting.epoch = 0
        fitting.run()

    return epoch


def once_row(name: str, session: FirstSession, naive_s: float) -> Row:
    """What a first session pays once, in seconds and in epochs of naive adaptation."""
    row: Row = {"backbone": name, "windows": len(session.lesson), "views": session.settings.views}
    row |= {f"{part} s": seconds for part, seconds in session.seconds.items()}
    return row | {"boundary set, naive epochs": session.seconds["boundary set"] / naive_s}


def identity_rows(settings: EatSettings, n_windows: int, lift_dim: int, bench: Bench) -> list[Row]:
    """Merged is live; the statistics of frozen embeddings do not know how sessions were cut; what they cost."""
    backbone = random_eat(settings, bench.device)
    lesson = lesson_of(backbone, n_windows, bench.device)
    live = with_lora(backbone, "live", range(len(backbone.blocks)), rank=8, alpha=8, seed=2)
    with torch.no_grad():
        for up in live.up.values():
            up.normal_(0.0, 0.02, generator=torch.Generator(up.device).manual_seed(3))
    merged = copy.deepcopy(backbone)
    add_deltas(merged, live.adapter().deltas())
    plain, alive, folded = (embed_features(m, lesson.features) for m in (backbone, live.model, merged))
    rows: list[Row] = [
        {"what": "LoRA merged against live, largest difference", "value": float((alive - folded).abs().max())},
        {"what": "the adapter itself, largest difference", "value": float((alive - plain).abs().max())},
    ]
    embeddings, labels = plain.numpy(), [f"class {int(t)}" for t in lesson.targets]
    by_class = sorted(range(n_windows), key=labels.__getitem__)
    at_once, in_sessions = (_classifier(backbone.dim, lift_dim, bench) for _ in range(2))
    together_s = bench.seconds(lambda: at_once.learn(embeddings, labels))
    for part in np.array_split(by_class, 2 * CLASSES):
        in_sessions.learn(embeddings[part], [labels[i] for i in part])
    same = at_once.statistics == in_sessions.statistics
    solve_s = bench.seconds(lambda: at_once.head)
    same_head = np.array_equal(at_once.head.weights, in_sessions.head.weights)
    one_s = [bench.seconds(lambda: in_sessions.learn(embeddings[:1], labels[:1])) for _ in range(3)]
    rows += [
        {"what": f"statistics of {lift_dim}, one session and {2 * CLASSES}: same bits", "value": same},
        {"what": "heads from them: same bits", "value": same_head},
        {"what": f"learning {n_windows} windows at once, ms a window", "value": 1e3 * together_s / n_windows},
        {"what": "learning one window alone, ms", "value": 1e3 * float(np.median(one_s))},
        {"what": f"one ridge solve of {lift_dim}, s", "value": solve_s},
        {"what": "bytes kept, MB", "value": at_once.memory_bytes / 1e6},
    ]
    return rows


def _classifier(dim: int, lift_dim: int, bench: Bench) -> AnalyticClassifier:
    return AnalyticClassifier(dim, settings=AnalyticSettings(lift_dim), space_name="measured", device=bench.device)
