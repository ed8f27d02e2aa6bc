"""One stage of a job as a child process: logged, watched, and ended with every process that it began.

All of them inherit two words of environment: the stage's own, and the name of its log. The first finds those that left
the process group (torchrun gives each rank a session of its own); the second those of a server that was killed, before
the stage is begun again.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.server.signing_keys import PASSPHRASE_VARIABLE

STOP_SECONDS = 20.0
LOOK_SECONDS = 0.1
MAX_LOG_TAIL = 4000
MARK = "SOUNDKEEP_STAGE_LOG"
OWN_MARK = "SOUNDKEEP_STAGE"
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Ended:
    """returncode: negative for a signal. asked: it was asked to stop. words: the last line that it said."""

    returncode: int
    asked: bool
    words: str

    @property
    def done(self) -> bool:
        return self.returncode == 0 and not self.asked


def run_stage(
    arguments: Sequence[str], log: Path, *, go_on: Callable[[], bool], threads: int = 1, stop_s: float = STOP_SECONDS
) -> Ended:
    """Run ``python ARGUMENTS`` until it ends, or until ``go_on``, which is asked all the time, says no.

    It is asked to end by SIGINT, then killed after ``stop_s`` seconds, with every process that it began. Output is
    added to ``log``. Whatever happens, no process of the stage is left and none is a zombie.
    """
    mark = str(log.absolute())
    own = secrets.token_hex(16)
    environment = {**os.environ, **dict.fromkeys(ONE_THREAD, str(threads)), "PYTHONUNBUFFERED": "1"}
    environment |= {MARK: mark, OWN_MARK: own}
    environment.pop(PASSPHRASE_VARIABLE, None)  # no stage signs anything
    environment["PYTHONPATH"] = os.pathsep.join(
        [str(Path(__file__).resolve().parent.parent.parent), *filter(None, [environment.get("PYTHONPATH")])]
    )
    log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    _end_all(MARK, mark)
    with log.open("ab") as output:
        output.write(f"$ python {' '.join(arguments)}\n".encode())
        output.flush()
        begin = output.tell()
        leash = [sys.executable, "-m", "trainer.server.leashed", str(os.getpid()), sys.executable, *arguments]
        child = subprocess.Popen(
            leash, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, start_new_session=True
        )
        asked, kill_at = False, 0.0
        try:
            while child.poll() is None:
                if not asked and not go_on():
                    asked, kill_at = True, time.monotonic() + stop_s
                    _signal(child.pid, signal.SIGINT)
                elif asked and time.monotonic() > kill_at:
                    _signal(child.pid, signal.SIGKILL)
                time.sleep(LOOK_SECONDS)
        finally:
            _signal(child.pid, signal.SIGKILL)
            returncode = child.wait()
            _end_all(OWN_MARK, own)  # not those of another worker, that took the job over meanwhile
    return Ended(returncode, asked, _last_words(log, begin))


def _signal(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):  # nobody is left; macOS says the second of zombies
        return


def _end_all(variable: str, value: str) -> None:
    """Kill every process that has this word in its environment. Without /proc the group must do."""
    wanted = f"{variable}={value}".encode()
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if wanted in path.read_bytes().split(b"\0"):
                os.kill(int(path.parent.name), signal.SIGKILL)
        except (OSError, ValueError):  # gone meanwhile, or of another user
            continue


def _last_words(log: Path, begin: int) -> str:
    """The last line of a stage that is no progress bar; empty when it said nothing."""
    with log.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(begin, size - MAX_LOG_TAIL))
        lines = file.read(MAX_LOG_TAIL).decode("utf-8", "replace").replace("\r", "\n").splitlines()
    said = [line.strip() for line in lines if line.strip() and not line.startswith("{")]
    return said[-1][:500] if said else ""
