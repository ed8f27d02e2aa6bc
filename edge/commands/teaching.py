"""`soundkeep teach`, `ignore` and `wrong`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from edge.commands.workbench import Workbench
from edge.errors import MisuseError

if TYPE_CHECKING:
    from edge.backbones import FoundEar
    from edge.desk import Answer
    from edge.hearing import Example

_SECONDS = click.FloatRange(min=0.0, min_open=True)


@click.command()
@click.argument("label")
@click.argument("files", nargs=-1, type=click.Path())
@click.option("--last", type=_SECONDS, metavar="SECONDS", help="What the running listener heard in the last SECONDS.")
@click.option("--record", type=_SECONDS, metavar="SECONDS", help="What the running listener hears in the next SECONDS.")
@click.pass_obj
def teach(bench: Workbench, label: str, files: tuple[str, ...], last: float | None, record: float | None) -> None:
    """Teach LABEL from FILES (one file, one example), or from the running listener.

    All files or none: when one cannot be read, nothing is learnt. Advice never changes the exit code.
    """
    from edge.records import normalize_label

    name = normalize_label(label)
    _exactly_one_way(files, last, record)
    if files:
        found = bench.ear()
        examples = _examples(bench, found, files, background=False)
        with bench.writing(found.bundle) as desk:
            _report(bench, desk.teach(name, examples))
        return
    with bench.running_listener("--last and --record") as client:
        if last is not None:
            _report(bench, client.teach_last(name, last))
        elif record is not None:
            bench.tell(f"recording {record:g} s: make the sound now")
            _report(bench, client.teach_next(name, record))


@click.command()
@click.argument("files", nargs=-1, type=click.Path())
@click.option("--last", type=_SECONDS, metavar="SECONDS", help="What the running listener heard in the last SECONDS.")
@click.pass_obj
def ignore(bench: Workbench, files: tuple[str, ...], last: float | None) -> None:
    """Teach what to stay silent on, from FILES or from the running listener."""
    _exactly_one_way(files, last, None)
    if files:
        found = bench.ear()
        examples = _examples(bench, found, files, background=True)
        with bench.writing(found.bundle) as desk:
            _report(bench, desk.ignore(examples))
    elif last is not None:
        with bench.running_listener("--last") as client:
            _report(bench, client.ignore_last(last))


@click.command()
@click.argument("event", required=False)
@click.pass_obj
def wrong(bench: Workbench, event: str | None) -> None:
    """Ignore the sound of EVENT (by default the newest) from now on."""
    with bench.running_listener("`wrong`") as client:
        answer = client.wrong(event)
    heard = answer["event"]
    words = f"event {heard['id']} ({heard['label'] or 'unknown sound'}) is ignored from now on"
    bench.answer(answer, words)


def _exactly_one_way(files: Sequence[str], last: float | None, record: float | None) -> None:
    ways = bool(files) + (last is not None) + (record is not None)
    if ways != 1:
        raise MisuseError(
            f"{'no sound was' if ways == 0 else f'{ways} kinds of sound were'} named; "
            "give either FILES, or --last SECONDS, or --record SECONDS (only `teach` has --record)"
        )


def _examples(bench: Workbench, found: FoundEar, files: Sequence[str], *, background: bool) -> list[Example]:
    from edge.embedder import Embedder
    from edge.hearing import example_of_file

    embedder = Embedder(found.bundle)
    twin = None if found.before is None else Embedder(found.before)
    keep_audio = bench.settings().learn.clip_budget_bytes > 0
    return [
        example_of_file(file, embedder, background=background, keep_audio=keep_audio, twin=twin)
        for file in bench.progress(files, "listening to")
    ]


def _report(bench: Workbench, answer: Answer) -> None:
    for advice in answer["advice"]:
        bench.tell(f"advice: {advice['message']}")
    new = [record for record in answer["records"] if record["new"]]
    n_windows = sum(record["n_windows"] for record in new)
    what = f"learnt {answer['label']!r}" if answer["label"] is not None else "learnt what to ignore"
    words = f"{what}: {len(new)} new example(s), {n_windows} windows; {answer['n_records']} example(s) in all"
    bench.answer(answer, words)
