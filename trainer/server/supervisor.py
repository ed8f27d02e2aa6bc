"""Looks at the policy, takes jobs from the queue and sees them through, on one thread beside the answering of requests.

Any number of servers may do so on one database: a job has one holder at a time. What a killed server leaves is gone
with it (``trainer.server.leashed``), and its job goes on where it was at the next start.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from edge.errors import SoundkeepError, StateError
from trainer.server import queue
from trainer.server.adaptation import (
    LOG,
    Interrupted,
    Outcome,
    Work,
    adapt_to_fleet,
)
from trainer.server.database import reading, transaction
from trainer.server.handover import publish_if_keys
from trainer.server.material import JOBS_FOLDER, job_folder, remove_recordings, situation
from trainer.server.opening import Server
from trainer.server.policy import POLICY_KEY, Policy, Situation, reason_to_begin
from trainer.server.publishing import register_bundle
from trainer.server.tables import Job, PublishedBundle, Setting

HEARTBEAT_SECONDS = 5.0
LOOK_SECONDS = 1.0
POLICY_SECONDS = 60.0
_log = logging.getLogger("soundkeep.server")


def read_policy(server: Server) -> Policy:
    """The operator's policy, the defaults where nothing was set. Raises ConfigurationError."""
    with reading(server.engine) as session:
        row = session.get(Setting, POLICY_KEY)
    return Policy() if row is None else Policy.from_mapping(row.value)


def write_policy(server: Server, policy: Policy) -> None:
    """Put ``policy`` in force, for jobs that begin from now on."""
    with transaction(server.engine) as session:
        session.merge(Setting(key=POLICY_KEY, value=policy.to_mapping()))


def ask_by_policy(server: Server, policy: Policy) -> int | None:
    """Put a job into the queue if the policy says so; returns its number."""
    n_new, n_per_class, last_job_at, busy = situation(server)
    reason = reason_to_begin(policy, Situation(server.clock(), n_new, n_per_class, last_job_at, busy))
    if reason is None:
        return None
    try:
        return queue.enqueue(server, reason)
    except StateError:  # another server was faster
        return None


@dataclass
class _Hold:
    """A job that this worker holds: renews the lease while it is asked, and remembers when it must stop."""

    server: Server
    job_id: int
    owner: str
    lease_s: float
    heartbeat_s: float
    stopping: threading.Event
    say: Callable[[str], object]
    standing: queue.Standing = "held"
    stage: str = ""
    progress: float = 0.0
    input_sha256: str | None = None
    _renewed: float = field(default_factory=time.monotonic)
    _asked: float = field(default_factory=time.monotonic)

    def note(self, stage: str, progress: float) -> None:
        new = stage.partition(",")[0] != self.stage.partition(",")[0]
        if stage != self.stage:
            self.say(stage)
        self.stage, self.progress = stage, progress
        if new:
            self._beat()

    def named(self, input_sha256: str) -> None:
        self.input_sha256 = input_sha256
        self._beat()

    def go_on(self) -> bool:
        if time.monotonic() - self._asked >= self.heartbeat_s:
            self._beat()
        return self.standing == "held" and not self.stopping.is_set()

    def sure(self) -> bool:
        """Whether this worker holds the job at this moment, and not only some seconds ago."""
        self._beat()
        return self.go_on()

    def _beat(self) -> None:
        """A database that is away for a moment does not stop the work; one that is away for a lease does."""
        now = self._asked = time.monotonic()
        try:
            self.standing = queue.heartbeat(
                self.server, self.job_id, self.owner, stage=self.stage, progress=self.progress,
                input_sha256=self.input_sha256, lease_s=self.lease_s,
            )  # fmt: skip
            self._renewed = now
        except SQLAlchemyError as error:
            _log.warning("job %d: the lease cannot be renewed: %s", self.job_id, _first_line(error))
            if now - self._renewed > self.lease_s:
                self.standing = "lost"


class Supervisor:
    """The worker of one process. keys_dir: where the offline keys are looked for, None: in DATA.

    say: is told each step, for a person who waits.
    """

    def __init__(
        self,
        server: Server,
        keys_dir: Path | None = None,
        *,
        lease_s: float = queue.LEASE_SECONDS,
        heartbeat_s: float = HEARTBEAT_SECONDS,
        look_s: float = LOOK_SECONDS,
        policy_s: float = POLICY_SECONDS,
        say: Callable[[str], object] = lambda words: None,
    ) -> None:
        self._server, self._keys_dir, self._say = server, keys_dir, say
        self._lease_s, self._heartbeat_s, self._look_s, self._policy_s = lease_s, heartbeat_s, look_s, policy_s
        self._owner = f"{queue.this_worker()}:{id(self):x}"
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_s: float = 30.0) -> None:
        """End the stage that runs, give its job back to the queue, and end the thread."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def work_once(self) -> bool:
        """Take a job and see it through; False when there is none. Call it from one thread at a time."""
        job = queue.claim(self._server, self._owner, lease_s=self._lease_s)
        if job is None:
            return False
        hold = _Hold(
            self._server, job.id, self._owner, self._lease_s, self._heartbeat_s, self._stopping,
            lambda words: self._say(f"job {job.id}: {words}"),
        )  # fmt: skip
        _log.info("job %d begins (start %d)", job.id, job.n_starts)
        try:
            self._see_through(job, hold)
        finally:
            if hold.input_sha256 is not None and hold.standing != "lost":
                remove_recordings(job_folder(self._server.data_dir, hold.input_sha256))
        return True

    def _see_through(self, job: Job, hold: _Hold) -> None:
        server, end = self._server, queue.finish
        try:
            work = Work(server, read_policy(server), hold.note, hold.go_on, hold.sure, hold.named)
            outcome = adapt_to_fleet(work, first_start=job.n_starts == 1)
            if not outcome.passed:
                _remember(server, outcome, job.id, "refused")
                end(server, job.id, self._owner, "failed", _result(outcome), outcome.why_refused)
                return
            hold.note("publish", 1.0)
            work.require_surely()
            register_bundle(server, outcome.candidate)
            _remember(server, outcome, job.id, "candidate")
            why_unsigned = publish_if_keys(server, outcome.candidate.sha256, self._keys_dir)
            result = {**_result(outcome), **({"next": why_unsigned} if why_unsigned else {})}
            end(server, job.id, self._owner, "unsigned" if why_unsigned else "done", result, None)
        except Interrupted:
            if hold.standing == "cancelled":
                end(server, job.id, self._owner, "cancelled", None, None)
            elif hold.standing == "held":
                queue.release(server, job.id, self._owner)
        except SoundkeepError as error:
            end(server, job.id, self._owner, "failed", None, str(error))
        except OSError as error:
            words = f"{error.filename or 'a file'} cannot be written ({error.strerror or error}); free the disk"
            end(server, job.id, self._owner, "failed", None, words)

    def _run(self) -> None:
        looked = float("-inf")
        while not self._stopping.is_set():
            if time.monotonic() - looked >= self._policy_s:
                looked = time.monotonic()
                self._quietly(self._sweep)
                self._quietly(lambda: ask_by_policy(self._server, read_policy(self._server)))
            if not self._quietly(self.work_once):
                self._stopping.wait(self._look_s)

    def _sweep(self) -> None:
        """Remove recordings in folders of jobs that ended, or went on in another one because a clip was forgotten."""
        with reading(self._server.engine) as session:
            still = {job.input_sha256 for job in session.query(Job).where(Job.status.in_(queue.OPEN))}
        for folder in (self._server.data_dir / JOBS_FOLDER).glob("*"):
            if folder.name not in still:
                remove_recordings(folder)

    def _quietly(self, what: Callable[[], object]) -> object:
        """A failure is logged; the next round tries again."""
        try:
            return what()
        except Exception as error:  # the thread must outlive a database that is away, and a fault of ours
            _log.warning("jobs: %s: %s", type(error).__name__, _first_line(error), exc_info=True)
            return None


def log_of(server: Server, job: Job) -> Path | None:
    """Where the log of a job lies, None when it has not come so far."""
    if job.input_sha256 is None:
        return None
    path = job_folder(server.data_dir, job.input_sha256) / LOG
    return path if path.exists() else None


def _remember(server: Server, outcome: Outcome, job_id: int, status: str) -> None:
    """Note the bundle and what the gates said; a bundle that is public already stays so."""
    bundle = outcome.candidate
    with transaction(server.engine) as session:
        row = session.get(PublishedBundle, bundle.sha256)
        if row is None:
            row = PublishedBundle(sha256=bundle.sha256, created_at=server.clock(), status=status)
            session.add(row)
        elif row.status in ("candidate", "refused"):
            row.status = status
        row.name, row.version, row.space_sha256 = bundle.name, bundle.version, bundle.space.sha256
        row.parent_space_sha256, row.gates, row.job_id = outcome.parent.space.sha256, dict(outcome.verdicts), job_id


def _result(outcome: Outcome) -> dict[str, object]:
    bundle = outcome.candidate
    named = {"name": bundle.name, "version": bundle.version, "sha256": bundle.sha256, "space": bundle.space.sha256}
    return {"bundle": named, "gates": outcome.verdicts["gates"], **outcome.figures}


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
