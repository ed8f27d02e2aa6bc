"""``soundkeep-export``: checkpoints into bundles. Exit codes: 0 done, 1 the world refused, 2 the command was wrong."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import click

from edge import __version__
from edge.errors import ConfigurationError, SoundkeepError

FOLDER = click.Path(path_type=Path)


class _Exporter(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SoundkeepError as error:
            click.echo(f"soundkeep-export: {error}", err=True)
            ctx.exit(error.exit_code)


@click.group(cls=_Exporter)
@click.version_option(__version__, prog_name="soundkeep-export")
def main() -> None:
    """Turn a trained checkpoint into a bundle that devices verify and load."""


@main.command()
@click.argument("checkpoint", type=FOLDER)
@click.option("--out", type=FOLDER, required=True, help="Folder of the bundle; must not exist yet.")
@click.option("--name", default="ear", show_default=True)
@click.option("--version", type=int, default=1, show_default=True, help="A whole number that only ever grows.")
@click.option("--licence", default="Apache-2.0", show_default=True)
@click.option(
    "--hop", "hop_length", type=click.IntRange(min=1), help="Samples between two windows.  [default: a quarter of one]"
)
@click.option(
    "--precision",
    type=click.Choice(["float32", "float16", "int8"]),
    default="float32",
    show_default=True,
    help="Of the network; the front end stays as it is. float16 halves the file, int8 also saves time on a CPU.",
)
@click.option(
    "--measure",
    type=click.Choice(["none", "speed", "accuracy"]),
    default="accuracy",
    show_default=True,
    help="What the precision costs beside float32. accuracy embeds every clip of --data and --check with both.",
)
@click.option("--data", multiple=True, metavar="NAME=DIR", help="Clips: to check, calibrate and make the prior with.")
@click.option("--background", multiple=True, metavar="NAME=DIR", help="Long recordings, for the same.")
@click.option("--check", multiple=True, metavar="NAME=DIR", help="Clips of what will be taught: never in the prior.")
@click.option("--no-prior", is_flag=True, help="Use the recordings for checks only.")
@click.option("--detection", multiple=True, metavar="KEY=VALUE", help="Default of a read-out or decision setting.")
@click.option("--model-card", type=click.Path(path_type=Path), help="Markdown to put before the measured figures.")
@click.option("--seed", type=int, default=0, show_default=True)
def bundle(
    checkpoint: Path,
    out: Path,
    name: str,
    version: int,
    licence: str,
    hop_length: int | None,
    precision: Literal["float32", "float16", "int8"],
    measure: Literal["none", "speed", "accuracy"],
    data: tuple[str, ...],
    background: tuple[str, ...],
    check: tuple[str, ...],
    no_prior: bool,
    detection: tuple[str, ...],
    model_card: Path | None,
    seed: int,
) -> None:
    """Export the checkpoint folder CHECKPOINT to a bundle."""
    from edge.manifest import DetectionDefaults
    from export.material import parse_sets
    from export.pack import PackSettings, pack
    from export.summary import summary

    settings = PackSettings(
        name=name,
        version=version,
        licence=licence,
        hop_length=hop_length,
        precision=precision,
        measure=measure,
        data=parse_sets(data),
        backgrounds=parse_sets(background),
        checks=parse_sets(check),
        with_prior=not no_prior,
        model_card=_text(model_card) or "",
        detection=DetectionDefaults(**_detection(detection)),
        seed=seed,
    )
    made, report = pack(checkpoint, out, settings, watch=_watch)
    for words in summary(out, made, report):
        _say(words)
    _answer(
        {"path": str(out), "sha256": made.sha256, "space": made.space.sha256, **dict(made.manifest.extra["export"])}
    )


@main.command()
@click.argument("bundle_path", metavar="BUNDLE", type=FOLDER)
@click.option("--data", multiple=True, metavar="NAME=DIR", help="Clips: windows that carry sound.")
@click.option("--background", multiple=True, metavar="NAME=DIR", help="Long recordings: every window but silence.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="File for the statistics.")
@click.option("--threads", type=int, default=1, show_default=True)
def prior(bundle_path: Path, data: tuple[str, ...], background: tuple[str, ...], out: Path, threads: int) -> None:
    """Compute prior statistics in the space of BUNDLE."""
    from edge.bundle import open_bundle
    from edge.embedder import Embedder
    from export.material import parse_sets
    from export.prior import count_recordings, prior_statistics

    clips, backgrounds = parse_sets(data), parse_sets(background)
    if not clips and not backgrounds:
        raise ConfigurationError("no recordings given; wanted --data NAME=DIR or --background NAME=DIR at least once")
    embedder = Embedder(open_bundle(bundle_path), threads=threads)
    with _watch("prior", count_recordings(clips, backgrounds)) as step:
        report = prior_statistics(embedder, clips, backgrounds, progress=lambda path: step())
    try:
        out.write_bytes(report.statistics.to_bytes())
    except OSError as e:
        raise ConfigurationError(f"{out} cannot be written: {e.strerror or e}; choose another file") from e
    _say(f"{out}: {report.n_windows} windows of {report.n_files} files, {len(report.statistics.labels)} classes")
    _answer(
        {
            "path": str(out),
            "statistics_sha256": report.statistics.sha256,
            "n_files": report.n_files,
            "n_windows": report.n_windows,
            "n_classes": len(report.statistics.labels),
            "seconds": round(report.seconds),
        }
    )


@main.command()
@click.argument("bundle_path", metavar="BUNDLE", type=FOLDER)
@click.option("--out", type=FOLDER, required=True, help="Folder of the new bundle; must not exist yet.")
@click.option("--name")
@click.option("--version", type=int)
@click.option("--prior", "prior_path", type=click.Path(path_type=Path), help="File that `prior` wrote.")
@click.option("--detection", multiple=True, metavar="KEY=VALUE", help="Default of a setting; KEY= removes it.")
@click.option("--model-card", type=click.Path(path_type=Path), help="Markdown that replaces the model card.")
def amend(
    bundle_path: Path,
    out: Path,
    name: str | None,
    version: int | None,
    prior_path: Path | None,
    detection: tuple[str, ...],
    model_card: Path | None,
) -> None:
    """Copy BUNDLE with another prior, other defaults or another model card. The ear and its space stay the same."""
    from edge.bundle import open_bundle
    from export.amend import amend as amended
    from export.amend import read_prior

    made = amended(
        open_bundle(bundle_path),
        out,
        name=name,
        version=version,
        prior=None if prior_path is None else read_prior(prior_path, bundle_path),
        detection=_detection(detection),
        model_card=_text(model_card),
    )
    _answer({"path": str(out), "sha256": made.sha256, "space": made.space.sha256})


@main.command()
@click.argument("bundle_path", metavar="BUNDLE", type=FOLDER)
@click.option("--out", type=FOLDER, required=True, help="Folder of the new bundle; must not exist yet.")
def features(bundle_path: Path, out: Path) -> None:
    """Copy BUNDLE with a second graph that begins at the log-mel features: for microcontrollers that send those."""
    from edge.bundle import open_bundle
    from export.features import add_features

    made = add_features(open_bundle(bundle_path), out)
    _answer(
        {
            "path": str(out),
            "sha256": made.sha256,
            "space": made.space.sha256,
            "features": dict(made.manifest.extra["features"]),
        }
    )


@main.command()
@click.argument("bundle_path", metavar="BUNDLE", type=click.Path(path_type=Path))
@click.option("--out", type=FOLDER, required=True, help="Folder of the C library; must not exist yet.")
@click.option("--memory", type=click.Path(path_type=Path), help="What it knows at its start; else a head comes later.")
@click.option("--head", type=click.Path(path_type=Path), help="The same, as a head that soundkeep-bridge made.")
@click.option(
    "--precision",
    "precisions",
    type=click.Choice(["int8", "float32"]),
    multiple=True,
    help="May be given twice; the first is the one that sk_init uses.  [default: int8]",
)
@click.option("--target", type=click.Choice(["m4", "host"]), default="m4", show_default=True, help="host: any size.")
@click.option("--data", multiple=True, metavar="NAME=DIR", help="Recordings to take int8 ranges from and check with.")
@click.option("--check", multiple=True, metavar="NAME=DIR", help="Sets of <class>/<clip> to count answers on.")
@click.option("--check-clips", type=int, default=0, help="At most so many clips of each set.  [default: all]")
@click.option("--no-measure", is_flag=True, help="Only write; build and measure nothing.")
def c(
    bundle_path: Path,
    out: Path,
    memory: Path | None,
    head: Path | None,
    precisions: tuple[Literal["int8", "float32"], ...],
    target: str,
    data: tuple[str, ...],
    check: tuple[str, ...],
    check_clips: int,
    no_measure: bool,
) -> None:
    """Write BUNDLE (a folder, or the name of one that came with soundkeep, such as sibling) as a C library for a
    microcontroller, with a report of what it needs."""
    from edge.bundle import shipped_bundles_path
    from export.c.compose import CSettings, write_library
    from export.material import parse_sets

    settings = CSettings(
        precisions=tuple(dict.fromkeys(precisions)) or ("int8",),
        target=target,
        data=parse_sets(data),
        check=parse_sets(check),
        check_clips=check_clips,
        memory=memory,
        head=head,
        measure=not no_measure,
    )
    shipped = shipped_bundles_path() / bundle_path.name
    if not bundle_path.exists() and bundle_path == Path(bundle_path.name) and shipped.is_dir():
        bundle_path = shipped
    report = write_library(bundle_path, out, settings)
    _say(report.as_markdown())
    _answer({"path": str(out), **report.as_json()})


@main.command()
@click.argument("bundle_path", metavar="BUNDLE", type=FOLDER)
@click.option("--parent", "parent_path", type=FOLDER, required=True, help="The bundle that devices learnt with so far.")
@click.option("--data", multiple=True, required=True, metavar="NAME=DIR", help="Recordings that both ears hear.")
@click.option("--out", type=FOLDER, required=True, help="Folder of the new bundle; must not exist yet.")
@click.option("--prior-from-parent", is_flag=True, help="Move the parent's prior through the map if BUNDLE has none.")
def link(bundle_path: Path, parent_path: Path, data: tuple[str, ...], out: Path, prior_from_parent: bool) -> None:
    """Copy BUNDLE with the linear map from the space of its parent: devices keep what they learnt with the parent."""
    from edge.audio import audio_files_of
    from edge.bundle import open_bundle
    from export.link import figures
    from export.link import link as linked
    from export.material import parse_sets

    sets = parse_sets(data)
    with _watch("link", sum(len(audio_files_of(folder)) for folder in sets.values())) as step:
        made, fit = linked(
            open_bundle(bundle_path),
            open_bundle(parent_path),
            sets,
            out,
            prior_from_parent=prior_from_parent,
            progress=lambda path: step(),
        )
    _say(
        f"{out}: mapped from its parent with mean cosine {fit.held_out_cosine:.4f} on groups that the fit had not "
        f"seen ({fit.n_windows} windows)"
    )
    _answer({"path": str(out), "sha256": made.sha256, "space": made.space.sha256, **figures(fit)})


@main.command()
@click.argument("bundles", metavar="BUNDLE...", type=FOLDER, nargs=-1, required=True)
@click.option("--data", multiple=True, required=True, metavar="NAME=DIR", help="Sets of <class>/<clip>.")
@click.option("--threads", type=int, default=1, show_default=True)
def accuracy(bundles: tuple[Path, ...], data: tuple[str, ...], threads: int) -> None:
    """Measure a linear read-out of each BUNDLE on held-out groups: what int8 costs, which ear is better."""
    from edge.bundle import open_bundle
    from edge.embedder import Embedder
    from export.loss import readout_accuracies
    from export.material import parse_sets

    for path in bundles:
        results = readout_accuracies(Embedder(open_bundle(path), threads=threads), parse_sets(data))
        _answer({"path": str(path), "sets": [asdict(r) for r in results]})


def _detection(pairs: tuple[str, ...]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        try:
            settings[key] = json.loads(value) if value else None
        except ValueError:
            separator = ""
        if not separator:
            raise ConfigurationError(f"--detection is {pair!r}; wanted KEY=NUMBER, such as threshold=5.5")
    from dataclasses import fields

    from edge.manifest import DetectionDefaults

    known = [f.name for f in fields(DetectionDefaults)]
    for key in settings.keys() - set(known):
        raise ConfigurationError(f"--detection has no setting {key!r}; wanted one of {', '.join(known)}")
    return settings


def _text(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigurationError(f"{path} cannot be read as text: {e}; check the path") from e


@contextmanager
def _watch(stage: str, n_steps: int) -> Iterator[Callable[[], object]]:
    """A bar over the steps of one stage on stderr, only when a person watches."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from tqdm import tqdm

    with tqdm(total=n_steps, desc=stage, unit="file", leave=False) as bar:
        yield bar.update


def _say(words: str) -> None:
    click.echo(words, err=True)


def _answer(value: dict[str, Any]) -> None:
    click.echo(json.dumps(value, sort_keys=True))


if __name__ == "__main__":
    main()
