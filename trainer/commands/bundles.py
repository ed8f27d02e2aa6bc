"""``bundles``: what the fleet is offered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from trainer.commands.answers import Answers
from trainer.commands.devices import data_option
from trainer.commands.keys import asked_passphrase, keys_option

EXISTING = click.Path(exists=True, file_okay=False, path_type=Path)


@click.group()
def bundles() -> None:
    """Publish bundles; list what was published and why not."""


@bundles.command("list")
@data_option
@click.pass_obj
def list_bundles(answers: Answers, data: Path) -> None:
    """List the bundles that this server has, the newest first."""
    from trainer.server.opening import open_server
    from trainer.server.publishing import list_bundles as all_bundles

    server = open_server(data)
    try:
        found = all_bundles(server)
    finally:
        server.close()
    for bundle in found:
        answers.answer(bundle, _line(bundle))
    if not found:
        answers.tell("no bundle yet; `bundles add DIR` takes one, and an adaptation job makes one")


@bundles.command()
@click.argument("folder", metavar="DIR", type=EXISTING)
@data_option
@click.pass_obj
def add(answers: Answers, folder: Path, data: Path) -> None:
    """Take the bundle in DIR, so that it can be published and its space is known. Nothing is offered yet."""
    from edge.bundle import open_bundle
    from edge.first_load import is_shipped, prove_in_child
    from trainer.server.opening import open_server
    from trainer.server.publishing import described, register_bundle

    bundle = open_bundle(folder)
    if not is_shipped(bundle):
        prove_in_child(bundle)
    server = open_server(data)
    try:
        made = described(register_bundle(server, bundle))
    finally:
        server.close()
    answers.answer(made, _line(made))
    answers.tell(f"offer it with: soundkeep-trainer bundles publish {made['sha256'][:12]} --data {data}")


@bundles.command()
@click.argument("sha256", metavar="SHA")
@data_option
@keys_option
@click.pass_obj
def publish(answers: Answers, sha256: str, data: Path, keys: tuple[Path, ...]) -> None:
    """Sign a bundle with the targets key and offer it to the fleet. SHA: of the bundle, or its beginning."""
    from trainer.server.opening import open_server
    from trainer.server.publishing import described, publish_bundle

    server = open_server(data)
    try:
        made = described(publish_bundle(server, sha256, keys, passphrase=asked_passphrase()))
    finally:
        server.close()
    answers.answer(made, _line(made))


@bundles.command()
@click.argument("sha256", metavar="SHA")
@data_option
@keys_option
@click.pass_obj
def withdraw(answers: Answers, sha256: str, data: Path, keys: tuple[Path, ...]) -> None:
    """Offer a bundle no longer. Devices that took it keep it: publish a better one under a higher version."""
    from trainer.server.opening import open_server
    from trainer.server.publishing import described, withdraw_published

    server = open_server(data)
    try:
        made = described(withdraw_published(server, sha256, keys, passphrase=asked_passphrase()))
    finally:
        server.close()
    answers.answer(made, _line(made))


@bundles.command()
@click.argument("out", metavar="OUT_DIR", type=click.Path(file_okay=False, path_type=Path))
@click.option("--valid-days", type=float, default=30.0, show_default=True, help="How long devices may take it.")
@data_option
@click.pass_obj
def export(answers: Answers, out: Path, valid_days: float, data: Path) -> None:
    """Write what is offered to a folder: a USB stick, or what any web server serves. Again brings it up to date."""
    import time

    from trainer.server.export_stick import export_repository

    names = export_repository(data, out, valid_days, time.time())
    n_bytes = sum((out / name).stat().st_size for name in names)
    value = {"folder": str(out), "n_files": len(names), "n_bytes": n_bytes, "valid_days": valid_days}
    answers.answer(value, f"{len(names)} files, {n_bytes} bytes in {out}; devices may take it for {valid_days:g} days")


def _line(bundle: dict[str, Any]) -> str:
    return f"{bundle['sha256'][:12]}  {bundle['name']} {bundle['version']}  {bundle['status']}"
