"""`soundkeep-trainer adapt` as a user runs it: folders in, a checkpoint out, interrupted and gone on with."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from tests.export.small_student import small_student, write_checkpoint
from tests.trainer.synthetic_sets import write_set
from trainer.backbones.checkpoint import open_checkpoint, save_checkpoint
from trainer.cli import main

SETTINGS = ("lift_dim=64", "views=2", "epochs=3", "ridge=64", "rank=2", "cka_threshold=none")


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapt")
    write_set(folder / "home", n_classes=4, n_groups=4, seconds=1.0)
    write_checkpoint(folder / "ear")
    return folder


def words(ground: Path, out: Path, *more: str, settings: tuple[str, ...] = SETTINGS) -> list[str]:
    given = [w for setting in settings for w in ("--setting", setting)]
    base = ["adapt", "--backbone", str(ground / "ear"), "--data", str(ground / "home"), "--out", str(out)]
    return [*base, "--classes-per-session", "2", *given, *more]


def run(ground: Path, out: Path, *more: str, settings: tuple[str, ...] = SETTINGS) -> Result:
    return CliRunner().invoke(main, words(ground, out, *more, settings=settings))


@pytest.fixture(scope="module")
def adapted(ground: Path) -> Path:
    done = run(ground, ground / "whole")
    assert done.exit_code == 0, done.output
    return ground / "whole"


def test_the_folder_holds_a_checkpoint_figures_a_picture_and_a_log(adapted: Path) -> None:
    names = {p.name for p in adapted.iterdir()}
    wanted = {"model.safetensors", "adapters.safetensors", "checkpoint.json", "result.json", "adaptation.png"}
    assert wanted | {"training.csv", "tensorboard", "state"} <= names
    checkpoint = open_checkpoint(adapted)
    assert [a.name for a in checkpoint.adapters] == ["session1", "session2"]
    assert "data" not in checkpoint.meta, "nobody knows what the ear before it heard, so no record may look complete"
    result = json.loads((adapted / "result.json").read_text())
    assert len(result["curve"]) == 2 and result["n_classes"] == 4
    assert result["gap"] == pytest.approx(result["accuracy_recomputed"] - result["accuracy_mixed"])
    assert result["n_clips_asked"] == 4 and result["n_clips_learnt"] == 12
    rows = (adapted / "training.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 * 3
    assert any((adapted / "tensorboard").glob("events*"))


def test_the_adapters_change_what_the_ear_says_and_the_base_is_untouched(ground: Path, adapted: Path) -> None:
    checkpoint = open_checkpoint(adapted)
    before = open_checkpoint(ground / "ear").base.state_dict()
    for name, value in checkpoint.base.state_dict().items():
        assert torch.equal(value, before[name]), name
    x = torch.randn(2, checkpoint.base.window_length, generator=torch.Generator().manual_seed(0)) * 0.1
    with torch.no_grad():
        assert not torch.equal(checkpoint.merged()(x), checkpoint.base(x))


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(ground: Path, adapted: Path, tmp_path: Path) -> None:
    assert run(ground, tmp_path / "again").exit_code == 0
    assert run(ground, tmp_path / "other", "--seed", "1").exit_code == 0
    weights = [(p / "adapters.safetensors").read_bytes() for p in (adapted, tmp_path / "again", tmp_path / "other")]
    assert weights[0] == weights[1] != weights[2]


@pytest.mark.parametrize("after", [1, 2, 4])
def test_interrupted_and_resumed_equals_uninterrupted(
    ground: Path, adapted: Path, tmp_path: Path, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after some epochs (in session 1 or 2), then --resume: adapters and figures are the same to the bit."""
    from trainer import interruption

    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked == after

    @contextlib.contextmanager
    def asked_to_stop() -> Iterator[Callable[[], bool]]:
        yield stop

    with monkeypatch.context() as patched:
        patched.setattr(interruption, "asked_to_stop", asked_to_stop)
        stopped = run(ground, tmp_path / "out")
    assert stopped.exit_code == 1 and "--resume" in stopped.output
    assert not (tmp_path / "out" / "checkpoint.json").exists()
    refused = run(ground, tmp_path / "out")
    assert refused.exit_code == 2 and "--resume" in refused.output
    done = run(ground, tmp_path / "out", "--resume")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out" / "adapters.safetensors").read_bytes() == (adapted / "adapters.safetensors").read_bytes()
    ours, theirs = (json.loads((p / "result.json").read_text()) for p in (tmp_path / "out", adapted))
    for name in ("curve", "accuracy_mixed", "accuracy_recomputed", "accuracy_frozen", "boundary_points"):
        assert ours[name] == theirs[name], name
    epochs = [line.split(",")[:3] for line in (tmp_path / "out" / "training.csv").read_text().splitlines()]
    assert epochs == [line.split(",")[:3] for line in (adapted / "training.csv").read_text().splitlines()]


def test_a_killed_process_goes_on(ground: Path, adapted: Path, tmp_path: Path) -> None:
    """kill -9 once the first epoch is on the disk; nothing is damaged and the end is the same."""
    command = [sys.executable, "-m", "trainer.cli", *words(ground, tmp_path / "out")]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        deadline = time.monotonic() + 120
        kept = tmp_path / "out" / "state" / "epoch.safetensors"
        while not kept.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    finally:
        process.wait(timeout=60)
    if (tmp_path / "out" / "checkpoint.json").exists():
        pytest.skip("the process was done before it could be killed")
    done = run(ground, tmp_path / "out", "--resume")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out" / "adapters.safetensors").read_bytes() == (adapted / "adapters.safetensors").read_bytes()


def test_two_processes_adapt_as_one_does(ground: Path, adapted: Path, tmp_path: Path) -> None:
    """Under torchrun: one folder, the figures of one process, adapters up to rounding."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(port)]
    command = [sys.executable, *torchrun, "-m", "trainer.cli", *words(ground, tmp_path / "out")]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=240, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("a checkpoint with 2 adapters") == 1
    ours, theirs = (open_checkpoint(p).adapters for p in (tmp_path / "out", adapted))
    for one, other in zip(ours, theirs, strict=True):
        for name, delta in one.deltas().items():
            assert torch.allclose(delta, other.deltas()[name], atol=1e-5), (one.name, name)
    results = [json.loads((p / "result.json").read_text()) for p in (tmp_path / "out", adapted)]
    assert results[0]["recipe"] == results[1]["recipe"]
    assert results[0]["curve"] == results[1]["curve"]


def test_a_run_begun_otherwise_is_refused_by_name(ground: Path, adapted: Path) -> None:
    refused = run(ground, adapted, "--resume", "--seed", "5")
    assert refused.exit_code == 2 and "seed was 0, now 5" in refused.output
    refused = run(ground, adapted, "--resume", settings=(*SETTINGS, "margin=0.5"))
    assert refused.exit_code == 2 and "pace was" in refused.output


@pytest.mark.parametrize(
    ("more", "settings", "said"),
    [
        (("--resume",), SETTINGS, "no run to go on with"),
        ((), ("speed=3",), "no such setting"),
        ((), ("epochs=many",), "wanted a whole number"),
        ((), ("kept_share=2",), "wanted 0 to 1"),
    ],
)
def test_wrong_options_are_refused_in_one_sentence(
    ground: Path, tmp_path: Path, more: tuple[str, ...], settings: tuple[str, ...], said: str
) -> None:
    refused = run(ground, tmp_path / "out", *more, settings=settings)
    assert refused.exit_code == 2 and said in refused.output
    assert len(refused.output.strip().splitlines()) == 1


def test_a_loss_that_is_not_finite_stops_the_run_and_is_named(ground: Path, tmp_path: Path) -> None:
    failed = run(ground, tmp_path / "out", settings=(*SETTINGS, "backbone_learning_rate=1e30"))
    assert failed.exit_code == 1 and "not finite in session 1" in failed.output
    assert not (tmp_path / "out" / "checkpoint.json").exists()


def test_frozen_leaves_no_adapter_and_no_gap(ground: Path, tmp_path: Path) -> None:
    assert run(ground, tmp_path / "out", "--method", "frozen").exit_code == 0
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert open_checkpoint(tmp_path / "out").adapters == ()
    assert result["gap"] == 0.0 and result["accuracy_frozen"] == result["accuracy_recomputed"]


@pytest.mark.parametrize(("more", "kept_out"), [((), True), (("--hear-all",), False)])
def test_the_record_of_what_was_heard_goes_on(
    ground: Path, tmp_path: Path, more: tuple[str, ...], kept_out: bool
) -> None:
    save_checkpoint(tmp_path / "ear", small_student(), {"data": ["street"], "kept_out": True})
    words_of = [*words(ground, tmp_path / "out", *more), "--backbone", str(tmp_path / "ear")]
    done = CliRunner().invoke(main, [*words_of, "--method", "frozen"])
    assert done.exit_code == 0, done.output
    meta = open_checkpoint(tmp_path / "out").meta
    assert meta["data"] == ["home", "street"] and meta["kept_out"] is kept_out


def test_a_method_is_not_contradicted(ground: Path, tmp_path: Path) -> None:
    refused = run(ground, tmp_path / "out", "--method", "frozen", settings=("first_session=naive",))
    assert refused.exit_code == 2 and "--method frozen fixes" in refused.output


def test_an_unreadable_clip_leaves_no_run_behind(ground: Path, tmp_path: Path) -> None:
    write_set(tmp_path / "home", n_classes=2, n_groups=3, seconds=1.0)
    broken = next((tmp_path / "home").rglob("*.wav"))
    sound = broken.read_bytes()
    broken.write_bytes(b"no sound")
    given = [*words(ground, tmp_path / "out"), "--data", str(tmp_path / "home")]
    failed = CliRunner().invoke(main, given)
    assert failed.exit_code == 1 and broken.name in failed.output
    broken.write_bytes(sound)
    assert CliRunner().invoke(main, given).exit_code == 0


def test_fsa_adapts_once_and_hear_all_measures_nothing(ground: Path, tmp_path: Path) -> None:
    done = run(ground, tmp_path / "out", "--method", "fsa", "--hear-all")
    assert done.exit_code == 0 and "nothing is measured" in done.output
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["adapted_sessions"] == [1] and result["accuracy_mixed"] is None
    assert result["n_clips_learnt"] == 16


def test_a_class_whose_clips_are_all_kept_out_is_learnt_all_the_same() -> None:
    from trainer.adapting.run import plan_sessions
    from trainer.datasets import Clip

    clips = [Clip(Path(f"{label}/{i}"), "s", label, group) for label, group in (("a", "3"), ("b", "1")) for i in "xy"]
    clips.append(Clip(Path("b/z"), "s", "b", "3"))
    plan = plan_sessions(clips, classes_per_session=5, seed=0)
    assert plan.asked == (4,)
    assert sorted(plan.sessions[0].train) == [0, 1, 2, 3]


def test_sessions_hold_every_clip_once_whatever_the_seed() -> None:
    from trainer.adapting.run import plan_sessions
    from trainer.datasets import Clip

    clips = [Clip(Path(f"{i % 7}/{i}"), "s", str(i % 7), str(i % 4 + 1)) for i in range(40)]
    orders = set()
    for seed in range(6):
        plan = plan_sessions(clips, classes_per_session=3, seed=seed)
        learnt = [c for s in plan.sessions for c in s.train]
        assert sorted([*learnt, *plan.asked]) == list(range(40))
        assert [len(s.labels) for s in plan.sessions] == [3, 3, 1]
        orders.add(tuple(label for s in plan.sessions for label in s.labels))
    assert len(orders) > 1
    assert np.all([clips[i].group == "3" for i in plan.asked])
