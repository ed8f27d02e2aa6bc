"""``devices``: who belongs to the fleet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trainer.commands.answers import Answers

if TYPE_CHECKING:
    from trainer.server.opening import Server

Command = Callable[..., None]


def data_option(command: Command) -> Command:
    """Add ``--data`` to a command."""
    where = click.Path(exists=True, file_okay=False, path_type=Path)
    return click.option("--data", type=where, required=True, help="The server's data folder.")(command)


@contextmanager
def opened(data: Path) -> Iterator[Server]:
    from trainer.server.opening import open_server

    server = open_server(data)
    try:
        yield server
    finally:
        server.close()


@click.group()
def devices() -> None:
    """List, enrol, revoke and remove the devices of the fleet."""


@devices.command("list")
@data_option
@click.pass_obj
def list_devices(answers: Answers, data: Path) -> None:
    """List the devices: name, id, state, when they were last seen, what they taught."""
    from trainer.server.devices import list_devices as all_devices

    with opened(data) as server:
        found = all_devices(server)
        now = server.clock()
    for device in found:
        answers.answer(device, _line(device, now))
    if not found:
        answers.tell("no device is enrolled yet; give one a token of 'soundkeep-trainer devices token'")


@devices.command()
@data_option
@click.pass_obj
def token(answers: Answers, data: Path) -> None:
    """Print a token with which one device may enrol."""
    from trainer.server.enrolment import make_token

    with opened(data) as server:
        made = make_token(server)
    answers.answer({"token": made}, made)


@devices.command()
@click.argument("device", metavar="ID")
@data_option
@click.pass_obj
def show(answers: Answers, device: str, data: Path) -> None:
    """Show one device. ID: its id, the beginning of it, or its name."""
    from trainer.server.devices import show_device

    with opened(data) as server:
        found = show_device(server, device)
        now = server.clock()
    answers.answer(found, "\n".join(_lines(found, now)))


@devices.command()
@click.argument("device", metavar="ID")
@click.option("--reason", help="Why; the device and the status page say so.")
@data_option
@click.pass_obj
def revoke(answers: Answers, device: str, reason: str | None, data: Path) -> None:
    """Shut a device out. What it taught stays in the fleet's memory until it is removed."""
    from trainer.server.devices import revoke_device

    with opened(data) as server:
        found = revoke_device(server, device, reason)
    answers.answer(found, f"{found['name']} ({found['id']}) is revoked")


@devices.command()
@click.argument("device", metavar="ID")
@data_option
@click.pass_obj
def remove(answers: Answers, device: str, data: Path) -> None:
    """Remove a device and everything that came from it, exactly."""
    from trainer.server.devices import remove_device

    with opened(data) as server:
        found = remove_device(server, device)
    answers.answer(found, f"{found['name']} ({found['id']}) and everything that came from it is removed")


@devices.command()
@click.argument("device", metavar="ID")
@data_option
@click.pass_obj
def release(answers: Answers, device: str, data: Path) -> None:
    """Lift the quarantine of a device: its statement counts again."""
    from trainer.server.devices import release_device

    with opened(data) as server:
        found = release_device(server, device)
    answers.answer(found, f"{found['name']} ({found['id']}) is active again")


def _line(device: dict[str, Any], now: float) -> str:
    from trainer.server.status_page import ago

    seen = "never seen" if device["last_seen_at"] is None else f"seen {ago(now - device['last_seen_at'])}"
    statement = device["statement"]
    taught = (
        "nothing yet" if statement is None else f"{statement['n_records']} records, {statement['n_windows']} windows"
    )
    return f"{device['id'][:12]}  {device['name']}  {device['status']}  {seen}  {taught}"


def _lines(device: dict[str, Any], now: float) -> Iterator[str]:
    yield _line(device, now)
    if device["reason"]:
        yield f"  why: {device['reason']}"
    if device["report"]:
        report = device["report"]
        bundle = report.get("bundle") or {}
        yield f"  bundle: {bundle.get('name', '?')} {bundle.get('version', '')}, slot {report.get('slot', '?')}"
        yield f"  shares: {report.get('setting', '?')}"
    if (statement := device["statement"]) is not None:
        yield f"  revision {statement['revision']}, statistics {statement['statistics_sha256']}"
        yield "  labels: " + ", ".join(f"{label} ({n})" for label, n in statement["labels"].items())
        if statement["held_back"]:
            yield f"  held back: {statement['held_back']}"
    yield f"  kept here: embeddings of {device['n_embedded']} records, {device['n_clips']} clips"
