"""``labels``: what the operator decides about the names that the devices give to sounds."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from trainer.commands.answers import Answers
from trainer.commands.devices import data_option, opened

DEVICE = click.option("--device", metavar="ID", help="Of this device only: its id, the beginning of it, or its name.")


@click.group()
def labels() -> None:
    """Merge, split or keep private the labels of the devices."""


@labels.command("list")
@data_option
@click.pass_obj
def list_(answers: Answers, data: Path) -> None:
    """List the rules. A device's own rule goes before the one for all devices."""
    from trainer.server.labels import list_rules

    with opened(data) as server:
        rules = list_rules(server)
    for rule in rules:
        answers.answer(asdict(rule), _words(rule.device_id, rule.label, rule.action, rule.target))
    if not rules:
        answers.tell("no rules: every device's labels are the fleet's labels")


@labels.command()
@click.argument("label")
@click.argument("target")
@DEVICE
@data_option
@click.pass_obj
def merge(answers: Answers, label: str, target: str, device: str | None, data: Path) -> None:
    """In the fleet, LABEL counts as TARGET."""
    _set(answers, data, "merge", label, target, device)


@labels.command()
@click.argument("label")
@click.argument("target", required=False)
@DEVICE
@data_option
@click.pass_obj
def split(answers: Answers, label: str, target: str | None, device: str | None, data: Path) -> None:
    """Give each device's LABEL a class of its own, 'LABEL (device)'; with --device also TARGET."""
    _set(answers, data, "split", label, target, device)


@labels.command()
@click.argument("label")
@DEVICE
@data_option
@click.pass_obj
def private(answers: Answers, label: str, device: str | None, data: Path) -> None:
    """Have nothing of LABEL on the server; the devices are asked for statements without it."""
    _set(answers, data, "private", label, None, device)


@labels.command()
@click.argument("label")
@DEVICE
@data_option
@click.pass_obj
def clear(answers: Answers, label: str, device: str | None, data: Path) -> None:
    """Take the rule about LABEL back."""
    from trainer.server.labels import clear_rule

    with opened(data) as server:
        rule = clear_rule(server, label, device=device)
    answers.answer(asdict(rule), f"taken back: {_words(rule.device_id, rule.label, rule.action, rule.target)}")


def _set(answers: Answers, data: Path, action: str, label: str, target: str | None, device: str | None) -> None:
    from trainer.server.labels import set_rule

    with opened(data) as server:
        rule = set_rule(server, action, label, target, device=device)
    answers.answer(asdict(rule), _words(rule.device_id, rule.label, rule.action, rule.target))


def _words(device_id: str, label: str, action: str, target: str | None) -> str:
    whose = f"device {device_id[:8]}" if device_id else "all devices"
    what = {
        "merge": f"{label!r} counts as {target!r}",
        "split": f"{label!r} is a class of its own" + (f", {target!r}" if target else ""),
        "private": f"{label!r} stays on the device",
    }[action]
    return f"{whose}: {what}"
