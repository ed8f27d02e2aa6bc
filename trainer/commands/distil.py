"""``distil``: an ear from several teachers at once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge.errors import ConfigurationError
from trainer.commands.paths import FILE, FOLDER, NEW_FOLDER

if TYPE_CHECKING:
    from trainer.backbones.student import StudentSettings


LOSSES = ("sound", "speech", "scores", "sound_label", "word_label")


@click.command()
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
@click.option(
    "--kind",
    type=click.Choice(["student", "tiny_transformer"]),
    default="student",
    show_default=True,
    help="Of network.",
)
@click.option(
    "--loss-weight",
    multiple=True,
    metavar="NAME=W",
    help="Of a term: sound 2, speech 0.7, scores 30, word_label 0.15, sound_label 0 if not given.",
)
@click.option("--widths", metavar="N,N,...", help="Of the stem and the four blocks; 32,40,80,144,256 if not given.")
@click.option("--dim", type=click.IntRange(8, 4096), help="Numbers in an embedding; 256 if not given.")
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
    kind: str,
    loss_weight: tuple[str, ...],
    widths: str | None,
    dim: int | None,
    seed: int,
) -> None:
    """Distil the default ear from several teachers at once.

    Ctrl-C stops it; the same command again goes on where it stopped. OUT gets bank/, model.safetensors and
    checkpoint.json (what `soundkeep-export bundle` takes), losses.csv, losses.png and resume.safetensors.
    """
    from trainer.backbones.checkpoint import load_checkpoint
    from trainer.backbones.student import Student, StudentSettings
    from trainer.backbones.tiny_transformer import TinyTransformer, TinyTransformerSettings
    from trainer.datasets import ClipAudio, decode_all, list_clips, split_clips
    from trainer.distillation.bank import fill_bank
    from trainer.distillation.distil import distil as train
    from trainer.distillation.drawing import BankSettings, LabelSpace
    from trainer.distillation.recipe import keep_to_recipe, recipe_of
    from trainer.distillation.schedule import DistilSettings
    from trainer.distillation.teachers import load_teachers
    from trainer.errors import TrainingError
    from trainer.interruption import asked_to_stop

    sets = [list_clips(directory) for directory in data]
    names = [clips[0].set_name for clips in sets]
    if len(set(names)) < len(names):
        raise ConfigurationError(f"--data names {', '.join(names)}; wanted sets of different names; rename a folder")
    clips = [clip for found in sets for clip in found]
    labels = LabelSpace.of(clips)
    heard = split_clips(clips)[0] if keep_out else clips
    settings = BankSettings(seed=seed, shard_size=shard_size, set_weights=_weights(set_weight, set(names)))
    plan = DistilSettings(steps=steps, batch_size=batch_size, learning_rate=learning_rate, seed=seed)
    plan = replace(plan, **_loss_weights(loss_weight))
    if shards * shard_size < batch_size:
        raise ConfigurationError(
            f"a bank of {shards} x {shard_size} windows is smaller than one batch of {batch_size}; make more shards"
        )
    first = load_checkpoint(initial)[0] if initial is not None else None
    if first is not None and not isinstance(first, Student | TinyTransformer):
        raise ConfigurationError(f"--initial is a checkpoint of kind {first.kind!r}; wanted one that distil wrote")
    if first is not None and (widths is not None or dim is not None):
        raise ConfigurationError("--widths and --dim are those of the checkpoint given with --initial; leave them out")
    if kind == "tiny_transformer" and widths is not None:
        raise ConfigurationError("--widths are those of a student; a tiny transformer has none")
    student_settings: StudentSettings | TinyTransformerSettings
    if first is not None:
        student_settings = first.settings
    elif kind == "student":
        student_settings = _sized(StudentSettings(), widths, dim)
    else:
        student_settings = TinyTransformerSettings() if dim is None else TinyTransformerSettings(dim=dim)
    frontend = student_settings.frontend
    load_teachers(teacher, window_length=frontend.window_length)
    recipe = recipe_of(heard, teacher, settings, kept_out=keep_out, initial=initial)
    if (widths, dim) != (None, None) and isinstance(student_settings, StudentSettings):
        recipe["student"] = {"widths": student_settings.widths, "dim": student_settings.dim}
    if kind != "student":
        recipe["student"] = {"kind": kind, "dim": student_settings.dim}
    keep_to_recipe(out, recipe)
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
            settings=plan,
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


def _loss_weights(words: tuple[str, ...]) -> dict[str, Any]:
    """NAME=W as settings. Raises ConfigurationError."""
    weights: dict[str, Any] = {}
    for word in words:
        name, _, number = word.partition("=")
        try:
            weight = float(number)
        except ValueError:
            weight = -1.0
        if name not in LOSSES or not 0.0 <= weight <= 1000.0:
            raise ConfigurationError(
                f"--loss-weight is {word!r}; wanted NAME=W with one of {', '.join(LOSSES)} and a number from 0 to 1000"
            )
        weights[f"{name}_weight"] = weight
    return weights


def _sized(settings: StudentSettings, widths: str | None, dim: int | None) -> StudentSettings:
    """The default ear, or one of other widths and another dimension."""
    if widths is not None:
        wanted = len(settings.widths)
        parts = widths.split(",")
        if len(parts) != wanted or not all(part.strip().isdecimal() and 1 <= int(part) <= 4096 for part in parts):
            raise ConfigurationError(
                f"--widths is {widths!r}; wanted {wanted} numbers from 1 to 4096, such as 8,16,24,40,64"
            )
        settings = replace(settings, widths=tuple(int(part) for part in parts))
    return settings if dim is None else replace(settings, dim=dim)


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
