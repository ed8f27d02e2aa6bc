"""``fleet``: what all devices know together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from trainer.commands.answers import Answers
from trainer.commands.devices import data_option, opened

if TYPE_CHECKING:
    from trainer.server.fleet import FleetMemory
    from trainer.server.rehearing import Reheard

Command = Callable[..., None]
SPACE = click.option(
    "--space", metavar="SHA256", help="The space, or the beginning of its name; by default the newest."
)


def workers(command: Command) -> Command:
    """Add ``--executor``, ``--processes`` and ``--cluster``: who does the work."""
    for option in (
        click.option("--cluster", metavar="HOST:PORT", help="Head of a running Ray cluster; by default Ray runs here."),
        click.option("--processes", type=click.IntRange(1), default=1, show_default=True, help="Processes at work."),
        click.option("--executor", type=click.Choice(["local", "ray"]), default="local", help="Who does the work."),
    ):
        command = option(command)
    return command


@click.group()
def fleet() -> None:
    """Show and verify what the whole fleet knows; find devices whose labels harm it."""


@fleet.command()
@data_option
@SPACE
@click.option("--with-mapped", is_flag=True, help="Also what devices with the bundle before know, through its map.")
@click.option(
    "--from-clips", is_flag=True, help="Also what the clips of devices with other bundles teach in this space."
)
@workers
@click.pass_obj
def show(
    answers: Answers, data: Path, space: str | None, with_mapped: bool, from_clips: bool,
    executor: str, processes: int, cluster: str | None,
) -> None:  # fmt: skip
    """Sum up what the devices last said of themselves."""
    from trainer.server.executor import open_executor
    from trainer.server.fleet import fleet_memory
    from trainer.server.mapped import mapped_fleet
    from trainer.server.rehearing import hear_again

    with opened(data) as server, open_executor(executor, processes, cluster) as at_work:
        memory = fleet_memory(server, space, executor=at_work)
        older = mapped_fleet(server, memory) if with_mapped else None
        chosen = memory.selection.space
        again = None if chosen is None or not from_clips else hear_again(server, chosen.embedding, at_work)
    _answer(answers, memory, "", older, again)


@fleet.command()
@data_option
@SPACE
@workers
@click.pass_obj
def verify(answers: Answers, data: Path, space: str | None, executor: str, processes: int, cluster: str | None) -> None:
    """Check every statement, and sum them up in other orders, which must give the same bits."""
    from trainer.server.executor import open_executor
    from trainer.server.fleet import verify_fleet

    with opened(data) as server, open_executor(executor, processes, cluster) as at_work:
        memory = verify_fleet(server, space, executor=at_work)
    _answer(answers, memory, "verified: ", None)


@fleet.command()
@data_option
@SPACE
@click.option("--quarantine/--report-only", default=False, help="Leave devices that mix up sounds out of the sum.")
@click.pass_obj
def check(answers: Answers, data: Path, space: str | None, quarantine: bool) -> None:
    """Name devices whose labels harm a class: what they call A is what the others call B."""
    from trainer.server.fleet_check import check_fleet

    with opened(data) as server:
        findings = check_fleet(server, quarantine=quarantine, space=space)
    for finding in findings:
        answers.answer(finding.to_json(), finding.words)
    if not findings:
        answers.tell("no device was found whose labels harm a class")


def _answer(
    answers: Answers, memory: FleetMemory, before: str, older: FleetMemory | None, again: Reheard | None = None
) -> None:
    value = memory.to_json()
    words = [
        f"{before}{memory.n_devices} devices know {memory.n_classes} classes from {memory.n_records} examples "
        f"({memory.n_windows} windows)"
    ]
    if value["statistics_sha256"] is not None:
        words += [f"statistics {value['statistics_sha256']}", f"space {value['space']}"]
    others = {name: n for name, n in memory.selection.spaces.items() if name != value["space"]}
    words += [f"not in this sum: {n} devices in space {name[:12]}" for name, n in others.items()]
    if memory.selection.n_shared:
        words.append(f"{memory.selection.n_shared} examples are on several devices and count once for each:")
        words += [
            f"  {record[:12]} on {', '.join(i[:8] for i in ids)}" for record, ids in memory.selection.shared.items()
        ]
    if older is not None:
        keys = ("n_records", "n_windows", "n_classes", "n_devices")
        value["mapped"] = {key: getattr(older, key) for key in keys}
        words.append(
            f"beside it, through the linear map and not exact: {older.n_devices} devices, {older.n_classes} classes, "
            f"{older.n_records} examples"
        )
    if again is not None:
        value["from_clips"] = again.to_json()
        words.append(
            f"beside it, by hearing their clips again: {again.n_devices} devices in other spaces, "
            f"{value['from_clips']['n_classes']} classes, {again.n_records} examples ({again.n_left_out} left out)"
        )
    answers.answer(value, "\n".join(words))
