"""``soundkeep-bridge``: microcontrollers as ears. Exit codes: 0 done, 1 the world refused, 2 the command was wrong.

Answers go to stdout, with ``--json`` as one JSON object a line; words for people about them go to stderr. Commands live
in ``firmware_bridge.commands`` and are imported when they are called, so that help is fast.
"""

from __future__ import annotations

import importlib
import io
import sys
from typing import Any

import click

from edge import __version__
from edge.errors import SoundkeepError

COMMANDS: dict[str, tuple[str, str]] = {
    "listen": ("listening", "Listen through a device: as `soundkeep listen`, with all its commands."),
    "record": ("listening", "Record what a device hears to a WAV file."),
    "status": ("health", "Say what a device is, and how well its link does."),
    "probe": ("health", "Find a baud rate that works, by packets sent there and back."),
    "head": ("heads", "Send what was taught to a device that recognises by itself."),
    "watch": ("heads", "Print what a device recognises by itself."),
    "simulate": ("simulating", "Play a device from a WAV file, with faults to try."),
}


class _Bridge(click.Group):
    """The table above, loaded command by command."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"firmware_bridge.commands.{COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, words) for name, (_, words) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SoundkeepError as error:
            click.echo(f"soundkeep-bridge: {error}", err=True)
            ctx.exit(error.exit_code)


@click.group(cls=_Bridge, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--state", metavar="DIR", help="Where what was learnt is kept (else SOUNDKEEP_STATE, else your own folder)."
)
@click.option("--bundle", metavar="DIR", help="The backbone to use, a folder or a name of `soundkeep backbone list`.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line on stdout.")
@click.version_option(__version__, prog_name="soundkeep-bridge")
@click.pass_context
def main(ctx: click.Context, state: str | None, bundle: str | None, as_json: bool) -> None:
    """Hear through a microcontroller. ADDRESS: serial:/dev/ttyUSB0@921600, tcp:HOST:PORT, udp:PORT."""
    from edge.commands.workbench import Workbench
    from edge.config import state_directory

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")

    ctx.obj = Workbench(state_dir=state_directory(state), bundle_option=bundle, as_json=as_json)


if __name__ == "__main__":
    sys.exit(main())
