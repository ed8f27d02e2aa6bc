"""One job from clips to a bundle: adapt, export, link, gates. Each stage is a child process and leaves a file behind.

The folder ``DATA/jobs/<input_sha256>`` is named by what the job starts from, so a job that was interrupted anywhere
goes on: a stage whose file is there is not done again, and ``adapt --resume`` goes on within the one that trains. The
ear that is adapted is the current bundle, in whose weights the sessions of all earlier jobs are merged already.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

from edge.bundle import Bundle, default_bundle_path, open_bundle
from edge.durable import write_file
from edge.errors import BundleError, SoundkeepError
from trainer.server.checkpoints import is_finished, mend
from trainer.server.database import reading
from trainer.server.material import TRAIN, in_classes_of, input_sha256, job_folder, lay_out, usable_clips
from trainer.server.opening import Server
from trainer.server.policy import Policy, why_not
from trainer.server.stage import Ended, run_stage
from trainer.server.tables import PublishedBundle

MAX_LAUNCHES = 3
BUNDLES_FOLDER = "bundles"
LOG = "job.log"


class JobError(SoundkeepError):
    """A job cannot go on, and doing it again would change nothing: the sentence is for the operator."""


class Interrupted(SoundkeepError):
    """The job was cancelled, its lease lost, or the server is being stopped."""


@dataclass(frozen=True)
class Work:
    """What a job is done with. note: told the stage and how far the job is (0 to 1). go_on: asked all the time."""

    server: Server
    policy: Policy
    note: Callable[[str, float], None]
    go_on: Callable[[], bool]
    sure: Callable[[], bool]
    """As ``go_on``, after asking the database: before a stage is begun."""
    named: Callable[[str], None]
    """Told the name of the job's folder as soon as it is known."""

    def require(self) -> None:
        if not self.go_on():
            raise Interrupted("the job was interrupted")

    def require_surely(self) -> None:
        if not self.sure():
            raise Interrupted("the job was interrupted")


@dataclass(frozen=True)
class Outcome:
    """candidate: the bundle's folder. verdicts: of the gates. figures: what is kept of the job, as JSON values."""

    parent: Bundle
    candidate: Bundle
    verdicts: Mapping[str, Any]
    figures: Mapping[str, Any]

    @property
    def passed(self) -> bool:
        return bool(self.verdicts["passed"])

    @property
    def why_refused(self) -> str:
        """Which gates failed, in words."""
        failed = {name: gate["words"] for name, gate in self.verdicts["gates"].items() if not gate["ok"]}
        return "; ".join(f"gate {name}: {words}" for name, words in failed.items())


def current_bundle(server: Server, policy: Policy) -> Bundle:
    """The bundle that was published last; before the first one that of the policy, else the one that is shipped."""
    published = PublishedBundle.status == "published"
    with reading(server.engine) as session:
        order = (PublishedBundle.published_at.desc(), PublishedBundle.version.desc())
        names = session.scalars(select(PublishedBundle.sha256).where(published).order_by(*order)).all()
    for name in names:
        folder = bundle_folder(server.data_dir, name)
        if folder.is_dir():
            return open_bundle(folder)
    return open_bundle(policy.backbone or default_bundle_path())


def bundle_folder(data_dir: Path, sha256: str) -> Path:
    return data_dir / BUNDLES_FOLDER / sha256


def adapt_to_fleet(work: Work, *, first_start: bool) -> Outcome:
    """Do all stages that are not done yet. Raises JobError, Interrupted, and what the database or the disk refuse."""
    policy, server = work.policy, work.server
    parent = current_bundle(server, policy)
    precision = parent.manifest.extra.get("export", {}).get("precision", "float32")
    if precision != "float32":
        raise JobError(
            f"the current bundle {parent.name} {parent.version} is {precision}; only a float32 one can be adapted: "
            "publish the float32 bundle of the same ear, or name one with 'jobs policy --backbone DIR'"
        )
    with reading(server.engine) as session:
        clips = in_classes_of(usable_clips(session), policy)
    counts: dict[str, int] = {}
    for clip in clips:
        counts[clip.label] = counts.get(clip.label, 0) + 1
    missing = why_not(policy, counts)
    if missing is not None:
        raise JobError(missing)
    name = input_sha256(parent.sha256, clips, policy)
    folder = job_folder(server.data_dir, name)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    work.named(name)
    if first_start:
        (folder / "gates.json").unlink(missing_ok=True)
    stages = _Stages(work, folder, parent, _next_version(server, parent))
    work.note("clips", 0.0)
    material = lay_out(server, folder, clips, alive=work.require)
    stages.adapt()
    stages.export()
    stages.link()
    verdicts = stages.gates()
    return Outcome(parent, open_bundle(folder / "linked"), verdicts, stages.figures(material))


@dataclass(frozen=True)
class _Stages:
    work: Work
    folder: Path
    parent: Bundle
    version: int

    @property
    def log(self) -> Path:
        return self.folder / LOG

    def adapt(self) -> None:
        """Multi-session PACE from the current ear. A run whose process was killed goes on after its last epoch."""
        run, policy = self.folder / "run", self.work.policy
        if is_finished(run):
            return
        arguments = ["-m", "trainer.cli", "adapt", "--backbone", str(self.parent.path)]
        arguments += ["--data", str(self.folder / TRAIN), "--out", str(run), "--hear-all", "--method", "pace"]
        arguments += ["--classes-per-session", str(policy.classes_per_session), "--threads", str(policy.threads)]
        settings = {"epochs": str(policy.epochs), "lift_dim": "none"}  # the read-out of the run is asked nothing
        for setting in policy.settings:
            key, _, value = setting.partition("=")
            settings[key] = value
        for key, value in settings.items():
            arguments += ["--setting", f"{key}={value}"]
        if policy.max_windows is not None:
            arguments += ["--max-windows", str(policy.max_windows)]
        launcher = []
        if policy.n_gpus > 1:
            # a launcher of its own rendezvous port each time: a relaunch never meets what a killed rank left behind
            launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(policy.n_gpus)]
        for launch in range(1, MAX_LAUNCHES + 1):
            torn = mend(run)
            if torn:
                self._write(f"removed what was cut off: {', '.join(torn)}")
            resume = ["--resume"] if (run / "state" / "recipe.json").exists() else []
            ended = self._run("adapt", 0.05, 0.7, [*launcher, *arguments, *resume], watched=self._epochs)
            if ended.done:
                return
            killed = ended.returncode < 0 or launcher
            if not killed or launch == MAX_LAUNCHES:
                raise _failed("adapt", ended)
            self._write(f"adapt ended with {ended.returncode}; it goes on after its last epoch")

    def export(self) -> None:
        """The graph of the adapted network. No clip of the fleet goes into it: a canary holds sound, and all get it."""
        out, run, policy = self.folder / "candidate", self.folder / "run", self.work.policy
        if _is_bundle(out):
            return
        manifest = self.parent.manifest
        arguments = ["-m", "export.cli", "bundle", str(run), "--out", str(out), "--name", manifest.name]
        arguments += ["--version", str(self.version), "--licence", manifest.licence, "--measure", "none"]
        arguments += ["--hop", str(manifest.hop_length), "--precision", "float32"]
        for name, pool in policy.pools.items():
            arguments += ["--data", f"{name}={pool}"]
        self._must("export", 0.7, 0.8, arguments)

    def link(self) -> None:
        """The map from the current ear's space, and its prior moved through it where no pool makes a better one."""
        out = self.folder / "linked"
        if _is_bundle(out):
            return
        arguments = ["-m", "export.cli", "link", str(self.folder / "candidate"), "--parent", str(self.parent.path)]
        arguments += ["--out", str(out), "--data", f"fleet={self.folder / TRAIN}"]
        for name, pool in self.work.policy.pools.items():
            arguments += ["--data", f"{name}={pool}"]
        if not self.work.policy.pools:
            arguments.append("--prior-from-parent")
        self._must("link", 0.8, 0.9, arguments)

    def gates(self) -> Mapping[str, Any]:
        """What the gates say; asked once in a job."""
        path, settings = self.folder / "gates.json", self.folder / "settings.json"
        verdicts = _read_json(path)
        if verdicts is None:
            write_file(settings, [json.dumps(self.work.policy.to_mapping()).encode("utf-8")])
            arguments = ["-m", "trainer.server.gates", str(self.parent.path), str(self.folder / "linked")]
            self._must("gates", 0.9, 1.0, [*arguments, str(self.folder), str(settings)])
            verdicts = _read_json(path)
        if verdicts is None:
            raise JobError(f"the gates left no verdict in {path}; run the job again")
        return verdicts

    def figures(self, material: Mapping[str, Any]) -> dict[str, Any]:
        """What is kept of the job beside the verdicts."""
        result = _read_json(self.folder / "run" / "result.json") or {}
        return {
            "parent": {"name": self.parent.name, "version": self.parent.version, "sha256": self.parent.sha256},
            "n_clips": material["n_train"],
            "n_held_out": material["n_held_out"],
            "classes": material["classes"],
            "n_sessions": len(result.get("sessions", [])),
        }

    def _must(self, stage: str, begin: float, end: float, arguments: list[str]) -> None:
        """Run a stage that is short enough to be begun again where its process was killed."""
        for launch in range(1, MAX_LAUNCHES + 1):
            ended = self._run(stage, begin, end, arguments)
            if ended.done:
                return
            if ended.returncode >= 0 or launch == MAX_LAUNCHES:
                raise _failed(stage, ended)
            self._write(f"{stage} ended with {ended.returncode}; it is begun again")

    def _run(
        self, stage: str, begin: float, end: float, arguments: list[str], *, watched: Callable[[], str] = lambda: ""
    ) -> Ended:
        work = self.work
        work.require_surely()
        work.note(stage, begin)

        def go_on() -> bool:
            words = watched()
            work.note(f"{stage}, {words}" if words else stage, begin)
            return work.go_on()

        ended = run_stage(arguments, self.log, go_on=go_on, threads=work.policy.threads)
        if ended.asked:
            raise Interrupted(f"{stage} was interrupted")
        work.note(stage, end)
        return ended

    def _epochs(self) -> str:
        """How far the training is: the last row of its log."""
        try:
            lines = (self.folder / "run" / "training.csv").read_text(encoding="utf-8").splitlines()
            session, stage, epoch = lines[-1].split(",")[:3] if len(lines) > 1 else ("", "", "")
        except (OSError, ValueError):
            return ""
        return f"session {session}, {stage}, epoch {epoch}" if session else ""

    def _write(self, words: str) -> None:
        with self.log.open("a", encoding="utf-8") as file:
            file.write(words + "\n")


def _next_version(server: Server, parent: Bundle) -> int:
    """Above the parent and every bundle of its name that was ever made public, so that a version names one bundle."""
    shown = PublishedBundle.status != "refused"
    with reading(server.engine) as session:
        query = select(func.max(PublishedBundle.version)).where(PublishedBundle.name == parent.name, shown)
        highest = session.scalar(query)
    return max(parent.version, highest or 0) + 1


def _is_bundle(folder: Path) -> bool:
    """Whether a stage's bundle is there and whole; one that is not is removed."""
    if not folder.exists():
        return False
    try:
        open_bundle(folder)
    except BundleError:
        shutil.rmtree(folder)
        return False
    return True


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _failed(stage: str, ended: Ended) -> JobError:
    how = f"was killed by signal {-ended.returncode}" if ended.returncode < 0 else f"ended with {ended.returncode}"
    return JobError(f"{stage} {how}: {ended.words or 'it said nothing'}")
