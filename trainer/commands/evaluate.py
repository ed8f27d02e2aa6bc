"""``evaluate``: what an ear is worth on groups kept out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from edge.errors import NotEnoughSamplesError
from trainer.commands.paths import FOLDER


@click.command()
@click.argument("checkpoint", type=FOLDER)
@click.option(
    "--data", type=FOLDER, multiple=True, required=True, help="A set with groups; those kept out are the test."
)
@click.option("--hop", "hop_length", type=click.IntRange(1), default=4000, show_default=True, help="Samples.")
@click.option("--episodes", type=click.IntRange(1), default=200, show_default=True, help="Few-shot episodes.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
def evaluate(checkpoint: Path, data: tuple[Path, ...], hop_length: int, episodes: int, seed: int) -> None:
    """Measure CHECKPOINT on the groups kept out: linear read-out of all classes, and 10-way few-shot.

    Prints one JSON object for each set; a figure that the set is too small for is null.
    """
    import numpy as np

    from trainer.backbones.checkpoint import load_checkpoint
    from trainer.backbones.embedding import embed_windows
    from trainer.datasets import ClipAudio, is_held_out, list_clips
    from trainer.evaluation import clip_means, few_shot_accuracy, readout_accuracy

    model, _ = load_checkpoint(checkpoint)
    for directory in data:
        means = clip_means(
            list_clips(directory),
            is_held_out,
            lambda windows: embed_windows(model, windows),
            ClipAudio(model.sample_rate),
            window_length=model.window_length,
            hop_length=hop_length,
        )
        figures: dict[str, Any] = {"set": directory.name, "readout": readout_accuracy(means)}
        for shots in (1, 5):
            rng = np.random.default_rng(seed)
            try:
                figures[f"shots_{shots}"] = few_shot_accuracy(means, rng, shots=shots, episodes=episodes)
            except NotEnoughSamplesError as error:
                click.echo(f"{directory}: {error}", err=True)
                figures[f"shots_{shots}"] = None
        click.echo(json.dumps(figures))
