"""``soundkeep-trainer``: makes ears, and serves a fleet.

Exit codes: 0 done, 1 the world refused, 2 the command was wrong. With ``--json`` answers are one JSON object a line.
Commands live in ``trainer.commands`` and are imported when they are called, so that help is fast.
"""

from __future__ import annotations

import importlib
from typing import Any

import click

from edge import __version__
from edge.errors import SoundkeepError
from trainer.commands.answers import Answers

COMMANDS: dict[str, tuple[str, str]] = {
    "speak": ("sets", "Have espeak-ng say a vocabulary, as one more data set."),
    "rooms": ("sets", "Make plain noises and synthesised backgrounds, for a prior."),
    "split": ("sets", "Link sets into what is trained on and what is kept out."),
    "distil": ("distil", "Distil a small ear from several teachers at once."),
    "evaluate": ("evaluate", "Measure a checkpoint on the groups kept out."),
    "backbone": ("backbone", "List and fetch public backbones; run one on a waveform."),
    "adapt": ("adapt", "Adapt a backbone to classes that come in sessions."),
    "benchmark": ("benchmark", "Compare methods of class-incremental learning."),
    "serve": ("serve", "Run the server that a fleet of devices syncs with."),
    "devices": ("devices", "List, enrol, revoke and remove the devices of the fleet."),
    "fleet": ("fleet", "Show and verify what the whole fleet knows."),
    "labels": ("labels", "Merge, split or keep private the labels of the devices."),
    "jobs": ("jobs", "Have the backbone adapted to what the fleet heard; watch and cancel."),
    "bundles": ("bundles", "Publish bundles; list what was published and why not."),
    "keys": ("keys", "Make, show and rotate the keys that bundles are signed with."),
}


class _Trainer(click.Group):
    """The table above, loaded command by command."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"trainer.commands.{COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, words) for name, (_, words) in COMMANDS.items()])

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


@click.group(cls=_Trainer, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line on stdout.")
@click.version_option(__version__, prog_name="soundkeep-trainer")
@click.pass_context
def main(ctx: click.Context, as_json: bool) -> None:
    """Train the ears that soundkeep's devices hear with, serve a fleet, and adapt them to new sounds."""
    ctx.obj = Answers(as_json)


if __name__ == "__main__":
    main()
