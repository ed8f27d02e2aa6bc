"""``speak``, ``rooms``, ``split``: sets of recordings made, and divided."""

from __future__ import annotations

from pathlib import Path

import click

from trainer.commands.paths import FOLDER, NEW_FOLDER


@click.command()
@click.option("--out", type=NEW_FOLDER, required=True, help="Folder of the set: <word>/<n>.wav and meta.csv.")
@click.option("--voices", type=click.IntRange(1), default=24, show_default=True, help="Clips of each word.")
@click.option("--seed", type=int, default=0, show_default=True)
def speak(out: Path, voices: int, seed: int) -> None:
    """Have espeak-ng say a vocabulary in many voices, as one more data set."""
    from trainer.distillation.spoken_words import speak_words

    click.echo(f"{out}: {speak_words(out, voices_per_word=voices, seed=seed)} clips", err=True)


@click.command()
@click.option("--out", type=NEW_FOLDER, required=True, help="Folder of the set: <kind>/<level>.flac.")
@click.option("--seconds", type=click.FloatRange(1.0), default=10.0, show_default=True, help="Length of each file.")
@click.option("--seed", type=int, default=0, show_default=True)
def rooms(out: Path, seconds: float, seed: int) -> None:
    """Make plain noises at many levels and synthesised backgrounds, for the prior of a bundle."""
    from trainer.distillation.made_rooms import make_rooms

    click.echo(f"{out}: {make_rooms(out, seconds=seconds, seed=seed)} files", err=True)


@click.command()
@click.option(
    "--data", type=FOLDER, multiple=True, required=True, help="A set: <set>/<class>/<clip>, with meta.csv or not."
)
@click.option("--out", type=NEW_FOLDER, required=True)
def split(data: tuple[Path, ...], out: Path) -> None:
    """Link sets into OUT/train and OUT/held_out as `distil --keep-out` divides them: whole folds and speakers."""
    from trainer.split import split_set

    for directory in data:
        n_train, n_held_out = split_set(directory, out)
        click.echo(f"{directory.name}: {n_train} clips to train on, {n_held_out} held out", err=True)
