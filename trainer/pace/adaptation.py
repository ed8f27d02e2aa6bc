"""A backbone that may change in the first sessions of a stream: FSA in the first, MSA up to T3, frozen from then on."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from trainer.backbones.backbone import Backbone, block_outputs
from trainer.backbones.checkpoint import Adapter, add_deltas
from trainer.pace.boundary import BoundarySet, boundary_set
from trainer.pace.cka import boundary_block, linear_cka
from trainer.pace.embedding import LARGEST_BATCH
from trainer.pace.fitting import Fitting, Lesson, Stage, torch_generator, warmed_head
from trainer.pace.lora import LiveLora, with_lora
from trainer.pace.memory import Say, in_smaller_batches
from trainer.pace.settings import PaceSettings
from trainer.pace.subspace import UpdateProjection, leading_subspace, uncentred_covariances
from trainer.parallel import World

AfterEpoch = Callable[[Fitting, dict[str, float]], None]


@dataclass(frozen=True)
class SessionReport:
    """What one session did to the backbone. what: ``first``, ``later``, ``frozen`` or why nothing was done.

    lowest_block: of those adapted, from 0. similarities: CKA of each block after the probe. boundary_points: |B_t|.
    subspace: (k, fan_in) of each adapted module. seconds: of each part, by name.
    """

    session: int
    what: str
    lowest_block: int | None = None
    similarities: tuple[float, ...] = ()
    boundary_points: int = 0
    subspace: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)


class Adaptation:
    """The mutable backbone of one stream. ``current`` is f_t; ``base`` is f_0 and never changes.

    clock: monotonic seconds. Source: PACE (see ``trainer.pace.settings`` for what is ours).
    """

    def __init__(
        self,
        base: Backbone,
        settings: PaceSettings,
        *,
        clock: Callable[[], float],
        world: World = World(),
        say: Say = lambda words: None,
    ) -> None:
        self.base = base
        self.current = copy.deepcopy(base).requires_grad_(False).eval()
        self.settings = settings
        self.adapters: list[Adapter] = []
        self.reports: list[SessionReport] = []
        self.lowest_block: int | None = None
        self.n_clips_seen = self._n_adapted = 0
        self._world, self._say, self._clock = world, say, clock
        self._stopped = settings.first_session == "none" or settings.adapted_sessions == 0

    @property
    def frozen(self) -> bool:
        """Whether no later session will change the backbone."""
        return self._stopped

    def learn(
        self,
        lesson: Lesson,
        *,
        n_clips: int,
        after_epoch: AfterEpoch = lambda fitting, terms: None,
        resume: Callable[[Fitting], None] = lambda fitting: None,
    ) -> SessionReport:
        """Adapt to one session, or leave the backbone as it is, and say which.

        n_clips: of the session; the stop rule counts them. resume: may put the training of this session forward.
        """
        report = self._learn(lesson, after_epoch, resume)
        self._count(n_clips, adapted=report.what in ("first", "later"))
        self.reports.append(report)
        return report

    def take(self, adapter: Adapter | None, *, n_clips: int, lowest_block: int | None) -> None:
        """Take up a session that an interrupted run had finished."""
        if adapter is not None:
            self._merge(adapter)
        self.lowest_block = lowest_block
        self._count(n_clips, adapted=adapter is not None)

    def _count(self, n_clips: int, *, adapted: bool) -> None:
        """The stop rule. Source: PACE, T3 = first session with more than N_stop training samples seen.

        Where T3 is a setting, sessions that gave nothing to adapt to (empty, one class) do not count.
        """
        self.n_clips_seen += n_clips
        self._n_adapted += adapted
        last = self.settings.adapted_sessions
        if self._n_adapted >= last if last is not None else self.n_clips_seen > self.settings.stop_samples:
            self._stopped = True

    def _learn(self, lesson: Lesson, after_epoch: AfterEpoch, resume: Callable[[Fitting], None]) -> SessionReport:
        number = lesson.number
        if self._stopped:
            return SessionReport(number, "frozen", self.lowest_block)
        if len(lesson) == 0:
            self._say(f"session {number} has no clips; the backbone stays as it is")
            return SessionReport(number, "empty", self.lowest_block)
        if lesson.n_classes < 2:
            self._say(
                f"session {number} has one class, which no classifier can be trained on; the backbone stays as it is"
            )
            return SessionReport(number, "one class", self.lowest_block)
        parts = _Stopwatch(self._clock)
        first = self.lowest_block is None
        similarities: tuple[float, ...] = ()
        if first:
            with parts("probe"):
                similarities = self._find_boundary(lesson)
        assert self.lowest_block is not None
        naive = first and self.settings.first_session == "naive"
        with parts("head"):
            head = warmed_head(self.current, lesson, self.settings, world=self._world, say=self._say)
        boundary = None
        if self.settings.boundary_weight > 0.0 and not naive:
            with parts("boundary set"):
                boundary = self._boundary(lesson, head)
        lora = self._lora(number)
        projection = None
        if not first and self.settings.projection != "none":
            with parts("subspace"):
                projection = self._projection(lesson, lora)
        s = self.settings
        head_rate = s.backbone_learning_rate if naive else 0.0
        rate = s.backbone_learning_rate if first else s.later_learning_rate
        stage = Stage("backbone", number, s.epochs, rate, head_rate)
        fitting = Fitting(
            lora.model, head, lesson, stage, s,
            lora=lora, train_head=naive, projection=projection, boundary=boundary, world=self._world, say=self._say,
        )  # fmt: skip
        resume(fitting)
        with parts("backbone"):
            fitting.run(after_epoch)
        self._merge(lora.adapter())
        return SessionReport(
            number,
            "first" if first else "later",
            self.lowest_block,
            similarities,
            0 if boundary is None else len(boundary),
            {} if projection is None else projection.ranks,
            parts.seconds,
        )

    def _find_boundary(self, lesson: Lesson) -> tuple[float, ...]:
        """Stage A: adapt a copy with LoRA on all blocks, compare each block's output with the untouched backbone's."""
        s = self.settings
        if s.first_session == "naive" or s.cka_threshold is None:
            self.lowest_block = 0
            return ()
        probe = self._fresh_lora("probe", range(len(self.current.blocks)))
        head = warmed_head(self.current, lesson, s, world=self._world, say=self._say)
        epochs = s.epochs if s.probe_epochs is None else s.probe_epochs
        stage = Stage("probe", lesson.number, epochs, s.backbone_learning_rate, s.backbone_learning_rate)
        Fitting(probe.model, head, lesson, stage, s, lora=probe, world=self._world, say=self._say).run()
        similarities = in_smaller_batches(
            lambda size: block_similarities(probe.model, self.current, lesson.features, batch_size=size),
            LARGEST_BATCH,
            self._say,
        )
        self.lowest_block = self._world.first(boundary_block(similarities, s.cka_threshold))
        told = ", ".join(f"{value:.3f}" for value in similarities)
        self._say(f"CKA of the blocks after the probe: {told}; blocks from {self.lowest_block + 1} on are adapted")
        return similarities

    def _boundary(self, lesson: Lesson, head: torch.nn.Linear) -> BoundarySet:
        seeds = [self.settings.seed, lesson.number, 77]
        found = in_smaller_batches(
            lambda size: boundary_set(
                self.current,
                head,
                lesson.features,
                lesson.targets,
                self.settings,
                torch_generator(seeds),
                batch_size=size,
            ),
            LARGEST_BATCH,
            self._say,
        )
        if len(found) == 0:
            self._say(f"session {lesson.number}: no sample is boundary-prone; the boundary loss is 0")
        return found

    def _lora(self, number: int) -> LiveLora:
        assert self.lowest_block is not None
        return self._fresh_lora(f"session{number}", range(self.lowest_block, len(self.current.blocks)))

    def _fresh_lora(self, name: str, blocks: range) -> LiveLora:
        s = self.settings
        seed = torch_generator([s.seed, *name.encode()]).initial_seed() % 2**63
        return with_lora(self.current, name, blocks, rank=s.rank, alpha=s.alpha, seed=seed, targets=s.targets)

    def _projection(self, lesson: Lesson, lora: LiveLora) -> UpdateProjection:
        """Covariances of the current session's layer inputs under the unlearned model, and the projection from them."""
        s = self.settings
        n = min(len(lesson), s.covariance_windows)
        rows = torch.linspace(0, len(lesson) - 1, n).round().long()
        names = list(lora.down)
        with unlearned(self.current, self.adapters if s.subtraction else []) as model:
            covariances = in_smaller_batches(
                lambda size: uncentred_covariances(model, names, lesson.features[rows], batch_size=size),
                LARGEST_BATCH,
                self._say,
            )
        bases = {name: leading_subspace(c, s.kept_share).float() for name, c in covariances.items()}
        projection = UpdateProjection(bases, s.projection, s.project_up)
        if s.project_initial:
            projection.start(lora)
        return projection

    def _merge(self, adapter: Adapter) -> None:
        add_deltas(self.current, adapter.deltas())
        self.adapters.append(adapter)


@contextmanager
def unlearned(current: Backbone, adapters: list[Adapter]) -> Iterator[Backbone]:
    """The model W0 - sum of the adapters' B A, from one that is W0 + that sum; every weight comes back bit for bit.

    Source: Liu and Chang 2025 (LoRA subtraction), as in PACE.
    """
    names = {f"{name}.weight" for adapter in adapters for name in adapter.down}
    kept: dict[str, Tensor] = {name: current.get_parameter(name).detach().clone() for name in names}
    try:
        for adapter in adapters:
            add_deltas(current, adapter.deltas(), -2.0)
        yield current
    finally:
        with torch.no_grad():
            for name, weight in kept.items():
                current.get_parameter(name).copy_(weight)


def block_similarities(one: Backbone, other: Backbone, features: Tensor, *, batch_size: int = 64) -> tuple[float, ...]:
    """Linear CKA of each block's output between two backbones of the same shape, on features (n, ...)."""
    device = next(one.parameters()).device

    def outputs(model: Backbone) -> list[Tensor]:
        parts = [
            [z.float().cpu() for z in block_outputs(model, features[i : i + batch_size].to(device).float())]
            for i in range(0, len(features), batch_size)
        ]
        return [torch.cat(blocks) for blocks in zip(*parts, strict=True)]

    return tuple(linear_cka(x, y) for x, y in zip(outputs(one), outputs(other), strict=True))


class _Stopwatch:
    """Seconds of named parts."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.seconds: dict[str, float] = {}
        self._clock = clock

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = self._clock()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + self._clock() - start
