"""`soundkeep-bridge` as a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.simulators.listener_process import REPOSITORY, START_SECONDS, ListenerProcess

COMMAND = [sys.executable, "-m", "firmware_bridge.cli"]


def bridge(*arguments: object, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
        timeout=timeout,
    )


class BridgeListener(ListenerProcess):
    """`soundkeep-bridge listen ADDRESS`, which starts in ``__init__``."""

    def __init__(self, state: Path, bundle: Path, address: str, *options: str) -> None:
        self.state = state
        self.process = subprocess.Popen(
            [*COMMAND, "--state", str(state), "--bundle", str(bundle), "--json", "listen", address, *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=REPOSITORY,
        )

    def wait_until_heard(self, seconds: float) -> None:
        until = time.monotonic() + START_SECONDS
        with self.client as client:
            while client.health()["heard_s"] < seconds:
                assert time.monotonic() < until
                time.sleep(0.05)

    def stop(self) -> tuple[list[dict[str, Any]], str]:
        """Ask it to end as Ctrl-C does; the events that it printed, and its words."""
        self.process.terminate()
        out, err = self.process.communicate(timeout=START_SECONDS)
        assert self.process.returncode == 0, err.decode()
        return [json.loads(line) for line in out.splitlines()], err.decode()


@contextmanager
def bridge_listener(state: Path, bundle: Path, address: str, *options: str) -> Iterator[BridgeListener]:
    listener = BridgeListener(state, bundle, address, *options)
    try:
        listener.wait_until_it_answers()
        yield listener
    finally:
        if listener.process.poll() is None:
            listener.kill()
