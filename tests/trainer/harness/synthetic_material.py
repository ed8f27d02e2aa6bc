"""A backbone that costs nothing and counts its calls, and material that never was sound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trainer.backbones.backbone import Backbone
from trainer.datasets import Clip
from trainer.harness.embeddings import embeddings
from trainer.harness.material import Material
from trainer.harness.method import MethodContext
from trainer.harness.run import Run
from trainer.protocols import Course, make_course

DIM = 8
N_FEATURES = 6


class PlainBackbone(Backbone):
    """Features are 6 bands of the waveform, the embedding a linear map of them."""

    kind = "plain"
    EMBEDDINGS = ("mean",)
    lora_targets = ("0",)

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.sample_rate, self.window_length, self.embedding, self.dim = 16000, 1600, "mean", DIM
        generator = torch.Generator().manual_seed(seed)
        self.blocks = nn.ModuleList([nn.Linear(N_FEATURES, DIM)])
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
        self.n_encoded = 0
        self.n_heard = 0

    def features(self, waveform: Tensor) -> Tensor:
        self.n_heard += len(waveform)
        return waveform.reshape(len(waveform), N_FEATURES + 4, -1)[:, :N_FEATURES].square().mean(dim=2).sqrt()

    def tokens(self, features: Tensor) -> Tensor:
        self.n_encoded += len(features)
        block: Tensor = self.blocks[0](features)
        return block[:, None]

    def pool(self, tokens: Tensor) -> Tensor:
        return tokens[:, 0]

    def summary(self, block_output: Tensor) -> Tensor:
        return block_output

    def description(self) -> dict[str, Any]:
        return {"dim": DIM}

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> PlainBackbone:
        return cls()


def clips_of(n_classes: int, n_groups: int = 5, n_each: int = 2) -> tuple[Clip, ...]:
    return tuple(
        Clip(Path(f"c{label}/{group}-{n}.wav"), "made", f"c{label}", str(group))
        for label in range(n_classes)
        for group in range(1, n_groups + 1)
        for n in range(n_each)
    )


def material_of(clips: Sequence[Clip], *, spread: float = 0.3, seed: int = 0) -> Material:
    """One to three windows of each clip about its class's point."""
    rng = np.random.default_rng(seed)
    labels = sorted({clip.label for clip in clips})
    centres = {label: rng.standard_normal(N_FEATURES) for label in labels}
    counts = rng.integers(1, 4, len(clips))
    rows = [
        centres[clip.label] + spread * rng.standard_normal(N_FEATURES)
        for clip, n in zip(clips, counts, strict=True)
        for _ in range(n)
    ]
    places = np.repeat(np.arange(len(clips), dtype=np.int64), counts)
    return Material(tuple(clips), torch.tensor(np.array(rows), dtype=torch.float32), places)


def context_of(
    material: Material,
    course: Course,
    *,
    settings: Mapping[str, str] | None = None,
    seed: int = 0,
    values: NDArray[np.float32] | None = None,
) -> MethodContext:
    backbone = PlainBackbone().eval()
    own = embeddings(backbone, material, None) if values is None else values
    return MethodContext(backbone, material, lambda: own, course, seed, Path("unused"), 1, settings or {})


def course_of(material: Material, *, order_seed: int = 1993, classes_per_session: int = 2) -> Course:
    return make_course(material.clips, split="group", order_seed=order_seed, classes_per_session=classes_per_session)


def run_of(
    accuracy: Sequence[Sequence[float | None]],
    *,
    method: str = "m",
    order_seed: int = 1993,
    correct: str = "1",
    overall: Sequence[float | None] | None = None,
    memory_bytes: int = 100,
) -> Run:
    """A run with a given matrix; overall: its mean of each row when not given."""
    means = [float(np.mean([v for v in row if v is not None])) for row in accuracy]
    n = len(accuracy)
    return Run(
        method,
        order_seed,
        "group",
        tuple(tuple(row) for row in accuracy),
        tuple(means if overall is None else overall),
        (1,) * n,
        correct,
        (0.5,) * n,
        0.25,
        1000,
        None,
        {"memory_bytes": memory_bytes},
    )
