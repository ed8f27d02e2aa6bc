"""``soundkeep listen`` as a process of its own, hearing what the test writes into its pipe."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.client import ListenerClient
from edge.presence import PRESENCE_NAME, find_presence
from tests.bundles import SAMPLE_RATE

REPOSITORY = Path(__file__).resolve().parent.parent.parent
START_SECONDS = 60.0


class ListenerProcess:
    """Starts in ``__init__``; ``client`` talks to its API."""

    def __init__(self, state: Path, bundle: Path, *options: str) -> None:
        self.state = state
        command = [sys.executable, "-m", "edge", "--state", str(state), "--bundle", str(bundle), "--json", "listen"]
        self.process = subprocess.Popen(
            [*command, "--source", "-", "--pcm-rate", str(SAMPLE_RATE), *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=REPOSITORY,
        )
        self.n_played = 0

    def wait_until_it_answers(self) -> None:
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            assert self.process.poll() is None, self.process.communicate()[1].decode()
            presence = find_presence(self.state)
            if presence is not None and presence.pid == self.process.pid:
                return
            time.sleep(0.01)
        raise AssertionError("the listener did not start")

    @property
    def client(self) -> ListenerClient:
        presence = find_presence(self.state)
        assert presence is not None
        return ListenerClient(presence)

    @property
    def presence_mode(self) -> int:
        return stat.S_IMODE(os.stat(self.state / PRESENCE_NAME).st_mode)

    def play(self, samples: NDArray[np.float32]) -> None:
        """Write sound into the pipe and wait until it was decided, but for the last hop."""
        assert self.process.stdin is not None
        self.process.stdin.write(np.rint(np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
        self.process.stdin.flush()
        self.n_played += len(samples)
        until = time.monotonic() + START_SECONDS
        with self.client as client:
            while client.health()["heard_s"] < self.n_played / SAMPLE_RATE - 0.3:
                assert time.monotonic() < until
                time.sleep(0.02)

    def end(self) -> list[dict[str, Any]]:
        """Close the pipe, wait for a clean end and return the events it printed."""
        out, err = self.process.communicate(timeout=START_SECONDS)
        assert self.process.returncode == 0, err.decode()
        return [json.loads(line) for line in out.splitlines()]

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()


@contextmanager
def listener_process(state: Path, bundle: Path, *options: str) -> Iterator[ListenerProcess]:
    listener = ListenerProcess(state, bundle, *options)
    try:
        listener.wait_until_it_answers()
        yield listener
    finally:
        if listener.process.poll() is None:
            listener.kill()
