"""``fleet``: what all devices know together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from trainer.commands.answers import Answers
from trainer.commands.devices import data_option, opened

if TYPE_CHECKING:
    from trainer.server.fleet import FleetMemory

SPACE = click.option(
    "--space", metavar="SHA256", help="The space, or the beginning of its name; by default the newest."
)


@click.group()
def fleet() -> None:
    """Show and verify what the whole fleet knows; find devices whose labels harm it."""


@fleet.command()
@data_option
@SPACE
@click.option("--with-mapped", is_flag=True, help="Also what devices with the bundle before know, through its map.")
@click.pass_obj
def show(answers: Answers, data: Path, space: str | None, with_mapped: bool) -> None:
    """Sum up what the devices last said of themselves."""
    from trainer.server.fleet import fleet_memory
    from trainer.server.mapped import mapped_fleet

    with opened(data) as server:
        memory = fleet_memory(server, space)
        older = mapped_fleet(server, memory) if with_mapped else None
    _answer(answers, memory, "", older)


@fleet.command()
@data_option
@SPACE
@click.pass_obj
def verify(answers: Answers, data: Path, space: str | None) -> None:
    """Check every statement, and sum them up in other orders, which must give the same bits."""
    from trainer.server.fleet import verify_fleet

    with opened(data) as server:
        memory = verify_fleet(server, space)
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


def _answer(answers: Answers, memory: FleetMemory, before: str, older: FleetMemory | None) -> None:
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
    answers.answer(value, "\n".join(words))
