"""A device of the demonstration: ``soundkeep listen`` in a process of its own, fed through a pipe.

Nothing here is special to the demonstration's sake: it starts the command that users start, sends raw PCM to its
standard input, talks to its API with the token of ``listener.json``, and runs the other commands beside it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edge.demo.exam import Detection
from edge.errors import DeviceError
from edge.scenes import Occurrence
from edge.space import EmbeddingSpace

_START_SECONDS = 120.0
_QUIET_SECONDS = 120.0
_MATCH_SECONDS = 4.0


@dataclass(frozen=True)
class Verified:
    """What ``soundkeep memory verify`` says: the statistics learnt anew, and how much is in them."""

    statistics_sha256: str
    n_records: int
    n_classes: int


@dataclass(frozen=True, eq=False)
class ScoresOverTime:
    """seconds: (n,) middle of each window. scores: (n, k) in [0, 1], one column per label; 0.5 is the threshold."""

    seconds: NDArray[np.float64]
    labels: tuple[str, ...]
    scores: NDArray[np.float64]


class Device(Protocol):
    """What the story needs of a device. Lengths are samples at the rate of its embedding space."""

    @property
    def name(self) -> str: ...

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def kill(self) -> bool:
        """End the process without warning; True when it really died of that."""
        ...

    def hear(self, samples: NDArray[np.float32], *, real_time: bool = False) -> list[Detection]:
        """Play (n,) samples and wait until they are judged; returns the detections, in samples from their start."""
        ...

    def report_delays(self, truth: Sequence[Occurrence]) -> list[float]:
        """Seconds from the onset of each sound of the last real-time hearing to its report, for those reported."""
        ...

    def teach_last(self, label: str, n_samples: int) -> str:
        """Teach what was heard last; returns the record's id."""
        ...

    def forget(self, label: str) -> None: ...

    def import_memory(self, data: bytes) -> None: ...

    def export_memory(self, path: Path) -> bytes: ...

    def verify(self) -> Verified: ...

    def embedding_ms(self) -> float:
        """Mean time of one window in the backbone, milliseconds."""
        ...

    def scores(self, samples: NDArray[np.float32]) -> ScoresOverTime:
        """Judge (n,) samples by what the device's memory holds now, beside the listener."""
        ...


@dataclass
class ListeningDevice:
    """A state directory, and a listener on it while it is started. Raises DeviceError when the process fails."""

    name: str
    folder: Path
    space: EmbeddingSpace
    bundle_option: str | None = None
    _process: subprocess.Popen[bytes] | None = None
    _files: list[IO[bytes]] = field(default_factory=list)
    _n_played: int = 0
    _n_lines_before: int = 0
    _played_at: float = 0.0

    @property
    def state_dir(self) -> Path:
        return self.folder / self.name

    @property
    def _events_path(self) -> Path:
        return self.folder / f"{self.name}-events.jsonl"

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._files = [(self.folder / f"{self.name}.log").open("ab"), self._events_path.open("ab")]
        arguments = ["listen", "--source", "-", "--pcm-rate", str(self.space.sample_rate), "--api", "127.0.0.1:0"]
        (self.state_dir / "listener.json").unlink(missing_ok=True)
        self._process = subprocess.Popen(
            self._command(*arguments),
            stdin=subprocess.PIPE,
            stdout=self._files[1],
            stderr=self._files[0],
            env=_environment(),
        )
        self._n_played = 0
        until = time.monotonic() + _START_SECONDS
        while not self._answers():
            self._check_alive()
            if time.monotonic() > until:
                raise DeviceError(f"the {self.name} device did not start in {_START_SECONDS:.0f} s; see {self._log}")
            time.sleep(0.05)

    def stop(self) -> None:
        if self._process is None:
            return
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=60.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._release()

    def kill(self) -> bool:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGKILL)
        died_of_it = self._process.wait() == -signal.SIGKILL
        self._release()
        return died_of_it

    def hear(self, samples: NDArray[np.float32], *, real_time: bool = False) -> list[Detection]:
        start = self._n_played
        self._n_lines_before = len(self._event_lines())
        self._played_at = time.time()
        pcm = np.rint(np.clip(samples, -1.0, 1.0) * 32767.0).astype("<i2")
        n_block = self.space.sample_rate // 20
        began = time.monotonic()
        for at in range(0, len(pcm), n_block):
            if real_time:
                time.sleep(max(0.0, began + at / self.space.sample_rate - time.monotonic()))
            self._write(pcm[at : at + n_block].tobytes())
        self._n_played += len(pcm)
        self._wait_until_heard()
        events = [e for e in self._get("/events") if e["offset_sample"] > start]
        return [
            Detection(e["label"], max(0, e["onset_sample"] - start), e["offset_sample"] - start, e["score"])
            for e in events
        ]

    def report_delays(self, truth: Sequence[Occurrence]) -> list[float]:
        reports = []
        for line in self._event_lines()[self._n_lines_before :]:
            event = json.loads(line)
            if event["phase"] == "onset":
                reports.append((event["label"], datetime.fromisoformat(event["time"]).timestamp()))
        delays = []
        for occurrence in truth:
            sounded_at = self._played_at + occurrence.onset / self.space.sample_rate
            waits = [at - sounded_at for label, at in reports if label == occurrence.label]
            delays += [wait for wait in waits if 0.0 <= wait <= _MATCH_SECONDS][:1]
        return delays

    def teach_last(self, label: str, n_samples: int) -> str:
        from edge.client import ListenerClient

        with ListenerClient(self._presence()) as client:
            answer = client.teach_last(label, n_samples / self.space.sample_rate)
        return str(answer["records"][0]["id"])

    def forget(self, label: str) -> None:
        from edge.client import ListenerClient

        with ListenerClient(self._presence()) as client:
            client.forget(label)

    def import_memory(self, data: bytes) -> None:
        from edge.client import ListenerClient

        with ListenerClient(self._presence()) as client:
            client.import_memory(data)

    def export_memory(self, path: Path) -> bytes:
        self.run("memory", "export", str(path))
        return path.read_bytes()

    def verify(self) -> Verified:
        answer = self.run("memory", "verify")
        return Verified(answer["statistics_sha256"], answer["n_records"], answer["n_classes"])

    def embedding_ms(self) -> float:
        values = {}
        for line in self._request("/metrics").text.splitlines():
            name, _, value = line.partition(" ")
            if name in ("soundkeep_embedding_seconds_sum", "soundkeep_embedding_seconds_count"):
                values[name[len("soundkeep_embedding_seconds_") :]] = float(value)
        return 1000.0 * values["sum"] / max(values["count"], 1.0)

    def scores(self, samples: NDArray[np.float32]) -> ScoresOverTime:
        from edge.commands.workbench import Workbench
        from edge.embedder import Embedder
        from edge.hearing import hear

        bench = Workbench(self.state_dir, self.bundle_option, as_json=False)
        bundle = bench.bundle()
        settings = bench.decision_settings(bundle)
        with bench.reading(bundle) as learner:
            heard = hear(samples, Embedder(bundle))
            labels, z = learner.judge(heard.embeddings)
        scores = [
            [settings.score(value, label) for value, label in zip(row, labels, strict=True)] for row in z.tolist()
        ]
        middle = (heard.starts + self.space.window_length / 2) / self.space.sample_rate
        return ScoresOverTime(middle, tuple(labels), np.array(scores).reshape(len(heard), len(labels)))

    def run(self, *arguments: str) -> dict[str, Any]:
        """Run one command beside the listener and return its JSON answer. Raises DeviceError with its sentence."""
        done = subprocess.run(
            self._command(*arguments), capture_output=True, text=True, env=_environment(), check=False, timeout=600
        )
        if done.returncode != 0:
            raise DeviceError(
                f"`soundkeep {' '.join(arguments[:2])}` of the {self.name} device failed: {done.stderr.strip()}"
            )
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    # ---- the process ------------------------------------------------------------------------------------------------

    @property
    def _log(self) -> Path:
        return self.folder / f"{self.name}.log"

    def _event_lines(self) -> list[str]:
        return self._events_path.read_text("utf-8").splitlines()

    def _command(self, *arguments: str) -> list[str]:
        chosen = [] if self.bundle_option is None else ["--bundle", self.bundle_option]
        return [sys.executable, "-m", "edge", "--state", str(self.state_dir), *chosen, "--json", *arguments]

    def _answers(self) -> bool:
        from edge.errors import ApiError
        from edge.presence import find_presence

        presence = find_presence(self.state_dir)
        if presence is None or self._process is None or presence.pid != self._process.pid:
            return False
        try:
            self._request("/health")
        except ApiError:
            return False
        return True

    def _presence(self) -> Any:
        from edge.presence import find_presence

        presence = find_presence(self.state_dir)
        if presence is None:
            raise DeviceError(f"the {self.name} device has no listener.json; see {self._log}")
        return presence

    def _request(self, path: str) -> Any:
        import httpx

        from edge.errors import ApiError

        presence = self._presence()
        headers = {"authorization": f"Bearer {presence.token}"}
        try:
            return httpx.get(f"{presence.url}{path}", headers=headers, timeout=30.0, trust_env=False)
        except httpx.HTTPError as error:
            raise ApiError(
                f"the {self.name} device does not answer ({type(error).__name__}); see {self._log}"
            ) from error

    def _get(self, path: str) -> Any:
        return self._request(path).json()

    def _write(self, data: bytes) -> None:
        assert self._process is not None and self._process.stdin is not None
        try:
            self._process.stdin.write(data)
            self._process.stdin.flush()
        except BrokenPipeError:
            self._process.wait(timeout=10.0)
            self._check_alive()
            raise

    def _wait_until_heard(self) -> None:
        """Wait for the last whole window of what was played."""
        hop, length = self.space.hop_length, self.space.window_length
        wanted = (self._n_played - length) // hop * hop + length
        if self._n_played < length:
            return
        heard, since = -1.0, time.monotonic()
        while True:
            now = float(self._get("/health")["heard_s"])
            if now >= wanted / self.space.sample_rate - 0.001:
                return
            self._check_alive()
            if now > heard:
                heard, since = now, time.monotonic()
            elif time.monotonic() - since > _QUIET_SECONDS:
                raise DeviceError(f"the {self.name} device stopped hearing at {now:.1f} s; see {self._log}")
            time.sleep(0.05)

    def _check_alive(self) -> None:
        assert self._process is not None
        if self._process.poll() is not None:
            said = self._log.read_text("utf-8", errors="replace").strip().splitlines()
            last = said[-1] if said else "it said nothing"
            raise DeviceError(f"the {self.name} device ended with code {self._process.returncode}: {last}")

    def _release(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        for file in self._files:
            file.close()
        self._files, self._process = [], None


def _environment() -> dict[str, str]:
    """The environment of a child: the same package as ours, found whether installed or run from a checkout."""
    package_parent = str(Path(__file__).resolve().parents[2])
    paths = [package_parent, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
