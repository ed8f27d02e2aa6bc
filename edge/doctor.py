"""`soundkeep doctor`: every part of this device tried once, with what to do where one fails."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
import wave
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edge.errors import SoundkeepError
from edge.presence import find_presence

if TYPE_CHECKING:
    from edge.bundle import Bundle

State = Literal["ok", "warn", "fail"]
Found = tuple[State, str]
MIN_FREE_BYTES = 100 * 2**20
MIN_CANARY_COSINE = 0.999
BAD_RUNTIME = "1.21.0"
CHILD_SECONDS = 30.0


@dataclass(frozen=True)
class Check:
    """One part and how it is. ``warn``: it works, but something is missing or odd."""

    name: str
    state: State
    detail: str


def check_device(state_dir: Path, open_bundle: Callable[[], Bundle]) -> Iterator[Check]:
    """Try part after part; a failing part never hides the next. Raises nothing of its own."""
    yield _guarded("python", _python)
    runtime = _guarded("onnxruntime", _runtime)
    yield runtime
    yield from _backbone(open_bundle, runtime.state != "fail")
    yield _guarded("microphone", _microphone)
    yield _guarded("audio files", _audio_files)
    yield _guarded("state directory", lambda: _state(state_dir))
    yield _guarded("memory", lambda: _memory(state_dir))
    yield _guarded("listener", lambda: _listener(state_dir))


def _guarded(name: str, look: Callable[[], Found]) -> Check:
    try:
        state, detail = look()
    except SoundkeepError as error:
        state, detail = "fail", str(error)
    except (OSError, ImportError) as error:
        state, detail = "fail", f"{type(error).__name__}: {error}"
    return Check(name, state, detail)


def _python() -> Found:
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    return "ok", f"Python {platform.python_version()} on {machine}"


def _runtime() -> Found:
    """In a child process: one release crashes with an illegal instruction on import on some ARM boards."""
    script = "from edge.embedder import available_providers, runtime_version as v; print(v(), *available_providers())"
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=CHILD_SECONDS,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([_package_root(), os.environ.get("PYTHONPATH", "")])},
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return "fail", f"ONNX Runtime does not load (exit {done.returncode}: {last[:200]}); install another onnxruntime"
    version, *providers = done.stdout.split()
    if version == BAD_RUNTIME:
        return "fail", f"onnxruntime {version} crashes on some ARM boards; install any other version"
    return "ok", f"onnxruntime {version} with {', '.join(providers)}"


def _backbone(open_bundle: Callable[[], Bundle], has_runtime: bool) -> Iterator[Check]:
    try:
        bundle = open_bundle()
    except SoundkeepError as error:
        yield Check("backbone", "fail", str(error))
        return
    yield Check("backbone", "ok", f"{bundle.name} {bundle.version} in {bundle.path}: every file has its hash")
    if has_runtime:
        yield _guarded("hearing", lambda: _hearing(bundle))


def _hearing(bundle: Bundle) -> Found:
    from edge.embedder import Embedder, check_canary

    report = check_canary(bundle, Embedder(bundle))
    if report is None:
        return "ok", "the backbone runs; it ships no canary to compare with"
    detail = f"{report.n} canary sounds: cosine to the export at least {report.min_cosine:.6f}"
    if report.min_cosine < MIN_CANARY_COSINE:
        return "fail", f"{detail}; wanted {MIN_CANARY_COSINE}: this ONNX Runtime is wrong, install another"
    return "ok", detail


def _microphone() -> Found:
    from edge.microphone import list_microphones

    try:
        names = list_microphones()
    except SoundkeepError as error:
        return "warn", f"{error}; files and pipes can be listened to without"
    if not names:
        return "warn", "no microphone; plug one in, or listen to files and pipes (in a container, pass the device on)"
    return "ok", "; ".join(names[:8])


def _audio_files() -> Found:
    """A WAV file of our own, decoded and resampled: libsndfile and soxr both had to work."""
    from edge.audio_files import read_audio

    with tempfile.TemporaryDirectory(prefix="soundkeep-") as folder:
        path = Path(folder, "tone.wav")
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(44_100)
            file.writeframes(bytes(range(0, 200, 2)) * 441)
        samples = read_audio(path, 16_000)
    return "ok", f"{len(samples)} samples of a WAV file decoded and resampled from 44.1 to 16 kHz"


def _state(state_dir: Path) -> Found:
    existing = next(path for path in (state_dir, *state_dir.parents) if path.exists())
    if not existing.is_dir():
        return "fail", f"{existing} is not a directory; choose another --state"
    if not os.access(existing, os.W_OK | os.X_OK):
        return "fail", f"{existing} cannot be written; change its owner, or choose another --state"
    free = shutil.disk_usage(existing).free
    if free < MIN_FREE_BYTES:
        return "warn", f"only {free / 2**20:.0f} MB are free for {state_dir}; make room before teaching"
    when = "" if state_dir.exists() else " (made at the first command)"
    return "ok", f"{state_dir}{when}, {free / 2**30:.1f} GB free"


def _memory(state_dir: Path) -> Found:
    from edge.journal import Journal

    with Journal.open(state_dir, read_only=True) as journal:
        report = journal.verify()
    if not report.intact:
        return "fail", "; ".join(finding.message for finding in report.findings[:3])
    return "ok", f"{report.n_records} example(s) in a chain of {report.n_rows} rows, intact"


def _listener(state_dir: Path) -> Found:
    presence = find_presence(state_dir)
    if presence is None:
        return "ok", "none is running"
    from edge.client import ListenerClient

    try:
        with ListenerClient(presence) as client:
            report = client.health()
    except SoundkeepError:
        return "warn", f"one was announced at {presence.url} and does not answer; it was probably killed"
    detail = f"at {presence.url}: {report['status']}, {report['lost_s']} s of audio lost"
    if not report["hearing"]:
        return "warn", f"{detail}; {report['detail'] or 'no sound within two seconds'}"
    return "ok", detail


def _package_root() -> str:
    return str(Path(__file__).resolve().parent.parent)
