"""Work that one process or several do together, to be compared: ``python -m tests.trainer.pace.shared_work FOLDER``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.trainer.pace.small_lessons import lesson, quick, student, ticking
from trainer.analytic import AnalyticClassifier, AnalyticSettings
from trainer.pace.adaptation import Adaptation
from trainer.pace.boundary import boundary_set
from trainer.pace.embedding import embed_features
from trainer.pace.fitting import Fitting, Stage, torch_generator, warmed_head
from trainer.pace.lora import with_lora
from trainer.parallel import World, joined_world


def work(world: World) -> dict[str, Any]:
    """Numbers of a fitting with the boundary loss, of embeddings, of statistics and of two adapted sessions."""
    found: dict[str, Any] = {"world": np.array([world.rank, world.size])}
    model, one = student(), lesson(1, n_classes=3, n_each=7)
    settings = quick(epochs=2, misread_share=0.0)
    head = warmed_head(model, one, settings, world=world)
    boundary = boundary_set(model, head, one.features, one.targets, settings, torch_generator([1]))
    lora = with_lora(model, "s", [2, 3], rank=2, alpha=2, seed=1)
    said: list[float] = []
    fitting = Fitting(
        lora.model, head, one, Stage("backbone", 1, 2, 0.05, 0.0), settings,
        lora=lora, train_head=False, boundary=boundary, world=world,
    )  # fmt: skip
    fitting.run(lambda fitting, terms: said.extend(terms.values()))
    found["head"] = head.weight.detach().numpy()
    found["terms"] = np.array(said)
    found["fitted"] = np.concatenate([p.detach().numpy().ravel() for p in lora.parameters()])
    found["gradient"] = np.concatenate([p.grad.numpy().ravel() for p in fitting.trained if p.grad is not None])
    found["n_boundary"] = np.array([len(boundary)])

    embeddings = embed_features(model, one.features, 4, world).numpy()
    found["embeddings"] = embeddings
    classifier = AnalyticClassifier(16, settings=AnalyticSettings(64), space_name="shared")
    labels = ["only one"] + [f"c{int(t)}" for t in one.targets[1:]]
    for rows in (slice(0, 1), slice(1, 12), slice(12, 21)):
        classifier.learn_together(embeddings[rows], labels[rows], world)
    found["statistics"] = np.frombuffer(classifier.statistics.sha256.encode(), dtype=np.uint8)

    adaptation = Adaptation(model, quick(epochs=2), clock=ticking(), world=world)
    for number in (1, 2):
        adaptation.learn(lesson(number, n_classes=2, n_each=5), n_clips=10)
    found["adapted"] = np.concatenate([p.detach().numpy().ravel() for p in adaptation.current.parameters()])
    return found


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    with joined_world() as world:
        found = work(world)
        np.savez(folder / f"rank{world.rank}.npz", **found)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
