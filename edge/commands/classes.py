"""`soundkeep classes`, `rename`, `merge-classes`, `forget`, `undo` and `history`."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING

import click

from edge.commands.workbench import Workbench
from edge.errors import MisuseError

if TYPE_CHECKING:
    from edge.desk import Answer


@click.group(invoke_without_command=True)
@click.pass_context
def classes(ctx: click.Context) -> None:
    """List what is taught: label, examples, windows, whether it is reported."""
    if ctx.invoked_subcommand is not None:
        return
    bench: Workbench = ctx.obj
    with bench.reading(bench.bundle()) as learner:
        found = learner.classes()
    if not found:
        bench.tell("nothing is taught yet; begin with `soundkeep teach LABEL FILE...`")
    for entry in found:
        off = "" if entry["enabled"] else "  (disabled)"
        words = f"{entry['label']}  {entry['n_records']} example(s)  {entry['n_windows']} windows{off}"
        bench.answer(entry, words)


@classes.command()
@click.argument("label")
@click.pass_obj
def enable(bench: Workbench, label: str) -> None:
    """Report LABEL again."""
    _switch(bench, label, True)


@classes.command()
@click.argument("label")
@click.pass_obj
def disable(bench: Workbench, label: str) -> None:
    """Stop reporting LABEL; what was learnt stays."""
    _switch(bench, label, False)


def _switch(bench: Workbench, label: str, enabled: bool) -> None:
    with bench.writing() as desk:
        answer = desk.enable(label, enabled)
    bench.answer(answer, f"{answer['label']!r} is {'reported' if enabled else 'not reported any more'}")


@click.command()
@click.argument("old")
@click.argument("new")
@click.pass_obj
def rename(bench: Workbench, old: str, new: str) -> None:
    """Give the class OLD the name NEW, which no class may have."""
    with bench.writing() as desk:
        answer = desk.rename(old, new)
    bench.answer(answer, f"{old!r} is called {new!r} now ({answer['n_records']} example(s))")


@click.command("merge-classes")
@click.argument("a")
@click.argument("b")
@click.pass_obj
def merge_classes(bench: Workbench, a: str, b: str) -> None:
    """Make the examples of A examples of B; B stays."""
    with bench.writing() as desk:
        answer = desk.merge_classes(a, b)
    bench.answer(answer, f"{a!r} is part of {b!r} now ({answer['n_records']} example(s) moved)")


@click.command()
@click.argument("label", required=False)
@click.option("--record", metavar="ID", help="Forget one record: its id, or 8 or more digits of it.")
@click.option("--purge", is_flag=True, help="Remove the bytes for good; this cannot be undone.")
@click.pass_obj
def forget(bench: Workbench, label: str | None, record: str | None, purge: bool) -> None:
    """Forget the class LABEL, or one record. What is left is exactly as if it had never been taught."""
    if (label is None) == (record is None):
        raise MisuseError("name what to forget: either LABEL or --record ID")
    with bench.writing() as desk:
        if label is not None:
            answer = desk.forget(label, purge=purge)
        else:
            assert record is not None
            answer = desk.forget_record(record, purge=purge)
    what = repr(label) if label is not None else f"record {record}"
    bench.answer(answer, f"{what} is forgotten{' for good' if purge else ''} ({answer['n_records']} example(s))")


@click.command()
@click.pass_obj
def undo(bench: Workbench) -> None:
    """Take back the last command; again, the one before it."""
    with bench.writing() as desk:
        answer = desk.undo()
    bench.answer(answer, f"taken back: {_sentence(answer)}")


@click.command()
@click.pass_obj
def history(bench: Workbench) -> None:
    """List every command, oldest first."""
    from edge.desk import history_answer

    with bench.reading(bench.bundle()) as learner:
        entries = history_answer(learner)
    for entry in entries:
        when = datetime.fromtimestamp(entry["time"], timezone.utc).astimezone().strftime("%Y-%m-%d %H:%M:%S")
        undone = "  (taken back)" if entry["undone"] else ""
        bench.answer(entry, f"{entry['seq']:>6}  {when}  {_sentence(entry)}{undone}")


def _sentence(entry: Answer) -> str:
    detail = entry["detail"]
    what = detail.get("label") or " into ".join(str(detail[k]) for k in ("from", "into") if k in detail)
    examples = f", {entry['n_records']} example(s)" if entry["n_records"] else ""
    return f"{entry['action']} {what}".strip() + examples
