"""Students of a few thousand weights and sounds that never were: patterns on log-mels; a session takes a second."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.contracts.test_backbone import MAKERS
from trainer.backbones.backbone import Backbone
from trainer.backbones.log_mel import FrontEndSettings
from trainer.backbones.student import Student, StudentSettings
from trainer.pace.fitting import Lesson
from trainer.pace.settings import PaceSettings

SETTINGS = StudentSettings(
    FrontEndSettings(n_mels=16, window_length=4000), widths=(6, 6, 8, 12, 16), strides=(1, 2, 2, 2), dim=16
)
N_MELS, N_FRAMES = 16, 23
QUICK: dict[str, Any] = {
    "epochs": 4, "backbone_learning_rate": 0.05, "later_learning_rate": 0.05, "head_learning_rate": 0.1,
    "head_epochs": 5, "views": 4, "misread_share": 0.1, "rank": 4, "batch_size": 8, "adapted_sessions": 2,
}  # fmt: skip


def quick(**changes: Any) -> PaceSettings:
    """Settings under which a small student moves visibly in a second."""
    return PaceSettings(**{**QUICK, **changes})


def sounds(n_classes: int, n_each: int, *, first: int = 0, noise: float = 1.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features (n, 1, mels, frames) about each class's pattern, and targets from 0; class ``first`` is the first."""
    rng = np.random.default_rng(seed)
    parts = []
    for c in range(n_classes):
        pattern = np.random.default_rng(1000 + first + c).standard_normal((1, N_MELS, N_FRAMES))
        parts.append(pattern + noise * rng.standard_normal((n_each, 1, N_MELS, N_FRAMES)))
    features = torch.tensor(np.concatenate(parts), dtype=torch.float32)
    return features, torch.arange(n_classes).repeat_interleave(n_each)


def lesson(number: int = 1, *, n_classes: int = 3, n_each: int = 8, noise: float = 1.0, seed: int = 0) -> Lesson:
    """A session with classes of its own."""
    features, targets = sounds(n_classes, n_each, first=10 * number, noise=noise, seed=seed + number)
    return Lesson(number, features, targets, n_classes)


def student(seed: int = 0) -> Student:
    """A student whose norms have seen sounds, so that every block is awake; in evaluation mode."""
    torch.manual_seed(seed)
    model = Student(SETTINGS)
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None
    with torch.no_grad():
        model.train().encode(sounds(16, 8, first=500)[0])
    return model.eval()


def backbone_of(kind: str) -> Backbone:
    """A small backbone of a kind, with weights that are not as drawn."""
    if kind == "student":
        return student()
    torch.manual_seed(0)
    made = MAKERS[kind]()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return made.eval()


KINDS = ("student", "eat", "beats", "ast")


def features_of(backbone: Backbone, n: int = 4) -> Tensor:
    """Features of noises of several colours, as the backbone's front end gives them."""
    rng = np.random.default_rng(3)
    waves = rng.standard_normal((n, backbone.window_length)) * np.linspace(0.05, 0.3, n)[:, None]
    waves[:, 1:] += np.linspace(-0.9, 0.9, n)[:, None] * waves[:, :-1]
    with torch.no_grad():
        return backbone.features(torch.tensor(waves, dtype=torch.float32))


def bits(backbone: Backbone) -> dict[str, Tensor]:
    """Copies of every parameter and buffer."""
    return {name: value.detach().clone() for name, value in backbone.state_dict().items()}


def unchanged(backbone: Backbone, before: dict[str, Tensor]) -> bool:
    """Whether every bit is still as ``bits`` saw it."""
    return all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())


def ticking() -> Callable[[], float]:
    """A clock that moves a second each time it is read."""
    times = iter(range(10**9))
    return lambda: float(next(times))
