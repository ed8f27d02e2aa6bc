"""Stages as child processes: nothing of them is left, whoever dies first; torn checkpoints are found without torch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import save_file

from trainer.server.checkpoints import is_finished, is_whole, mend
from trainer.server.stage import MARK, run_stage

FORKS = """
import subprocess, sys, time
from pathlib import Path
command = [sys.executable, "-c", "import time; time.sleep(60)"]
children = [subprocess.Popen(command, start_new_session=own) for own in (False, True)]
Path(sys.argv[1]).write_text(" ".join(str(c.pid) for c in children))
print("ready", flush=True)
{then}
"""


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def gone(pids: list[int], within_s: float = 5.0) -> bool:
    until = time.monotonic() + within_s
    while any(map(alive, pids)) and time.monotonic() < until:
        time.sleep(0.02)
    return not any(map(alive, pids))


def no_zombies() -> bool:
    return not [p for p in psutil.Process().children() if p.status() == psutil.STATUS_ZOMBIE]


def written(path: Path) -> list[int]:
    until = time.monotonic() + 10.0
    while not (path.exists() and path.read_text()) and time.monotonic() < until:
        time.sleep(0.02)
    return [int(word) for word in path.read_text().split()]


def test_a_stage_that_ends_well(tmp_path: Path) -> None:
    ended = run_stage(["-c", "import os; print(os.environ['OMP_NUM_THREADS'])"], tmp_path / "log", go_on=lambda: True)
    assert ended.done and ended.words == "1" and no_zombies()
    assert (tmp_path / "log").read_text().splitlines()[-1] == "1"


def test_a_stage_that_fails_says_its_last_words(tmp_path: Path) -> None:
    script = "import sys; sys.stderr.write('bar\\rfirst\\nadapt: the disk is full\\n'); sys.exit(3)"
    ended = run_stage(["-c", script], tmp_path / "log", go_on=lambda: True)
    assert (ended.done, ended.returncode, ended.words) == (False, 3, "adapt: the disk is full")


@pytest.mark.parametrize("stubborn", [False, True])
def test_a_stage_that_is_stopped_takes_its_children_along(tmp_path: Path, stubborn: bool) -> None:
    ignore = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); " if stubborn else ""
    script = ignore + FORKS.format(then="time.sleep(60)")
    pids = tmp_path / "pids"
    ended = run_stage(["-c", script, str(pids)], tmp_path / "log", go_on=lambda: not pids.exists(), stop_s=0.5)
    assert ended.asked and ended.returncode == (-signal.SIGKILL if stubborn else -signal.SIGINT)
    assert gone(written(pids)) and no_zombies()


def test_ranks_do_not_outlive_their_first_process(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    ended = run_stage(["-c", FORKS.format(then="import os; os._exit(1)"), str(pids)], tmp_path / "log", go_on=lambda: 1)
    assert ended.returncode == 1 and gone(written(pids))


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's leash is Linux's")
@pytest.mark.parametrize("leashed", [True, False])
def test_a_stage_dies_with_its_server(tmp_path: Path, leashed: bool) -> None:
    """kill -9 of the server. Without the leash the stage goes on, and two would write one folder."""
    stage = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(30)"
    if leashed:
        script = (
            "from pathlib import Path; from trainer.server.stage import run_stage; "
            f"run_stage(['-c', {stage!r}], Path({str(tmp_path / 'log')!r}), go_on=lambda: True)"
        )
    else:
        script = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {stage!r}], start_new_session=True)"
    with subprocess.Popen([sys.executable, "-c", script]) as server:
        (child,) = written(tmp_path / "pid")
        server.kill()
    assert gone([child], within_s=5.0 if leashed else 0.5) == leashed
    if not leashed:
        os.kill(child, signal.SIGKILL)


def test_what_a_killed_server_left_is_ended_before_the_stage_begins_again(tmp_path: Path) -> None:
    log = tmp_path / "log"
    environment = {**os.environ, MARK: str(log)}
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], env=environment) as left:
        assert run_stage(["-c", "pass"], tmp_path / "other", go_on=lambda: True).done and left.poll() is None
        assert run_stage(["-c", "pass"], log, go_on=lambda: True).done
        assert left.wait(5.0) == -signal.SIGKILL


def tensors(path: Path) -> Path:
    save_file({"a": torch.ones(3, 4), "b": torch.zeros(7)}, path, {"values": "{}"})
    return path


def test_every_cut_of_a_file_of_tensors_is_found(tmp_path: Path) -> None:
    data = tensors(tmp_path / "whole.safetensors").read_bytes()
    assert is_whole(tmp_path / "whole.safetensors")
    for n in range(0, len(data), 3):
        (tmp_path / "cut.safetensors").write_bytes(data[:n])
        assert not is_whole(tmp_path / "cut.safetensors"), n
    (tmp_path / "cut.safetensors").write_bytes(bytes(len(data)))
    assert not is_whole(tmp_path / "cut.safetensors") and not is_whole(tmp_path / "absent")


def test_mending_removes_what_is_cut_off_and_nothing_else(tmp_path: Path) -> None:
    state = tmp_path / "run" / "state"
    state.mkdir(parents=True)
    (state / "recipe.json").write_text("{}")
    good, torn = tensors(state / "session-0001.safetensors"), tensors(state / "epoch.safetensors")
    assert mend(tmp_path / "run") == []
    torn.write_bytes(torn.read_bytes()[:-1])
    assert mend(tmp_path / "run") == ["epoch.safetensors"] and good.exists() and not torn.exists()
    assert not is_finished(tmp_path / "run")
    (state / "recipe.json").write_text("{")
    assert mend(tmp_path / "run") == ["run"] and not (tmp_path / "run").exists() and mend(tmp_path / "run") == []
