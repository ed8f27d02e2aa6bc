"""`soundkeep doctor`, `benchmark` and `demo`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from edge.commands.workbench import Workbench
from edge.errors import NotExactError

_SIGNS = {"ok": "ok  ", "warn": "note", "fail": "FAIL"}


@click.command()
@click.pass_context
def doctor(ctx: click.Context) -> None:
    """Check every part of this device and say what to do. Exit code 1 when a part fails."""
    from edge.doctor import check_device

    bench: Workbench = ctx.obj
    failed = False
    for check in check_device(bench.state_dir, bench.bundle):
        bench.answer(asdict(check), f"{_SIGNS[check.state]}  {check.name}: {check.detail}")
        failed = failed or check.state == "fail"
    if failed:
        ctx.exit(1)


@click.command()
@click.pass_obj
def benchmark(bench: Workbench) -> None:
    """Measure this device with the backbone in use: a few seconds, nothing is kept."""
    from edge.device_benchmark import measure_device

    figures = measure_device(bench.bundle())
    width = max(map(len, figures))
    bench.answer(figures, "\n".join(f"{name:<{width}}  {value}" for name, value in figures.items()))


@click.command()
@click.option("--out", type=click.Path(file_okay=False), help="Where scene.wav, report.html and result.json go.")
@click.option("--data", type=click.Path(file_okay=False), help="Class folders of recordings, instead of our own scene.")
@click.pass_obj
def demo(bench: Workbench, out: str | None, data: str | None) -> None:
    """Teach, recognise, forget and merge on a scene made here; no microphone and no network."""
    from edge.demo import DEFAULT_OUT, run_demo, story_table

    folder = Path(out if out is not None else DEFAULT_OUT)
    story, result = run_demo(
        folder,
        data=None if data is None else Path(data),
        bundle_option=bench.bundle_option,
        state_dir=bench.state_dir,
        tell=bench.tell,
    )
    if bench.as_json:
        bench.answer(result, "")
    else:
        from rich.console import Console

        Console().print(story_table(story))
        click.echo(f"the scene, a report to look at and the figures are in {folder}")
    if not story.kept_its_word:
        raise NotExactError(f"a claim of exactness did not hold; see the table, and {folder / 'report.html'}")
