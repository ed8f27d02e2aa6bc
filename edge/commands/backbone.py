"""`soundkeep backbone list`, `info`, `use` and `import`."""

from __future__ import annotations

from pathlib import Path

import click

from edge.commands.workbench import Workbench
from edge.errors import StateError


@click.group()
def backbone() -> None:
    """List, show, choose and import backbones."""


@backbone.command("list")
@click.pass_obj
def list_(bench: Workbench) -> None:
    """List the backbones on this device."""
    from edge.backbones import chosen_path, list_backbones

    chosen = chosen_path(bench.state_dir)
    for found in list_backbones(bench.state_dir):
        used = found.path.absolute() == chosen.absolute()
        answer = {"name": found.name, "path": str(found.path), "shipped": found.shipped, "used": used}
        bench.answer(answer, f"{'*' if used else ' '} {found.name}  {found.path}")


@backbone.command()
@click.pass_obj
def info(bench: Workbench) -> None:
    """Show the backbone in use."""
    bundle = bench.bundle()
    space = bundle.space
    answer = {
        "name": bundle.name,
        "path": str(bundle.path),
        "space": space.sha256,
        "sample_rate": space.sample_rate,
        "window": space.window_length,
        "hop": space.hop_length,
        "dim": space.dim,
    }
    words = (
        f"{bundle.name} {bundle.version} ({bundle.manifest.licence}) in {bundle.path}\n"
        f"window {space.window_length} samples, hop {space.hop_length}, at {space.sample_rate} Hz; "
        f"{space.dim} numbers; space {space.sha256}"
    )
    bench.answer(answer, words)


@backbone.command()
@click.argument("name_or_dir")
@click.pass_obj
def use(bench: Workbench, name_or_dir: str) -> None:
    """Use NAME_OR_DIR from the next start on. What was taught with another backbone rests until that is used again."""
    from edge.backbones import find_backbone
    from edge.bundle import open_bundle
    from edge.first_load import is_shipped, prove_in_child

    bundle = open_bundle(find_backbone(bench.state_dir, name_or_dir))
    if not is_shipped(bundle):
        prove_in_child(bundle)
    with bench.writing(bundle) as desk:
        answer = desk.use_backbone(str(bundle.path.absolute()))
    bench.answer(answer, f"{bundle.name} is used from the next start on")


@backbone.command("import")
@click.argument("file", type=click.Path())
@click.option("--spec", required=True, type=click.Path(), metavar="TOML", help="How to feed the model.")
@click.pass_obj
def import_(bench: Workbench, file: str, spec: str) -> None:
    """Make a backbone of a third-party ONNX FILE."""
    from edge.backbone_import import import_backbone, parse_spec
    from edge.backbones import imported_path

    target = imported_path(bench.state_dir, parse_spec(_spec_bytes(spec)).name)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StateError(f"{target.parent} cannot be made ({error.strerror}); choose another --state") from error
    bundle, first = import_backbone(file, spec, target)
    answer = {"name": bundle.name, "path": str(bundle.path), "space": bundle.space.sha256, "window_ms": first.window_ms}
    words = (
        f"{bundle.name} is in {bundle.path}: {first.window_ms:.1f} ms a window, {first.peak_bytes / 2**20:.0f} MB; "
        f"use it with `soundkeep backbone use {bundle.name}`"
    )
    bench.answer(answer, words)


def _spec_bytes(spec: str) -> bytes:
    try:
        return Path(spec).read_bytes()
    except OSError as error:
        raise StateError(f"the spec {spec} cannot be read ({error.strerror}); check the path") from error
