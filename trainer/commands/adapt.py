"""``adapt``: a backbone, adapted to classes that come in sessions, as a checkpoint that ``soundkeep-export`` takes."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from edge.errors import ConfigurationError
from trainer.commands.paths import FOLDER, NEW_FOLDER

METHODS = ("frozen", "fsa", "pace")


@click.command()
@click.option(
    "--backbone",
    required=True,
    help="A name of `backbone list`, a published file, or the folder of a checkpoint or bundle.",
)
@click.option("--data", type=FOLDER, required=True, help="Class folders with clips, and meta.csv or not.")
@click.option("--out", type=NEW_FOLDER, required=True, help="Folder of the checkpoint and of what was measured.")
@click.option("--classes-per-session", type=click.IntRange(1), default=5, show_default=True)
@click.option("--method", type=click.Choice(METHODS), default="pace", show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of every draw, class order too.")
@click.option("--resume", is_flag=True, help="Go on with the run that was interrupted in OUT.")
@click.option("--hear-all", is_flag=True, help="Keep no clip out: nothing is measured, everything is learnt from.")
@click.option("--window", "window_seconds", type=click.FloatRange(0.1, 60.0), help="Seconds, instead of its own.")
@click.option("--embedding", help="Which embedding of the backbone, instead of its own.")
@click.option(
    "--hop", "hop_length", type=click.IntRange(1), help="Samples between windows; half a window if not given."
)
@click.option("--max-windows", type=click.IntRange(1), help="Windows of a clip at most, evenly spaced.")
@click.option("--setting", multiple=True, metavar="KEY=VALUE", help="A setting of the adaptation or the read-out.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--device", type=click.Choice(("auto", "cpu", "cuda")), default="auto", show_default=True)
def adapt(
    backbone: str,
    data: Path,
    out: Path,
    classes_per_session: int,
    method: str,
    seed: int,
    resume: bool,
    hear_all: bool,
    window_seconds: float | None,
    embedding: str | None,
    hop_length: int | None,
    max_windows: int | None,
    setting: tuple[str, ...],
    threads: int,
    device: str,
) -> None:
    """Adapt a backbone to the classes of DATA, which come session by session.

    OUT gets the checkpoint (base weights and one LoRA adapter for each session that changed the backbone), result.json,
    adaptation.png, training.csv and tensorboard/. Ctrl-C stops after the epoch; --resume goes on, to the same bits on a
    CPU. Under torchrun several processes share the work.
    """
    import torch

    from trainer.adapting.compose import AdaptOptions, adapt_backbone
    from trainer.interruption import asked_to_stop
    from trainer.parallel import joined_world

    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigurationError("--device cuda: there is no CUDA device here; leave the option out, or say cpu")
    torch.set_num_threads(threads)
    options = AdaptOptions(
        backbone=backbone,
        data=data,
        out=out,
        classes_per_session=classes_per_session,
        method=method,
        seed=seed,
        resume=resume,
        hear_all=hear_all,
        window_seconds=window_seconds,
        embedding=embedding,
        hop_length=hop_length,
        max_windows=max_windows,
        settings=setting,
        device="cuda" if device != "cpu" and torch.cuda.is_available() else "cpu",
    )
    with joined_world() as world, asked_to_stop() as stop:
        said = adapt_backbone(options, world, stop=stop, watched=sys.stderr.isatty())
    if world.rank == 0:
        click.echo(said, err=True)
