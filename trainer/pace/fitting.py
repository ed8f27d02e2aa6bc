"""Gradient descent on one session: a head, an adapter, or both, in epochs that can be interrupted and repeated."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn

from trainer.backbones.backbone import Backbone
from trainer.errors import TrainingError
from trainer.pace.boundary import BoundarySet, Landmarks, axes_of, boundary_loss, in_precision, landmarks, masks_for
from trainer.pace.embedding import LARGEST_BATCH, embed_features
from trainer.pace.lora import LiveLora
from trainer.pace.masking import masked
from trainer.pace.memory import Say, halved, in_smaller_batches
from trainer.pace.settings import PaceSettings
from trainer.pace.subspace import UpdateProjection
from trainer.parallel import World


class Embedded:
    """Stands where a backbone does when the samples are embeddings already."""

    def encode(self, features: Tensor) -> Tensor:
        return features


@dataclass(frozen=True, eq=False)
class Lesson:
    """The samples of one session. features: (n, ...) of the front end. targets: (n,) int64, 0 .. n_classes - 1."""

    number: int
    features: Tensor
    targets: Tensor
    n_classes: int

    def __len__(self) -> int:
        return len(self.targets)


@dataclass(frozen=True)
class Stage:
    """What is trained, in which order of chance. name: told in errors and logs. epochs, and the two learning rates."""

    name: str
    session: int
    epochs: int
    backbone_learning_rate: float
    head_learning_rate: float

    def seeds(self, base: int, epoch: int) -> list[int]:
        """Entropy of everything drawn in one epoch: the same whether or not the run was interrupted before it."""
        return [base, self.session, *self.name.encode(), epoch]


def torch_generator(seeds: Sequence[int]) -> Generator:
    """A generator on the CPU from several numbers."""
    return Generator().manual_seed(int(np.random.SeedSequence(list(seeds)).generate_state(1, np.uint64)[0] >> 1))


@dataclass(eq=False)
class Fitting:
    """The mutable state of one stage: model, head, optimiser and how many epochs are behind.

    head: linear, from embedding to classes. lora: what is trained in the backbone, None to train the head alone.
    parameters: others than LoRA's to train in the backbone (FiLM). train_head: whether the head moves.
    projection: applied to every update of LoRA. boundary: the boundary set; None leaves the boundary loss out.
    """

    model: Backbone | Embedded
    head: nn.Linear
    lesson: Lesson
    stage: Stage
    settings: PaceSettings
    lora: LiveLora | None = None
    parameters: Sequence[nn.Parameter] = ()
    train_head: bool = True
    projection: UpdateProjection | None = None
    boundary: BoundarySet | None = None
    world: World = field(default_factory=World)
    say: Say = lambda words: None
    epoch: int = 0
    micro_batch: int = field(init=False)

    def __post_init__(self) -> None:
        s = self.settings
        self.micro_batch = min(s.micro_batch or s.batch_size, max(1, len(self.lesson)))
        self.device = self.head.weight.device
        trained = [*(self.lora.parameters() if self.lora else []), *self.parameters]
        groups: list[dict[str, Any]] = []
        if trained:
            groups.append({"params": trained, "lr": self.stage.backbone_learning_rate})
        if self.train_head:
            groups.append({"params": list(self.head.parameters()), "lr": self.stage.head_learning_rate})
        self.head.requires_grad_(self.train_head)
        self.optimizer = torch.optim.SGD(groups, momentum=s.momentum, weight_decay=s.weight_decay)
        self._peaks = [group["lr"] for group in groups]
        self.trained = [p for group in groups for p in group["params"]]

    def run(self, after_epoch: Callable[[Fitting, dict[str, float]], None] = lambda fitting, terms: None) -> None:
        """Train the epochs that are left; ``after_epoch`` gets the means of the loss's terms.

        Raises TrainingError when the loss or a gradient is not finite, or when not even one sample fits into memory.
        """
        if not self.trained or len(self.lesson) == 0:
            return
        while self.epoch < self.stage.epochs:
            terms = self._one_epoch()
            self.epoch += 1
            after_epoch(self, terms)

    def _one_epoch(self) -> dict[str, float]:
        n, s = len(self.lesson), self.settings
        rng = np.random.default_rng(self.stage.seeds(s.seed, self.epoch))
        order = torch.from_numpy(rng.permutation(n))
        marks = None
        if self.boundary is not None and len(self.boundary):
            assert isinstance(self.model, Backbone), "masked copies need features, not embeddings"
            model, boundary, lesson = self.model, self.boundary, self.lesson
            marks = in_smaller_batches(
                lambda size: landmarks(
                    model,
                    lesson.features,
                    lesson.targets,
                    lesson.n_classes,
                    boundary,
                    batch_size=size,
                    precision=s.precision,
                ),
                LARGEST_BATCH,
                self.say,
            )
        per_epoch = math.ceil(n / s.batch_size)
        sums: dict[str, float] = {}
        for i in range(per_epoch):
            rows = order[i * s.batch_size : (i + 1) * s.batch_size]
            progress = (self.epoch * per_epoch + i) / (self.stage.epochs * per_epoch)
            for group, peak in zip(self.optimizer.param_groups, self._peaks, strict=True):
                group["lr"] = peak * 0.5 * (1.0 + math.cos(math.pi * progress))
            for key, value in self._update(rows, marks, [*self.stage.seeds(s.seed, self.epoch), i]).items():
                sums[key] = sums.get(key, 0.0) + value * len(rows)
        return {key: value / n for key, value in sums.items()}

    def _update(self, rows: Tensor, marks: Landmarks | None, seeds: Sequence[int]) -> dict[str, float]:
        while True:
            try:
                totals = self._accumulate(rows, marks, seeds)
            except RuntimeError as error:
                self.micro_batch = halved(self.micro_batch, error, self.say)
            else:
                return self._step(totals, len(rows))

    def _accumulate(self, rows: Tensor, marks: Landmarks | None, seeds: Sequence[int]) -> Tensor:
        """Gradients of this process's share of a batch; what ``_loss`` read, summed. May be repeated."""
        self.optimizer.zero_grad(set_to_none=True)
        totals = torch.zeros(3, dtype=torch.float64, device=self.device)
        views = self._views_of(rows, seeds) if marks is not None else None
        for part in self._micro_batches(len(rows)):
            loss, reading = self._loss(rows[part], marks, None if views is None else views[part])
            torch.autograd.backward(loss / len(rows))
            totals += reading
        return totals

    def _step(self, totals: Tensor, n: int) -> dict[str, float]:
        """Sum gradients over the processes, make one update, tell the means over the n samples of the batch."""
        for parameter in self.trained:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            self.world.sum(parameter.grad)
        self.world.sum(totals)
        norm = nn.utils.clip_grad_norm_(self.trained, self.settings.max_gradient_norm)
        *sums, size = torch.cat([totals, norm.double().reshape(1)]).tolist()  # the only wait for the device in a step
        if not all(map(math.isfinite, (*sums, size))):
            raise TrainingError(
                f"the loss or its gradient is not finite in session {self.stage.session}, {self.stage.name}, epoch "
                f"{self.epoch + 1} (loss {sums[0] / n:.4g}, gradient {size:.4g}); begin again with a lower "
                f"learning rate, in a folder of its own"
            )
        before = [p.detach().clone() for p in self.lora.parameters()] if self.lora and self.projection else []
        self.optimizer.step()
        if self.lora and self.projection:
            self.projection.step(self.lora, before)
        names = ("cross_entropy", "boundary_loss", "accuracy")
        return {name: value / n for name, value in zip(names, sums, strict=True)}

    def _views_of(self, rows: Tensor, seeds: Sequence[int]) -> Tensor:
        """Masked copies of the batch, (n, v, ...), drawn for the whole batch whatever its division."""
        assert isinstance(self.model, Backbone)
        features = self.lesson.features[rows].float()
        generator = torch_generator(seeds)
        copies = []
        for _ in range(self.settings.step_views):
            masks = masks_for(self.model, features, len(rows), self.settings, generator)
            copies.append(masked(features, masks, axes_of(self.model)))
        return torch.stack(copies, dim=1)

    def _micro_batches(self, n: int) -> Iterator[slice]:
        pieces = [slice(start, min(start + self.micro_batch, n)) for start in range(0, n, self.micro_batch)]
        if self.world.size == 1:
            yield from pieces
            return
        share = math.ceil(n / self.world.size)
        first, last = self.world.rank * share, min(n, (self.world.rank + 1) * share)
        yield from (slice(i, min(i + self.micro_batch, last)) for i in range(first, last, self.micro_batch))

    def _loss(self, rows: Tensor, marks: Landmarks | None, views: Tensor | None) -> tuple[Tensor, Tensor]:
        """Summed loss of some samples, and (cross-entropy, boundary loss, hits) summed, float64."""
        s = self.settings
        x, targets = self.lesson.features[rows].to(self.device).float(), self.lesson.targets[rows].to(self.device)
        with in_precision(self.device, s.precision):
            if views is None:
                z = self.model.encode(x)
            else:
                both = self.model.encode(torch.cat([x, views.to(self.device).flatten(0, 1)]))
                z, seen = both[: len(x)], both[len(x) :].unflatten(0, views.shape[:2])
        logits = self.head(z.float())
        each = nn.functional.cross_entropy(logits, targets, reduction="none", label_smoothing=s.label_smoothing)
        regular = torch.zeros_like(each)
        if views is not None and marks is not None:
            regular = boundary_loss(z.float(), seen.float(), targets, rows.to(self.device), marks, s.margin)
        hits = (logits.argmax(dim=1) == targets).double()
        total = (each + s.boundary_weight * regular).sum()
        reading = torch.stack([each.detach().double().sum(), regular.detach().double().sum(), hits.sum()])
        return total, reading

    def state(self) -> dict[str, Tensor]:
        """Everything that going on after the last finished epoch needs: parameters and momentum, on the CPU."""
        found = {f"parameter.{i}": p.detach().cpu().clone() for i, p in enumerate(self.trained)}
        for i, p in enumerate(self.trained):
            momentum = self.optimizer.state[p].get("momentum_buffer") if p in self.optimizer.state else None
            if momentum is not None:
                found[f"momentum.{i}"] = momentum.detach().cpu().clone()
        return found

    def restore(self, tensors: dict[str, Tensor], epoch: int) -> None:
        """Take up what ``state`` gave after ``epoch`` epochs. Raises TrainingError when it is of another stage."""
        shapes = [tuple(p.shape) for p in self.trained]
        n_saved = sum(name.startswith("parameter.") for name in tensors)
        found = [tuple(tensors[f"parameter.{i}"].shape) for i in range(n_saved) if f"parameter.{i}" in tensors]
        if found != shapes:
            raise TrainingError("the saved state is of other parameters; repeat the options the run was begun with")
        with torch.no_grad():
            for i, p in enumerate(self.trained):
                p.copy_(tensors[f"parameter.{i}"])
                if f"momentum.{i}" in tensors:
                    self.optimizer.state[p]["momentum_buffer"] = tensors[f"momentum.{i}"].to(p).clone()
        self.epoch = epoch


def warmed_head(
    model: Backbone,
    lesson: Lesson,
    settings: PaceSettings,
    *,
    world: World = World(),
    say: Say = lambda words: None,
) -> nn.Linear:
    """Stage B: a linear head trained alone for ``head_epochs`` on the frozen ``model``. Embeds every sample once.

    The head starts as torch draws it: from zero, so few steps leave it too small for the frozen head of stage C to
    teach the backbone anything. Source: PACE, stage B.
    """
    device = next(model.parameters()).device
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_generator([settings.seed, lesson.number, 11]).initial_seed())
        head = nn.Linear(model.dim, lesson.n_classes).to(device)
    embeddings = embed_features(model, lesson.features, world=world, say=say)
    embedded = Lesson(lesson.number, embeddings, lesson.targets, lesson.n_classes)
    stage = Stage("head", lesson.number, settings.head_epochs, 0.0, settings.head_learning_rate)
    Fitting(Embedded(), head, embedded, stage, settings, world=world, say=say).run()
    return head.requires_grad_(False)
