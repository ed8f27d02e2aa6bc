"""The jobs as a queue in the database: claimed by lease, so that one worker at a time holds a job, whatever dies.

A worker that holds a job renews its lease; one that is gone does not, and the job is taken up by another, or by the
same server after its restart at once: the owner's name tells a dead process of this machine.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import or_, select, text
from sqlalchemy.orm import Session

from edge.errors import MisuseError, StateError
from trainer.server.database import is_sqlite, lock_row, transaction
from trainer.server.opening import Server
from trainer.server.tables import Job

LEASE_SECONDS = 60.0
MAX_STARTS = 3
FAR_SECONDS = 86_400.0
"""A lease that ends later than this was given by a clock that ran ahead; a live holder renews it within seconds."""
OPEN = ("queued", "running")
_LOCK = 0x736B6A6F  # "skjo"

Standing = Literal["held", "cancelled", "lost"]


def enqueue(server: Server, asked_by: str) -> int:
    """Put a job into the queue; returns its number. Raises StateError when one is queued or running."""
    with transaction(server.engine) as session:
        _alone(session)
        there = session.scalar(select(Job).where(Job.status.in_(OPEN)).order_by(Job.id).limit(1))
        if there is not None:
            raise StateError(
                f"job {there.id} is {there.status}; one at a time: wait for it, or 'soundkeep-trainer jobs cancel "
                f"{there.id}'"
            )
        job = Job(created_at=server.clock(), asked_by=asked_by[:200])
        session.add(job)
        session.flush()
        return job.id


def claim(server: Server, owner: str, *, lease_s: float = LEASE_SECONDS) -> Job | None:
    """Take a job that nobody holds, oldest first; None when there is none.

    A job whose lease ran out, or whose owner is a dead process of this machine, is begun again, at most ``MAX_STARTS``
    times in all; then it has failed.
    """
    now = server.clock()
    far = now + max(FAR_SECONDS, lease_s)
    free = or_(
        Job.lease_until.is_(None), Job.lease_until < now, Job.lease_until > far,
        Job.lease_owner.like(f"{_machine()}:%"),
    )  # fmt: skip
    query = select(Job).where(Job.status.in_(OPEN), or_(Job.status == "queued", free)).order_by(Job.id)
    with transaction(server.engine) as session:
        if not is_sqlite(session):
            query = query.with_for_update(skip_locked=True)
        for job in session.scalars(query):
            held = job.status == "running" and job.lease_until is not None and now <= job.lease_until <= far
            if held and not _is_dead(job.lease_owner or ""):
                continue
            if job.cancel_asked:
                _end(job, "cancelled", None, None, now)
            elif job.n_starts >= MAX_STARTS:
                words = f"it was begun {job.n_starts} times and its worker was lost each time, last in: {job.stage}"
                _end(job, "failed", job.result, words, now)
            else:
                job.status, job.lease_owner, job.lease_until = "running", owner, now + lease_s
                job.n_starts += 1
                return job
    return None


def heartbeat(
    server: Server,
    job_id: int,
    owner: str,
    *,
    stage: str | None = None,
    progress: float | None = None,
    input_sha256: str | None = None,
    lease_s: float = LEASE_SECONDS,
) -> Standing:
    """Renew the lease and note how far the job is (progress: 0 to 1). ``lost``: another worker has it, or it ended."""
    with transaction(server.engine) as session:
        job = _held(session, job_id, owner)
        if job is None:
            return "lost"
        job.lease_until = server.clock() + lease_s
        job.stage = job.stage if stage is None else stage[:100]
        job.progress = job.progress if progress is None else progress
        job.input_sha256 = job.input_sha256 if input_sha256 is None else input_sha256
        return "cancelled" if job.cancel_asked else "held"


def finish(
    server: Server, job_id: int, owner: str, status: str, result: Mapping[str, Any] | None, error: str | None
) -> bool:
    """End a job as ``done``, ``unsigned``, ``failed`` or ``cancelled``; False when it is no longer this worker's."""
    with transaction(server.engine) as session:
        job = _held(session, job_id, owner)
        if job is None:
            return False
        _end(job, status, None if result is None else dict(result), error, server.clock())
        return True


def release(server: Server, job_id: int, owner: str) -> None:
    """Give a job back, as a server does that is stopped: the next worker goes on, and this start does not count."""
    with transaction(server.engine) as session:
        job = _held(session, job_id, owner)
        if job is not None:
            job.status, job.lease_owner, job.lease_until = "queued", None, None
            job.n_starts -= 1


def cancel(server: Server, job_id: int) -> str:
    """Cancel a job: at once when it waits, within seconds when it runs. Returns its status. Raises StateError."""
    with transaction(server.engine) as session:
        job = lock_row(session, Job, job_id)
        if job is None:
            raise StateError(f"there is no job {job_id}; 'soundkeep-trainer jobs list' shows them")
        if job.status not in OPEN:
            raise StateError(f"job {job_id} is {job.status} already; there is nothing to cancel")
        job.cancel_asked = True
        if job.status == "queued":
            _end(job, "cancelled", None, None, server.clock())
        return job.status


def this_worker() -> str:
    """The name of a worker in this process: machine, process id and its start, so that no other ever has it."""
    return f"{_machine()}:{os.getpid()}:{_started(os.getpid())}"


def _machine() -> str:
    """This machine since its last start; a container with processes of its own is another machine."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8]
        space = os.readlink("/proc/self/ns/pid").strip("pid:[]")
    except OSError:
        boot, space = "", ""
    return f"{socket.gethostname()[:40]}/{boot}/{space}"


def _started(pid: int) -> str:
    """When a process began, in ticks; empty when there is no such process or it is a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def _is_dead(owner: str) -> bool:
    """Whether an owner is a process of this machine that is gone; of other machines only the lease tells."""
    machine, _, rest = owner.partition(":")
    pid, _, started = rest.partition(":")
    if machine != _machine() or not pid.isdigit() or not Path("/proc/self/stat").exists():
        return False
    return _started(int(pid)) != started.partition(":")[0]


def _held(session: Session, job_id: int, owner: str) -> Job | None:
    job = lock_row(session, Job, job_id)
    return job if job is not None and job.status == "running" and job.lease_owner == owner else None


def _end(job: Job, status: str, result: dict[str, Any] | None, error: str | None, now: float) -> None:
    if status not in ("done", "unsigned", "failed", "cancelled"):
        raise MisuseError(f"a job cannot end as {status!r}")
    job.status, job.result, job.error, job.finished_at = status, result, error, now
    job.lease_owner = job.lease_until = None


def _alone(session: Session) -> None:
    """Keep other transactions that put jobs into the queue waiting; SQLite has one writer anyway."""
    if not is_sqlite(session):
        session.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
