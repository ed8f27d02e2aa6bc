"""`soundkeep memory export`, `import` and `verify`."""

from __future__ import annotations

from pathlib import Path

import click

from edge.commands.workbench import Workbench


@click.group()
def memory() -> None:
    """Export, import and verify what was learnt."""


@memory.command("export")
@click.argument("file", type=click.Path(dir_okay=False))
@click.pass_obj
def export_memory(bench: Workbench, file: str) -> None:
    """Write what is known now to FILE: the same bytes for the same examples, however they came to be known."""
    from edge.memory_file import write_memory

    bundle = bench.bundle()
    with bench.reading(bundle) as learner:
        write_memory(Path(file), bundle.space, learner.records)
        n_records, n_windows = learner.n_records, learner.n_windows
    answer = {"file": file, "n_records": n_records, "n_windows": n_windows, "space": bundle.space.sha256}
    bench.answer(answer, f"{file}: {n_records} example(s), {n_windows} windows")


@memory.command("import")
@click.argument("files", nargs=-1, required=True, type=click.Path())
@click.pass_obj
def import_memory(bench: Workbench, files: tuple[str, ...]) -> None:
    """Learn what other devices know, exactly; what is known already counts once. All files or none."""
    from edge.memory_file import encode_memory, read_memory
    from edge.records import Record

    bundle = bench.bundle()
    union: dict[str, Record] = {}
    for file in bench.progress(files, "reading"):
        _, records = read_memory(Path(file), expected=bundle.space)
        union.update({record.id: record for record in records})
    with bench.writing(bundle) as desk:
        answer = desk.import_memory(encode_memory(bundle.space, union))
    if answer["n_near_duplicates"]:
        bench.tell(
            f"advice: {answer['n_near_duplicates']} of the new example(s) are nearly the same as known ones; "
            "other hardware may have embedded the same sound a little differently"
        )
    words = f"{answer['n_new']} new example(s), {answer['n_known']} known already"
    bench.answer(answer, words)


@memory.command()
@click.pass_obj
def verify(bench: Workbench) -> None:
    """Check the chain of commands; learn everything anew, backwards and in random bursts: it must come out the same."""
    from edge.verification import verify_memory

    bundle = bench.bundle()
    with bench.reading(bundle) as learner:
        verified = verify_memory(learner)
    words = (
        f"chain of {verified.n_rows} rows is intact; {verified.n_records} example(s), {verified.n_windows} windows, "
        f"{verified.n_classes} class(es); statistics {verified.statistics_sha256}"
    )
    bench.answer(verified.to_json(), words)
