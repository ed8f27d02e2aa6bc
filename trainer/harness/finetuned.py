"""Training the usual way: LoRA with a softmax head, session after session or on everything, and FiLM in the first."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from trainer.analytic import AnalyticClassifier, AnalyticSettings
from trainer.backbones.backbone import Backbone
from trainer.backbones.checkpoint import add_deltas
from trainer.harness.method import MethodContext
from trainer.harness.settings import keys_of, settings_from
from trainer.pace.embedding import embed_features
from trainer.pace.fitting import Fitting, Lesson, Stage, torch_generator
from trainer.pace.lora import with_lora
from trainer.pace.settings import PaceSettings
from trainer.protocols import Session

NORMS = (nn.LayerNorm, nn.BatchNorm1d, nn.BatchNorm2d)


def _settings(context: MethodContext) -> PaceSettings:
    words = {k: v for k, v in context.settings.items() if k in keys_of(PaceSettings)}
    return settings_from(PaceSettings, words, {"seed": context.seed, "boundary_weight": 0.0})


class _Softmax:
    """A linear head that grows by the classes of each session, and the backbone below it."""

    def __init__(self, name: str, context: MethodContext) -> None:
        self.name = name
        self.context, self.settings = context, _settings(context)
        self.backbone: Backbone = copy.deepcopy(context.backbone).requires_grad_(False).eval()
        self.labels: list[str] = []
        self.head = _head_without_classes(self.backbone.dim)
        self.seconds = 0.0

    def train(self, number: int, rows: NDArray[np.int64]) -> None:
        """LoRA on all blocks and the whole head, with cross-entropy over every class seen so far; then merge."""
        names = self.context.material.labels_of_rows(rows)
        self._grow(sorted(set(names)), number)
        if len(rows) == 0 or len(self.labels) < 2:
            return
        started, s = time.perf_counter(), self.settings
        place = {label: i for i, label in enumerate(self.labels)}
        targets = torch.tensor([place[name] for name in names], dtype=torch.int64)
        lesson = Lesson(number, self.context.material.features[torch.from_numpy(rows)], targets, len(self.labels))
        seed = torch_generator([s.seed, number, 5]).initial_seed()
        blocks = range(len(self.backbone.blocks))
        lora = with_lora(self.backbone, f"s{number}", blocks, rank=s.rank, alpha=s.alpha, seed=seed, targets=s.targets)
        stage = Stage(self.name, number, s.epochs, s.backbone_learning_rate, s.head_learning_rate)
        Fitting(lora.model, self.head, lesson, stage, s, lora=lora).run()
        add_deltas(self.backbone, lora.adapter().deltas())
        self.seconds += time.perf_counter() - started

    def scores(self, rows: NDArray[np.int64]) -> tuple[tuple[str, ...], NDArray[np.float64]]:
        z = embed_features(self.backbone, self.context.material.features[torch.from_numpy(rows)])
        with torch.no_grad():
            return tuple(self.labels), self.head.cpu()(z).log_softmax(dim=1).double().numpy()

    def figures(self) -> dict[str, Any]:
        return {
            "memory_bytes": sum(p.numel() * p.element_size() for p in self.head.parameters()),
            "adaptation_seconds": {"backbone": round(self.seconds, 2)},
        }

    def _grow(self, names: list[str], number: int) -> None:
        new = [name for name in names if name not in self.labels]
        self.labels += new
        if not self.labels:
            return
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch_generator([self.settings.seed, number, 6]).initial_seed())
            wider = nn.Linear(self.backbone.dim, len(self.labels))
        with torch.no_grad():
            wider.weight[: len(self.head.weight)] = self.head.weight.cpu()
            wider.bias[: len(self.head.bias)] = self.head.bias.cpu()
        self.head = wider.to(next(self.backbone.parameters()).device)


def _head_without_classes(dim: int) -> nn.Linear:
    """torch warns when it draws the weights of one."""
    head = nn.Linear(dim, 1, device="meta")
    head.weight, head.bias = nn.Parameter(torch.zeros(0, dim)), nn.Parameter(torch.zeros(0))
    return head


class Sequential(_Softmax):
    """Fine-tuning in sequence: the backbone and one softmax head learn each session in turn, and forget."""

    def learn(self, session: Session) -> None:
        self.train(session.number, self.context.material.rows(session.train))


class Joint(_Softmax):
    """The upper bound: LoRA on everything at once. It is trained after the last session and asked only then."""

    def __init__(self, name: str, context: MethodContext) -> None:
        super().__init__(name, context)
        self._clips: list[int] = []

    def learn(self, session: Session) -> None:
        self._clips += session.train
        if session.number == self.context.course.sessions[-1].number:
            self.train(session.number, self.context.material.rows(self._clips))

    def scores(self, rows: NDArray[np.int64]) -> tuple[tuple[str, ...], NDArray[np.float64]]:
        return super().scores(rows) if self.labels else ((), np.zeros((len(rows), 0)))


class Film:
    """LDA on a backbone whose normalisations learnt scale and shift in the first session (FiLM).

    Source: Panos et al. 2023, First Session Adaptation: body frozen but for gamma and beta, linear head thrown away.
    """

    def __init__(self, name: str, context: MethodContext) -> None:
        self.name = name
        self.context, self.settings = context, _settings(context)
        self.backbone: Backbone = copy.deepcopy(context.backbone).requires_grad_(False).eval()
        words = {k: v for k, v in context.settings.items() if k in keys_of(AnalyticSettings)}
        defaults: Mapping[str, Any] = {"lift_dim": None, "read_out": "lda", "ridge": 256.0}
        analytic = settings_from(AnalyticSettings, words, defaults)
        self.classifier = AnalyticClassifier(self.backbone.dim, settings=analytic, space_name="film")
        self.seconds = 0.0

    def learn(self, session: Session) -> None:
        material = self.context.material
        rows = material.rows(session.train)
        names = material.labels_of_rows(rows)
        if session.number == self.context.course.sessions[0].number and len(set(names)) > 1:
            self._modulate(session.number, rows, names)
        if len(rows):
            z = embed_features(self.backbone, material.features[torch.from_numpy(rows)])
            self.classifier.learn(z.numpy(), names)

    def scores(self, rows: NDArray[np.int64]) -> tuple[tuple[str, ...], NDArray[np.float64]]:
        z = embed_features(self.backbone, self.context.material.features[torch.from_numpy(rows)])
        return self.classifier.scores(z.numpy())

    def figures(self) -> dict[str, Any]:
        return {
            "memory_bytes": self.classifier.memory_bytes,
            "adaptation_seconds": {"backbone": round(self.seconds, 2)},
        }

    def _modulate(self, number: int, rows: NDArray[np.int64], names: list[str]) -> None:
        started, s = time.perf_counter(), self.settings
        norms = [m for m in self.backbone.modules() if isinstance(m, NORMS) and m.weight is not None]
        parameters = [p for m in norms for p in m.parameters()]
        for p in parameters:
            p.requires_grad_(True)
        labels = sorted(set(names))
        targets = torch.tensor([labels.index(name) for name in names], dtype=torch.int64)
        lesson = Lesson(number, self.context.material.features[torch.from_numpy(rows)], targets, len(labels))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch_generator([s.seed, number, 7]).initial_seed())
            head = nn.Linear(self.backbone.dim, len(labels)).to(next(self.backbone.parameters()).device)
        stage = Stage("film", number, s.epochs, s.backbone_learning_rate, s.head_learning_rate)
        Fitting(self.backbone, head, lesson, stage, s, parameters=parameters).run()
        self.backbone.requires_grad_(False)
        self.seconds += time.perf_counter() - started


def sequential_method(context: MethodContext) -> Sequential:
    """Fine-tuning in sequence."""
    return Sequential("sequential", context)


def joint_method(context: MethodContext) -> Joint:
    """Joint LoRA training."""
    return Joint("joint", context)


def film_method(context: MethodContext) -> Film:
    """FiLM in the first session, LDA from then on."""
    return Film("film-lda", context)
