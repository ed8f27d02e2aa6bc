"""One adaptation from a folder of sounds to a checkpoint: sessions in order, interrupted and gone on with at will."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from trainer.adapting.files import FinishedSession, RunFiles
from trainer.adapting.training_log import TrainingLog
from trainer.analytic import AnalyticClassifier, AnalyticSettings
from trainer.backbones.backbone import Backbone
from trainer.datasets import Clip, is_held_out
from trainer.errors import TrainingError
from trainer.harness.material import Material
from trainer.harness.run import clip_scores
from trainer.pace.fitting import Fitting
from trainer.pace.memory import Say
from trainer.pace.settings import PaceSettings
from trainer.pace.stream import ClassStream
from trainer.parallel import World
from trainer.protocols import Session


@dataclass(frozen=True)
class Plan:
    """Which clips are learnt in which session and which are asked. asked: never learnt; may be empty."""

    sessions: tuple[Session, ...]
    asked: tuple[int, ...]


def plan_sessions(clips: Sequence[Clip], *, classes_per_session: int, seed: int, hear_all: bool = False) -> Plan:
    """Deal the classes of some clips into sessions, in an order drawn from ``seed``.

    Clips of the groups kept out (``trainer.datasets.is_held_out``) are asked and not learnt, but every class keeps at
    least one clip to learn from: a class whose clips are all kept out is learnt whole and not asked. hear_all: learn
    everything, ask nothing.
    """
    labels = sorted({clip.label for clip in clips})
    order = [labels[i] for i in np.random.default_rng(seed).permutation(len(labels))]
    kept_out = {i for i, clip in enumerate(clips) if not hear_all and is_held_out(clip)}
    learnable = {clip.label for i, clip in enumerate(clips) if i not in kept_out}
    asked = tuple(i for i in sorted(kept_out) if clips[i].label in learnable)
    learnt = [i for i in range(len(clips)) if i not in set(asked)]
    sessions = []
    for number, start in enumerate(range(0, len(order), classes_per_session), start=1):
        part = order[start : start + classes_per_session]
        sessions.append(Session(number, tuple(part), tuple(i for i in learnt if clips[i].label in part)))
    return Plan(tuple(sessions), asked)


@dataclass(frozen=True)
class AdaptResult:
    """What an adaptation measured. Accuracies are shares of 1 among the clips asked; None when none is.

    curve: after each session, over the classes seen, statistics as PACE has them. mixed: the last of it. recomputed:
    statistics computed anew under the final backbone, as a device has that learns with the exported bundle. frozen: the
    same without any adaptation. gap: recomputed - mixed.
    """

    curve: tuple[float | None, ...]
    mixed: float | None
    recomputed: float | None
    frozen: float | None
    gap: float | None
    figures: Mapping[str, Any]


class AdaptRun:
    """Adapts ``backbone`` to ``material``, session by session. ``stream`` holds what came of it.

    files, log: where it is kept; None in a process that only helps. stop: asked after every epoch.
    """

    def __init__(
        self,
        backbone: Backbone,
        material: Material,
        plan: Plan,
        pace: PaceSettings,
        analytic: AnalyticSettings,
        *,
        files: RunFiles,
        log: TrainingLog | None,
        world: World = World(),
        say: Say = lambda words: None,
        stop: Callable[[], bool] = lambda: False,
        on_epoch: Callable[[Fitting, Mapping[str, float]], None] = lambda fitting, terms: None,
    ) -> None:
        self.material, self.plan = material, plan
        self.stream = ClassStream(
            backbone, material.features, pace, analytic, name="adapt", clock=time.monotonic, world=world, say=say
        )
        self._base, self._analytic = backbone, analytic
        self._files, self._log, self._world, self._say = files, log, world, say
        self._stop, self._on_epoch = stop, on_epoch

    def run(self) -> AdaptResult:
        """Learn every session that is not finished yet. Raises TrainingError when stopped or when training fails."""
        curve: list[float | None] = []
        for session in self.plan.sessions:
            rows = self.material.rows(session.train)
            labels = self.material.labels_of_rows(rows)
            finished = self._files.session(session.number)
            if finished is None:
                finished = self._learn(session, rows, labels)
            else:
                self.stream.adaptation.take(
                    finished.adapter,
                    n_clips=finished.n_clips,
                    lowest_block=finished.report.lowest_block,
                )
                self.stream.adaptation.reports.append(finished.report)
                self.stream.take_in(rows, labels)
            curve.append(finished.figures.get("accuracy"))
        mixed = curve[-1] if curve else None
        recomputed = self._accuracy(self.stream.recomputed(), self.stream.embed)
        figures = {**self.stream.figures(), "reports": [asdict(r) for r in self.stream.adaptation.reports]}
        gap = recomputed - mixed if recomputed is not None and mixed is not None else None
        return AdaptResult(tuple(curve), mixed, recomputed, self._frozen_accuracy(), gap, figures)

    def _learn(self, session: Session, rows: NDArray[np.int64], labels: list[str]) -> FinishedSession:
        def after_epoch(fitting: Fitting, terms: dict[str, float]) -> None:
            if self._world.rank == 0:
                self._files.save_epoch(fitting)
                if self._log is not None:
                    self._log.add(session.number, fitting.stage.name, fitting.epoch, terms)
            self._on_epoch(fitting, terms)
            if float(self._world.sum(torch.tensor(float(self._stop()), device=fitting.device))):
                raise TrainingError(
                    f"stopped in session {session.number} after epoch {fitting.epoch}; the same command with --resume "
                    f"goes on from there"
                )

        n_before = len(self.stream.adaptation.adapters)
        report = self.stream.learn(
            session.number,
            rows,
            labels,
            n_clips=len(session.train),
            after_epoch=after_epoch,
            resume=self._put_forward,
        )
        adapters = self.stream.adaptation.adapters
        adapter = adapters[-1] if len(adapters) > n_before else None
        accuracy = self._accuracy(self.stream.classifier, self.stream.embed)
        finished = FinishedSession(report, len(session.train), adapter, {"accuracy": accuracy})
        if self._world.rank == 0:
            self._files.save_session(finished)
        told = "" if accuracy is None else f", {100.0 * accuracy:.1f} % of the clips asked so far"
        self._say(f"session {session.number} of {len(self.plan.sessions)}: {report.what}{told}")
        return finished

    def _put_forward(self, fitting: Fitting) -> None:
        """Only when every process is here has the first one tidied up what the last session kept."""
        self._world.sum(torch.zeros(1, device=fitting.device))
        self._files.put_forward(fitting)

    def _frozen_accuracy(self) -> float | None:
        """The same sessions without adaptation; nothing is computed when nothing was adapted."""
        if not self.stream.adaptation.adapters:
            return self._accuracy(self.stream.classifier, self.stream.embed)
        frozen = ClassStream(
            self._base,
            self.material.features,
            PaceSettings(first_session="none"),
            self._analytic,
            name="adapt, frozen",
            clock=time.monotonic,
            world=self._world,
        )
        for session in self.plan.sessions:
            rows = self.material.rows(session.train)
            frozen.take_in(rows, self.material.labels_of_rows(rows))
        return self._accuracy(frozen.classifier, frozen.embed)

    def _accuracy(
        self, classifier: AnalyticClassifier, embed: Callable[[NDArray[np.int64]], NDArray[np.float32]]
    ) -> float | None:
        known = set(classifier.statistics.labels)
        clips = [c for c in self.plan.asked if self.material.clips[c].label in known]
        if not clips:
            return None
        rows = self.material.rows(clips)
        labels, scores = classifier.scores(embed(rows))
        named = clip_scores(scores, self.material.clip[rows]).argmax(axis=1)
        return float(np.mean([labels[i] == self.material.clips[c].label for i, c in zip(named, clips, strict=True)]))
