"""The command line: global options, one table of commands, one place where errors become exit codes.

Exit codes: 0 done, 1 the world refused (a file, a device, a disk), 2 the command was wrong. Answers go to stdout, with
``--json`` as one JSON object per line; words for people about them go to stderr. Commands live in ``edge.commands`` and
are imported when they are called, so that help is fast.
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
    "listen": ("listening", "Listen, report what is heard, and take commands meanwhile."),
    "teach": ("teaching", "Teach a sound from files or from what the listener just heard."),
    "ignore": ("teaching", "Teach what to stay silent on."),
    "wrong": ("teaching", "Say that an event was wrong: it is ignored from now on."),
    "classify": ("recognition", "Say what is heard in files."),
    "classes": ("classes", "List what is taught; enable or disable a class."),
    "rename": ("classes", "Give a class another name."),
    "merge-classes": ("classes", "Make class A part of class B."),
    "forget": ("classes", "Forget a class or one record, exactly."),
    "undo": ("classes", "Take back the last command."),
    "history": ("classes", "List every command given so far."),
    "memory": ("memory", "Export, import and verify what was learnt."),
    "embed": ("recognition", "Write the embeddings of files' windows."),
    "backbone": ("backbone", "List, show, choose and import backbones."),
    "sync": ("sync", "Exchange what was learnt with your own server."),
    "doctor": ("device", "Check this device and say what to do."),
    "benchmark": ("device", "Measure this device, quickly."),
    "demo": ("device", "Hear, learn, forget and merge, on a scene made here."),
}


class _Commands(click.Group):
    """The table above, loaded command by command."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"edge.commands.{COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, words) for name, (_, words) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SoundkeepError as error:
            click.echo(f"soundkeep: {error}", err=True)
            ctx.exit(error.exit_code)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--state", metavar="DIR", help="Where what was learnt is kept (else SOUNDKEEP_STATE, else your own folder)."
)
@click.option("--bundle", metavar="DIR", help="The backbone to use, a folder or a name of `backbone list`.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line on stdout.")
@click.version_option(__version__, prog_name="soundkeep")
@click.pass_context
def main(ctx: click.Context, state: str | None, bundle: str | None, as_json: bool) -> None:
    """Teach a device sounds, live. It learns exactly, forgets exactly, and never forgets by accident."""
    from edge.commands.workbench import Workbench
    from edge.config import state_directory

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show stops nothing

    ctx.obj = Workbench(state_dir=state_directory(state), bundle_option=bundle, as_json=as_json)


if __name__ == "__main__":
    sys.exit(main())
