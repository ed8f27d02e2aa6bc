"""A job from clips to a published bundle, with real processes; killed on the way, refused by a gate, cancelled."""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import CliRunner

from edge.bundle import Bundle, open_bundle
from edge.linear_map import parent_map
from tests.faults import repetitions
from tests.simulators.running_server import ServeProcess, wait_for
from tests.simulators.shared_clips import share_sounds, write_ear
from trainer.cli import main
from trainer.server import adaptation, queue
from trainer.server.adaptation import JobError, Work, adapt_to_fleet, current_bundle
from trainer.server.database import reading
from trainer.server.material import JOBS_FOLDER
from trainer.server.opening import Server, open_server
from trainer.server.policy import Policy
from trainer.server.stage import Ended
from trainer.server.supervisor import Supervisor, ask_by_policy, read_policy, write_policy
from trainer.server.tables import Job, PublishedBundle

SMALL = Policy(epochs=2, max_windows=2, min_clips=10)


@pytest.fixture(scope="module")
def ear(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_ear(tmp_path_factory.mktemp("ear") / "ear")


@pytest.fixture
def server(tmp_path: Path, ear: Bundle) -> Server:
    server = open_server(tmp_path / "data")
    write_policy(server, replace(SMALL, backbone=str(ear.path)))
    return server


def job(server: Server, number: int) -> Job:
    with reading(server.engine) as session:
        found = session.get(Job, number)
    assert found is not None
    return found


def bundles(server: Server) -> list[PublishedBundle]:
    with reading(server.engine) as session:
        return list(session.query(PublishedBundle).order_by(PublishedBundle.created_at))


def children_of(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def jobs(server: Server, *words: object) -> Any:
    return CliRunner().invoke(main, ["--json", "jobs", *map(str, words), "--data", str(server.data_dir)])


def test_the_whole_way(server: Server, ear: Bundle) -> None:
    """The policy asks; the server is killed in mid-job and goes on; a gate refuses; with another limit it is published.

    One test, because one adaptation serves all of it.
    """
    share_sounds(server, 10)
    write_policy(server, replace(read_policy(server), min_map_cosine=2.0))  # no map is that good
    with ServeProcess(server.data_dir) as process:
        wait_for(lambda: bool(list((server.data_dir / JOBS_FOLDER).glob("*/run/training.csv"))))
        stages = children_of(process.pid)
        process.kill()
        assert stages and not psutil.wait_procs(stages, timeout=5.0)[1], "a stage outlived its server"
    assert job(server, 1).status == "running" and job(server, 1).asked_by == "policy: 30 new clips"
    with ServeProcess(server.data_dir) as process:
        wait_for(lambda: job(server, 1).status not in queue.OPEN)
        mapped = Path(f"/proc/{process.pid}/maps").read_text()
        assert "torch" not in mapped and "onnxruntime" not in mapped, "stages are processes of their own"
        assert process.stop() == 0
    ended = job(server, 1)
    assert (ended.status, ended.n_starts) == ("failed", 2), ended.error
    assert "gate map: its map has cosine" in (ended.error or "") and "wanted 2" in (ended.error or "")
    assert [row.status for row in bundles(server)] == ["refused"], "a failed gate publishes nothing"
    assert (
        not (server.data_dir / "bundles").exists() and current_bundle(server, read_policy(server)).sha256 == ear.sha256
    )
    folder = server.data_dir / JOBS_FOLDER / str(ended.input_sha256)
    assert "--resume" in (folder / "job.log").read_text(), "the second start went on with the first one's training"
    assert not list(folder.rglob("*.wav")), "what devices share does not live on in the folder of a job"
    assert ask_by_policy(server, read_policy(server)) is None, "the same clips are no reason for another job"

    assert jobs(server, "policy", "--set", "min_map_cosine=0.5").exit_code == 0
    told: list[str] = []
    number = queue.enqueue(server, "by hand")
    assert Supervisor(server, say=told.append).work_once()
    assert job(server, number).status == "done", (job(server, number).error, job(server, number).result)
    assert not any("adapt" in words or "export" in words for words in told), "what was made once is not made again"
    (made,) = bundles(server)
    assert (made.status, made.name, made.version, made.parent_space_sha256) == ("published", "ear", 2, ear.space.sha256)
    bundle = open_bundle(server.data_dir / "bundles" / made.sha256)
    of = parent_map(bundle)
    assert (
        of is not None and of.space == ear.space and current_bundle(server, read_policy(server)).sha256 == made.sha256
    )
    canary = bundle.canary()
    assert canary is not None and "synthesised" in bundle.read("MODEL_CARD.md").decode(), "no sound of the fleet in it"
    shown = json.loads(jobs(server, "show", number).stdout)
    assert shown["result"]["bundle"]["sha256"] == made.sha256 and shown["result"]["gates"]["accuracy"]["ok"]
    assert "gates" in json.loads(jobs(server, "log", number).stdout)["log"]
    assert [json.loads(line)["status"] for line in jobs(server, "list").stdout.splitlines()] == ["done", "failed"]


def test_a_running_job_is_cancelled(server: Server) -> None:
    share_sounds(server, 8)
    number = queue.enqueue(server, "me")
    supervisor = Supervisor(server, look_s=0.1, heartbeat_s=0.1)
    supervisor.start()
    wait_for(lambda: bool(psutil.Process().children()))
    assert jobs(server, "cancel", number).exit_code == 0
    wait_for(lambda: job(server, number).status not in queue.OPEN)
    supervisor.stop()
    assert job(server, number).status == "cancelled" and not psutil.Process().children()
    again = jobs(server, "cancel", number)
    assert again.exit_code == 1 and "is cancelled already" in again.stderr


def test_a_stopped_server_gives_its_job_back(server: Server) -> None:
    share_sounds(server, 8)
    number = queue.enqueue(server, "me")
    supervisor = Supervisor(server, look_s=0.1)
    supervisor.start()
    wait_for(lambda: bool(psutil.Process().children()))
    supervisor.stop()
    assert (job(server, number).status, job(server, number).n_starts) == ("queued", 0)
    assert not psutil.Process().children()


def test_jobs_that_cannot_be_say_why(server: Server, tmp_path: Path) -> None:
    told = jobs(server, "run", "--wait")
    assert told.exit_code == 1 and "0 classes of the fleet have 4 clips or more" in told.stderr
    assert "Traceback" not in told.stderr
    for words in (["show", 9], ["log", 9], ["cancel", 9], ["log", 1]):
        assert jobs(server, *words).exit_code == 1
    for words in (["--set", "colour=1"], ["--clips", "many"], ["--set", "epochs"], ["--pool", "x"], ["--set", "on=2"]):
        assert jobs(server, "policy", *words).exit_code == 2, words
    kept = json.loads(jobs(server, "policy", "--off", "--days", "3", "--pool", f"p={tmp_path}").stdout)
    assert (kept["on"], kept["every_days"], kept["pools"]) == (False, 3, {"p": str(tmp_path)})
    assert json.loads(jobs(server, "policy", "--on", "--days", "none", "--no-pools").stdout)["pools"] == {}


def work(server: Server) -> Work:
    return Work(
        server, read_policy(server), lambda stage, progress: None, lambda: True, lambda: True, lambda name: None
    )


def made_of(server: Server) -> bytes:
    (path,) = (server.data_dir / JOBS_FOLDER).glob("*/run/model.safetensors")
    return path.read_bytes() + (path.parent / "adapters.safetensors").read_bytes()


@pytest.mark.faults
def test_killed_ranks_and_torn_checkpoints_cost_one_epoch(
    server: Server, tmp_path: Path, ear: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 22 of the fault table: the training is killed at a random moment, and what it kept is cut off.

    It goes on by itself; in the full run what comes of it is compared with a run that nothing happened to, to the bit.
    """
    share_sounds(server, 6)
    write_policy(server, replace(read_policy(server), epochs=repetitions(2, 6), classes_per_session=2))
    monkeypatch.setattr(adaptation._Stages, "export", _only_the_training)
    calm = open_server(tmp_path / "calm")
    if repetitions(0, 1):
        share_sounds(calm, 6)
        write_policy(calm, read_policy(server))
        with pytest.raises(JobError, match="only the training"):
            adapt_to_fleet(work(calm), first_start=True)
    whole = adaptation.run_stage
    chance = random.Random(1)
    n_killed = 0

    def killing(arguments: list[str], log: Path, *, go_on: Callable[[], bool], **more: Any) -> Ended:
        nonlocal n_killed
        state = Path(arguments[arguments.index("--out") + 1]) / "state"
        begun, delay, first = time.monotonic(), chance.uniform(0.0, 1.0), n_killed == 0

        def asked() -> bool:
            nonlocal n_killed
            if first and n_killed == 0 and (state / "recipe.json").exists() and time.monotonic() > begun + delay:
                for child in psutil.Process().children():
                    child.send_signal(signal.SIGKILL)
                n_killed += 1
                torn = sorted(state.glob("*.safetensors"))
                if torn:
                    torn[-1].write_bytes(torn[-1].read_bytes()[: chance.randrange(torn[-1].stat().st_size)])
            return go_on()

        return whole(arguments, log, go_on=asked, **more)

    monkeypatch.setattr(adaptation, "run_stage", killing)
    for _ in range(repetitions(1, 20)):
        n_killed = 0
        for folder in (server.data_dir / JOBS_FOLDER).glob("*"):
            for path in sorted(folder.rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
        with pytest.raises(JobError, match="only the training"):
            adapt_to_fleet(work(server), first_start=True)
        assert n_killed == 1 and not psutil.Process().children()
        assert not repetitions(0, 1) or made_of(server) == made_of(calm)


def _only_the_training(stages: Any) -> None:
    raise JobError("only the training is of interest here")
