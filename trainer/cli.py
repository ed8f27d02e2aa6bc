"""``soundkeep-trainer``: makes ears. Exit codes: 0 done, 1 the world refused, 2 the command was wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from edge import __version__
from edge.errors import ConfigurationError, NotEnoughSamplesError, SoundkeepError

FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)
FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
NEW_FOLDER = click.Path(path_type=Path, file_okay=False)


class _Trainer(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SoundkeepError as error:
            click.echo(f"soundkeep-trainer: {error}", err=True)
            ctx.exit(error.exit_code)
        except BrokenPipeError:
            raise
        except OSError as error:
            what = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
            click.echo(f"soundkeep-trainer: {what}; free the disk or correct the rights and run again", err=True)
            ctx.exit(1)


@click.group(cls=_Trainer)
@click.version_option(__version__, prog_name="soundkeep-trainer")
def main() -> None:
    """Train the ears that soundkeep's devices hear with."""


@main.command()
@click.option("--out", type=NEW_FOLDER, required=True, help="Folder of the set: <word>/<n>.wav and meta.csv.")
@click.option("--voices", type=click.IntRange(1), default=24, show_default=True, help="Clips of each word.")
@click.option("--seed", type=int, default=0, show_default=True)
def speak(out: Path, voices: int, seed: int) -> None:
    """Have espeak-ng say a vocabulary in many voices, as one more data set."""
    from trainer.spoken_words import speak_words

    click.echo(f"{out}: {speak_words(out, voices_per_word=voices, seed=seed)} clips", err=True)


@main.command()
@click.option("--out", type=NEW_FOLDER, required=True, help="Folder of the set: <kind>/<level>.flac.")
@click.option("--seconds", type=click.FloatRange(1.0), default=10.0, show_default=True, help="Length of each file.")
@click.option("--seed", type=int, default=0, show_default=True)
def rooms(out: Path, seconds: float, seed: int) -> None:
    """Make plain noises at many levels and synthesised backgrounds, for the prior of a bundle."""
    from trainer.made_rooms import make_rooms

    click.echo(f"{out}: {make_rooms(out, seconds=seconds, seed=seed)} files", err=True)


@main.command()
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


@main.command()
@click.option(
    "--data", type=FOLDER, multiple=True, required=True, help="A set: <set>/<class>/<clip>, with meta.csv or not."
)
@click.option("--teacher", type=FILE, multiple=True, required=True, help="ONNX file of a teacher.")
@click.option("--out", type=NEW_FOLDER, required=True, help="Folder of the run; run again to resume.")
@click.option(
    "--keep-out", is_flag=True, help="Never hear fold 3 nor a third of the other groups: an ear to measure with."
)
@click.option(
    "--set-weight",
    multiple=True,
    metavar="NAME=W",
    help="Share of a set, 1 if not given; 'synthetic' is the set of synthesised sounds.",
)
@click.option("--shards", type=click.IntRange(1), default=150, show_default=True, help="Shards in the bank.")
@click.option("--shard-size", type=click.IntRange(1), default=1024, show_default=True, help="Windows in a shard.")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Processes that fill the bank.")
@click.option("--steps", type=click.IntRange(1), default=8000, show_default=True)
@click.option("--batch-size", type=click.IntRange(2), default=128, show_default=True, help="Windows of a step.")
@click.option(
    "--learning-rate",
    type=click.FloatRange(0.0, 1.0, min_open=True),
    default=2e-3,
    show_default=True,
    help="At its peak.",
)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Threads of the training itself.")
@click.option("--initial", type=FOLDER, help="Checkpoint to start from instead of random weights.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
def distil(
    data: tuple[Path, ...],
    teacher: tuple[Path, ...],
    out: Path,
    keep_out: bool,
    set_weight: tuple[str, ...],
    shards: int,
    shard_size: int,
    workers: int,
    steps: int,
    batch_size: int,
    learning_rate: float,
    threads: int,
    initial: Path | None,
    seed: int,
) -> None:
    """Distil the default ear from several teachers at once.

    Ctrl-C stops it; the same command again goes on where it stopped. OUT gets bank/, model.safetensors and
    checkpoint.json (what `soundkeep-export bundle` takes), losses.csv, losses.png and resume.safetensors.
    """
    from trainer.bank import fill_bank
    from trainer.datasets import ClipAudio, decode_all, list_clips, split_clips
    from trainer.distil import distil as train
    from trainer.drawing import BankSettings, LabelSpace
    from trainer.errors import TrainingError
    from trainer.interruption import asked_to_stop
    from trainer.recipe import keep_to_recipe, recipe_of
    from trainer.schedule import DistilSettings
    from trainer.student import StudentSettings, load_checkpoint
    from trainer.teachers import load_teachers

    sets = [list_clips(directory) for directory in data]
    names = [clips[0].set_name for clips in sets]
    if len(set(names)) < len(names):
        raise ConfigurationError(f"--data names {', '.join(names)}; wanted sets of different names; rename a folder")
    clips = [clip for found in sets for clip in found]
    labels = LabelSpace.of(clips)
    heard = split_clips(clips)[0] if keep_out else clips
    settings = BankSettings(seed=seed, shard_size=shard_size, set_weights=_weights(set_weight, set(names)))
    if shards * shard_size < batch_size:
        raise ConfigurationError(
            f"a bank of {shards} x {shard_size} windows is smaller than one batch of {batch_size}; make more shards"
        )
    first = load_checkpoint(initial)[0] if initial is not None else None
    student_settings = first.settings if first is not None else StudentSettings()
    frontend = student_settings.frontend
    load_teachers(teacher, window_length=frontend.window_length)
    keep_to_recipe(out, recipe_of(heard, teacher, settings, kept_out=keep_out, initial=initial))
    audio = ClipAudio(frontend.sample_rate)
    try:
        decode_all(heard, audio)
        bank = out / "bank"
        fill_bank(
            bank,
            shards,
            heard,
            teacher,
            labels=labels,
            frontend=frontend,
            settings=settings,
            workers=workers,
            audio=audio,
        )
    except KeyboardInterrupt:
        raise TrainingError(f"stopped while filling {out / 'bank'}; run the same command again to go on") from None
    del audio
    with asked_to_stop() as stop:
        model = train(
            bank,
            out,
            settings=DistilSettings(steps=steps, batch_size=batch_size, learning_rate=learning_rate, seed=seed),
            student_settings=student_settings,
            initial=first,
            threads=threads,
            meta={
                "data": sorted(names),
                "n_clips_heard": len(heard),
                "kept_out": keep_out,
                "teachers": [path.name for path in teacher],
            },
            stop=stop,
        )
    click.echo(
        f"{out}: an ear of {model.n_weights()} weights after {steps} steps on {len(heard)} clips; "
        f"its losses are drawn in {out / 'losses.png'}",
        err=True,
    )


@main.command()
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

    from trainer.datasets import ClipAudio, is_held_out, list_clips
    from trainer.evaluation import clip_means, few_shot_accuracy, readout_accuracy
    from trainer.student import embed_windows, load_checkpoint

    model, _ = load_checkpoint(checkpoint)
    frontend = model.settings.frontend
    for directory in data:
        means = clip_means(
            list_clips(directory),
            is_held_out,
            lambda windows: embed_windows(model, windows),
            ClipAudio(frontend.sample_rate),
            window_length=frontend.window_length,
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


def _weights(pairs: tuple[str, ...], known: set[str]) -> dict[str, float]:
    """Parse NAME=W options; the synthesised sounds count as a set of weight 1 unless told otherwise."""
    weights: dict[str, float] = {"synthetic": 1.0}
    for pair in pairs:
        name, _, value = pair.partition("=")
        if name not in known | {"synthetic"}:
            wanted = ", ".join(sorted(known | {"synthetic"}))
            raise ConfigurationError(f"--set-weight names {name!r}; wanted one of {wanted}")
        try:
            weights[name] = float(value)
        except ValueError:
            raise ConfigurationError(f"--set-weight {pair!r} is no NAME=NUMBER; write for example {name}=0.5") from None
        if not 0.0 <= weights[name] < 1e6:
            raise ConfigurationError(f"--set-weight {pair!r} is out of range; wanted 0 to 1000000")
    return weights


if __name__ == "__main__":
    main()
