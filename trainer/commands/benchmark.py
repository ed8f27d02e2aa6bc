"""``benchmark``: methods of class-incremental learning, compared on public sets or folders of recordings."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge.errors import ConfigurationError
from trainer.commands.paths import FOLDER, NEW_FOLDER

if TYPE_CHECKING:
    from trainer.harness.study import Data

SET_NAMES = ("esc50", "urbansound8k", "speech-commands", "timit-2", "timit-3", "vocalset", "folder")


@click.command()
@click.option("--set", "set_name", type=click.Choice(SET_NAMES), required=True, help="Which set DATA is.")
@click.option(
    "--data",
    type=FOLDER,
    required=True,
    help="Its top folder, as its authors publish it; with `folder`, class folders.",
)
@click.option("--out", type=NEW_FOLDER, required=True, help="Folder of results; run again to go on or to add methods.")
@click.option("--backbone", required=True, help="Folder of a checkpoint or bundle, or a name of `backbone list`.")
@click.option("--window", "window_seconds", type=click.FloatRange(0.1, 60.0), help="Seconds, instead of its own.")
@click.option("--embedding", help="Which embedding of the backbone, instead of its own.")
@click.option(
    "--method", multiple=True, help="A row of the table; can be given several times. `--method ?` lists them."
)
@click.option("--setting", multiple=True, metavar="[METHOD.]KEY=VALUE", help="A setting of the methods that have it.")
@click.option("--sessions", type=click.IntRange(1), help="Deal the classes into so many sessions.")
@click.option("--classes-per-session", type=click.IntRange(1), help="Instead; PACE's for its sets if neither is given.")
@click.option("--orders", type=click.IntRange(1), default=5, show_default=True, help="Orders of classes.")
@click.option(
    "--split",
    type=click.Choice(("group", "clip", "both")),
    default="both",
    show_default=True,
    help="group: whole folds, speakers, singers are asked; clip: a fifth of each class, as PACE.",
)
@click.option(
    "--label",
    type=click.Choice(("class", "group")),
    default="class",
    show_default=True,
    help="group: the groups of a folder are the classes, such as speakers.",
)
@click.option("--min-clips", type=click.IntRange(1), default=1, show_default=True, help="Leave out smaller classes.")
@click.option(
    "--hop", "hop_length", type=click.IntRange(1), help="Samples between windows; half a window if not given."
)
@click.option("--max-windows", type=click.IntRange(1), help="Windows of a clip at most, evenly spaced.")
@click.option("--ask-every", type=click.IntRange(1), default=1, show_default=True, help="Ask after so many sessions.")
@click.option("--budget", help="MB[,MB...]: also compare at equal memory, backbone included.")
@click.option("--tune-on", metavar="SET=DIR", help="Choose settings on this set and report on the other.")
@click.option("--grid", multiple=True, metavar="[METHOD.]KEY=V1,V2", help="What to choose from, with --tune-on.")
@click.option("--allow-heard", is_flag=True, help="Go on with a backbone that heard test clips, and say so.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the methods' own draws.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
@click.option("--cache", type=NEW_FOLDER, help="Folder of features and embeddings; OUT/cache if not given.")
def benchmark(
    set_name: str,
    data: Path,
    out: Path,
    backbone: str,
    window_seconds: float | None,
    embedding: str | None,
    method: tuple[str, ...],
    setting: tuple[str, ...],
    sessions: int | None,
    classes_per_session: int | None,
    orders: int,
    split: str,
    label: str,
    min_clips: int,
    hop_length: int | None,
    max_windows: int | None,
    ask_every: int,
    budget: str | None,
    tune_on: str | None,
    grid: tuple[str, ...],
    allow_heard: bool,
    seed: int,
    threads: int,
    device: str,
    cache: Path | None,
) -> None:
    """Compare methods of class-incremental learning, five orders of classes, split by group and by clip.

    OUT gets result.json, results.csv, summary.csv, paired.csv and pictures; the tables are printed. Ctrl-C stops it;
    the same command again goes on after the last finished run.
    """
    import torch
    from tqdm import tqdm

    from trainer.backbones.loading import load_backbone
    from trainer.errors import TrainingError
    from trainer.harness.methods import choose, known_methods
    from trainer.harness.study import Data, Study, run_study
    from trainer.harness.table import TableSettings

    if sessions is not None and classes_per_session is not None:
        raise ConfigurationError("--sessions and --classes-per-session exclude each other; leave one out")
    if bool(grid) != bool(tune_on):
        raise ConfigurationError("--tune-on and --grid belong together; give both, or neither")
    torch.set_num_threads(threads)
    kinds = choose(method, known_methods())
    model = load_backbone(backbone, window_seconds=window_seconds, embedding=embedding).to(_device(device))
    study = Study(
        Data(set_name, data, "group" if label == "group" else "class", min_clips),
        Path(backbone),
        tuple(kinds),
        ("group", "clip") if split == "both" else ("group",) if split == "group" else ("clip",),
        setting,
        None if tune_on is None else _tuning_data(tune_on),
        grid,
        _budgets(budget),
    )
    settings = TableSettings(
        orders=orders,
        classes_per_session=classes_per_session or 0,
        sessions=sessions or 0,
        ask_every=ask_every,
        hop_length=hop_length or 0,
        max_windows=max_windows,
        seed=seed,
        threads=threads,
        allow_heard=allow_heard,
    )
    watched = sys.stderr.isatty()
    with tqdm(bar_format="{elapsed} {desc}", disable=not watched) as line:
        try:
            result = run_study(
                study, model, settings, out, cache or out / "cache", progress=watched, said=line.set_description_str
            )
        except KeyboardInterrupt:
            raise TrainingError(f"stopped; {out} keeps every finished run: the same command again goes on") from None
    click.echo(result["words"])
    click.echo(f"{out}: result.json, results.csv, summary.csv, paired.csv and pictures", err=True)


def _device(name: str) -> str:
    import torch

    if name == "cpu" or (name == "cuda" and torch.cuda.is_available()):
        return name
    raise ConfigurationError(f"--device {name!r} is not here; wanted cpu, or cuda where there is one; leave it out")


def _tuning_data(word: str) -> Data:
    from trainer.harness.study import Data

    name, _, directory = word.partition("=")
    if name not in SET_NAMES or not Path(directory).is_dir() or not directory:
        raise ConfigurationError(
            f"--tune-on {word!r} is no SET=DIR; wanted one of {', '.join(SET_NAMES)} and a folder that is there"
        )
    return Data(name, Path(directory))


def _budgets(words: str | None) -> tuple[float, ...]:
    if words is None:
        return ()
    try:
        found = tuple(sorted({float(word) for word in words.split(",")}))
    except ValueError:
        raise ConfigurationError(f"--budget {words!r} is no list of MB; write for example 8,16,32") from None
    if not 0.0 < found[0] <= found[-1] < 1e9:
        raise ConfigurationError(f"--budget {words!r} is out of range; wanted MB from above 0 to 1e9")
    return found
