"""``soundkeep listen`` as a process of its own for benchmarks, fed through its standard input, watched from outside."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.client import ListenerClient
from edge.presence import find_presence

REPOSITORY = Path(__file__).resolve().parent.parent
START_SECONDS = 60.0


class Listening:
    """A running listener. ``start_s``: from the start of the process until its API answers."""

    def __init__(self, state: Path, bundle: Path | None, *, sample_rate: int, one_core: bool) -> None:
        self.state = state
        self.sample_rate = sample_rate
        chosen = [] if bundle is None else ["--bundle", str(bundle)]
        command = [sys.executable, "-m", "edge", "--state", str(state), *chosen, "--json", "listen"]
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        began = time.perf_counter()
        self.process = subprocess.Popen(
            [*command, "--source", "-", "--pcm-rate", str(sample_rate), "--api", "127.0.0.1:0"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._said,
            cwd=REPOSITORY,
        )
        if one_core and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(self.process.pid, {max(os.sched_getaffinity(0))})
        self._wait_until_it_answers()
        self.start_s = time.perf_counter() - began

    @property
    def client(self) -> ListenerClient:
        presence = find_presence(self.state)
        assert presence is not None
        return ListenerClient(presence)

    def play(self, samples: NDArray[np.float32]) -> None:
        """Write sound into its pipe."""
        assert self.process.stdin is not None
        self.process.stdin.write(np.rint(np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
        self.process.stdin.flush()

    def stop(self) -> None:
        """End the stream and wait."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=START_SECONDS)

    def said(self) -> str:
        """The end of what it said on its error stream."""
        self._said.seek(0)
        return self._said.read()[-4000:].decode("utf-8", "replace")

    def require_alive(self) -> None:
        """Raises SystemExit with what the listener said, when it has ended."""
        if self.process.poll() is not None:
            raise SystemExit(f"the listener ended with exit code {self.process.returncode}: {self.said()}")

    def _wait_until_it_answers(self) -> None:
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            self.require_alive()
            presence = find_presence(self.state)
            if presence is not None and presence.pid == self.process.pid:
                return
            time.sleep(0.005)
        raise SystemExit("the listener did not start")


@contextmanager
def listening(state: Path, bundle: Path | None, *, sample_rate: int, one_core: bool = False) -> Iterator[Listening]:
    """Start a listener, stop it at the end. bundle: None, whatever the state directory says."""
    running = Listening(state, bundle, sample_rate=sample_rate, one_core=one_core)
    try:
        yield running
        running.stop()
    finally:
        if running.process.poll() is None:
            running.process.kill()
            running.process.wait()


def paced(samples: NDArray[np.float32], chunk: int, sample_rate: int) -> Iterator[NDArray[np.float32]]:
    """Yield ``samples`` in chunks, each when its last sample would have been heard."""
    began = time.monotonic()
    for start in range(0, len(samples), chunk):
        piece = samples[start : start + chunk]
        delay = began + (start + len(piece)) / sample_rate - time.monotonic()
        if delay > 0.0:
            time.sleep(delay)
        yield piece


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Median, 95th percentile and largest, in milliseconds."""
    ms = 1e3 * np.array(seconds)
    return {"median_ms": float(np.median(ms)), "p95_ms": float(np.percentile(ms, 95)), "max_ms": float(ms.max())}
