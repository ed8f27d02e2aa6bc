"""``jobs``: the backbone adapted to what the fleet heard."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge.errors import ConfigurationError, StateError
from trainer.commands.answers import Answers
from trainer.commands.devices import data_option

if TYPE_CHECKING:
    from trainer.server.opening import Server
    from trainer.server.policy import Policy
    from trainer.server.tables import Job

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
FOLLOW_SECONDS = 1.0
JOB_ID = click.IntRange(1, 2**31 - 1)


@contextmanager
def _opened(data: Path) -> Iterator[Server]:
    from trainer.server.opening import open_server

    server = open_server(data)
    try:
        yield server
    finally:
        server.close()


@click.group()
def jobs() -> None:
    """Have the backbone adapted to what the fleet heard; watch and cancel."""


@jobs.command("list")
@data_option
@click.pass_obj
def list_jobs(answers: Answers, data: Path) -> None:
    """List the jobs, newest first."""
    with _opened(data) as server:
        found = _jobs(server)
    for job in found:
        answers.answer(_described(job), _line(job))
    if not found:
        answers.tell(
            "no job yet; 'soundkeep-trainer jobs run' asks for one, 'jobs policy' says when one begins by itself"
        )


@jobs.command()
@click.argument("job_id", metavar="ID", type=JOB_ID)
@data_option
@click.pass_obj
def show(answers: Answers, job_id: int, data: Path) -> None:
    """Show one job: how far it is, or what came of it and what each gate said."""
    with _opened(data) as server:
        job = _job(server, job_id)
    answers.answer(_described(job), "\n".join(_lines(job)))


@jobs.command()
@click.option("--wait", is_flag=True, help="See it through here, or follow it where a server has taken it up.")
@click.option("--keys", type=FOLDER, help="Folder of the offline keys, to publish with.  [default: DATA/keys/offline]")
@data_option
@click.pass_obj
def run(answers: Answers, wait: bool, keys: Path | None, data: Path) -> None:
    """Ask for a job now, whatever the policy says of clips and days."""
    from trainer.server import queue
    from trainer.server.supervisor import Supervisor

    with _opened(data) as server:
        job_id = queue.enqueue(server, "by hand")
        if not wait:
            answers.answer(
                {"id": job_id, "status": "queued"},
                f"job {job_id} is queued; a running server takes it up within seconds, or add --wait to do it here",
            )
            return
        answers.tell(f"job {job_id}; Ctrl-C gives it back to the queue, 'jobs cancel {job_id}' ends it")
        supervisor = Supervisor(server, keys, say=answers.tell)
        try:
            while (job := _job(server, job_id)).status in queue.OPEN:
                if not supervisor.work_once():
                    time.sleep(FOLLOW_SECONDS)
        except KeyboardInterrupt:
            supervisor.stop()
            raise
        answers.answer(_described(job), "\n".join(_lines(job)))
    if job.status == "failed":
        raise StateError(f"job {job_id} failed: {job.error}")


@jobs.command()
@click.argument("job_id", metavar="ID", type=JOB_ID)
@data_option
@click.pass_obj
def cancel(answers: Answers, job_id: int, data: Path) -> None:
    """Cancel a job; one that runs ends within seconds."""
    from trainer.server import queue

    with _opened(data) as server:
        status = queue.cancel(server, job_id)
    words = "it is cancelled" if status == "cancelled" else "it was asked to end, and ends within half a minute"
    answers.answer({"id": job_id, "status": status}, f"job {job_id}: {words}")


@jobs.command()
@click.argument("job_id", metavar="ID", type=JOB_ID)
@data_option
@click.pass_obj
def log(answers: Answers, job_id: int, data: Path) -> None:
    """Print what the stages of a job said."""
    from trainer.server.supervisor import log_of

    with _opened(data) as server:
        path = log_of(server, _job(server, job_id))
    if path is None:
        raise StateError(f"job {job_id} has no log on this machine; 'jobs show {job_id}' says how far it came")
    text = path.read_text(encoding="utf-8", errors="replace").replace("\r", "\n")
    answers.answer({"id": job_id, "path": str(path), "log": text}, text.rstrip("\n"))


@jobs.command()
@click.option("--on/--off", default=None, help="Whether jobs begin by themselves.")
@click.option("--clips", metavar="N", help="New clips that ask for a job; 'none': they never do.")
@click.option("--days", metavar="D", help="Days after the last job that ask for one; 'none': they never do.")
@click.option("--set", "pairs", multiple=True, metavar="KEY=VALUE", help="Any other number of the policy.")
@click.option("--setting", multiple=True, metavar="KEY=VALUE", help="For 'adapt'; replaces all earlier ones.")
@click.option("--pool", multiple=True, metavar="NAME=DIR", help="Recordings for the new ear's prior; replaces earlier.")
@click.option("--no-pools", is_flag=True, help="Move the current ear's prior through the map instead.")
@click.option("--backbone", type=FOLDER, help="Bundle to start from while none is published.")
@data_option
@click.pass_obj
def policy(
    answers: Answers,
    on: bool | None,
    clips: str | None,
    days: str | None,
    pairs: tuple[str, ...],
    setting: tuple[str, ...],
    pool: tuple[str, ...],
    no_pools: bool,
    backbone: Path | None,
    data: Path,
) -> None:
    """Show the policy, after changing what is given."""
    from trainer.server.supervisor import read_policy, write_policy

    changes: dict[str, Any] = {} if on is None else {"on": on}
    changes |= {} if clips is None else {"min_clips": _number("--clips", clips)}
    changes |= {} if days is None else {"every_days": _number("--days", days)}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator:
            raise ConfigurationError(f"--set {pair!r}: wanted KEY=VALUE, such as epochs=5")
        changes[name] = _number(f"--set {name}", value)
    changes |= {"settings": setting} if setting else {}
    if pool or no_pools:
        changes["pools"] = dict(_pool(pair) for pair in pool)
    changes |= {} if backbone is None else {"backbone": str(backbone.resolve())}
    with _opened(data) as server:
        now = read_policy(server)
        if changes:
            now = _changed(now, changes)
            write_policy(server, now)
    answers.answer(now.to_mapping(), "\n".join(f"{key}: {value}" for key, value in now.to_mapping().items()))


def _changed(policy: Policy, changes: dict[str, Any]) -> Policy:
    mapping = policy.to_mapping()
    unknown = sorted(set(changes) - set(mapping))
    if unknown:
        raise ConfigurationError(f"the policy has no {unknown[0]!r}; wanted one of {', '.join(mapping)}")
    return replace(policy, **changes)


def _number(option: str, text: str) -> float | int | None:
    if text == "none":
        return None
    try:
        return int(text) if text.lstrip("-").isdigit() else float(text)
    except ValueError:
        raise ConfigurationError(f"{option} is {text!r}; wanted a number, or 'none'") from None


def _pool(pair: str) -> tuple[str, str]:
    name, separator, folder = pair.partition("=")
    if not separator or not Path(folder).is_dir():
        raise ConfigurationError(f"--pool {pair!r}: wanted NAME=DIR with a folder of recordings")
    return name, str(Path(folder).resolve())


def _jobs(server: Server) -> list[Job]:
    from sqlalchemy import select

    from trainer.server.database import reading
    from trainer.server.tables import Job

    with reading(server.engine) as session:
        return list(session.scalars(select(Job).order_by(Job.id.desc())))


def _job(server: Server, job_id: int) -> Job:
    job = next((job for job in _jobs(server) if job.id == job_id), None)
    if job is None:
        raise StateError(f"there is no job {job_id}; 'soundkeep-trainer jobs list' shows them")
    return job


def _described(job: Job) -> dict[str, Any]:
    names = ("id", "status", "stage", "progress", "asked_by", "created_at", "finished_at", "n_starts", "error")
    return {**{name: getattr(job, name) for name in names}, "input_sha256": job.input_sha256, "result": job.result}


def _line(job: Job) -> str:
    after = {"running": f"{job.stage} ({100 * job.progress:.0f} %)", "failed": job.error or ""}.get(job.status, "")
    if job.status in ("done", "unsigned") and job.result:
        made = job.result["bundle"]
        after = f"{made['name']} {made['version']} {made['sha256'][:12]}"
    return f"{job.id:4d}  {job.status:9s}  {job.asked_by}  {after}".rstrip()


def _lines(job: Job) -> Iterator[str]:
    yield _line(job)
    for name, gate in ((job.result or {}).get("gates") or {}).items():
        yield f"      gate {name}: {'passed' if gate['ok'] else 'FAILED'}: {gate['words']}"
    if job.result and job.result.get("next"):
        yield f"      next: {job.result['next']}"
