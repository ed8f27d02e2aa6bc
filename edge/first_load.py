"""The first load of a foreign backbone, in a child process that may fail without harm.

A model of 65 bytes can ask for 32 GiB, and a malformed one can crash the runtime that reads it. So a bundle that did
not come with soundkeep is loaded once in a child under limits of memory and time before this process touches it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edge.bundle import Bundle, open_bundle, shipped_bundles_path
from edge.errors import BundleError, SoundkeepError

MAX_ADDRESS_BYTES = 4 * 1024**3
TIMEOUT_S = 60.0
MAX_ANSWER_BYTES = 64 * 1024
_N_TIMED = 5


@dataclass(frozen=True)
class FirstLoad:
    """What the child measured: peak resident memory, time to load, median time of one window."""

    peak_bytes: int
    load_ms: float
    window_ms: float


def is_shipped(bundle: Bundle) -> bool:
    """Whether the bundle lies inside this package, and so needs no trial."""
    return bundle.path.resolve().parent == shipped_bundles_path()


def prove_in_child(
    bundle: Bundle, *, timeout_s: float = TIMEOUT_S, max_address_bytes: int = MAX_ADDRESS_BYTES
) -> FirstLoad:
    """Load ``bundle`` and run it on one window in a child process. Raises BundleError when the child does not manage.

    timeout_s: wall time for all of it. max_address_bytes: address space of the child (RLIMIT_AS, where there is one).
    """
    package = str(Path(__file__).resolve().parent.parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))}
    limits = [str(max_address_bytes), str(int(timeout_s) + 1)]
    command = [sys.executable, "-m", "edge.first_load", str(bundle.path.resolve()), *limits]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s, check=False, env=environment
        )
    except subprocess.TimeoutExpired as e:
        raise BundleError(
            f"backbone {bundle.name!r} did not load and run one window within {timeout_s:g} s; use a smaller model"
        ) from e
    answer = _parse_answer(done.stdout[-MAX_ANSWER_BYTES:])
    if "error" in answer:
        raise BundleError(str(answer["error"]))
    if done.returncode != 0 or not answer.keys() >= {"peak_bytes", "load_ms", "window_ms"}:
        raise BundleError(
            f"backbone {bundle.name!r} broke the process that tried it (exit {done.returncode}) within a limit of "
            f"{max_address_bytes / 1024**3:.1f} GiB; it is malformed or too large for this device"
        )
    return FirstLoad(int(answer["peak_bytes"]), float(answer["load_ms"]), float(answer["window_ms"]))


def _parse_answer(output: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(output.splitlines()[-1])
    except (ValueError, IndexError):
        return {}
    return answer if isinstance(answer, dict) else {}


def limit_this_process(max_address_bytes: int, cpu_s: int) -> None:
    """Take address space and processor time away from this process for good, where the system can."""
    try:
        import resource
    except ImportError:  # not on Windows: the wall-clock limit alone remains
        return
    resource.setrlimit(resource.RLIMIT_AS, (max_address_bytes, max_address_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _try(path: str) -> FirstLoad:
    from edge.embedder import Embedder, probe_window

    begin = time.perf_counter()
    embedder = Embedder(open_bundle(path))
    load_ms = (time.perf_counter() - begin) * 1e3
    window, times = probe_window(embedder.space.window_length), []
    for _ in range(_N_TIMED):
        begin = time.perf_counter()
        embedder.embed(window)
        times.append((time.perf_counter() - begin) * 1e3)
    return FirstLoad(_peak_bytes(), load_ms, sorted(times)[_N_TIMED // 2])


def _peak_bytes() -> int:
    """Peak resident memory of this process. Linux counts the parent's in ``ru_maxrss``: its status file goes first."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def main(arguments: list[str]) -> int:
    """Child's side: ``PATH MAX_ADDRESS_BYTES CPU_SECONDS``; one JSON line on standard output."""
    path, max_address_bytes, cpu_s = arguments
    limit_this_process(int(max_address_bytes), int(cpu_s))
    try:
        print(json.dumps(asdict(_try(path))))
    except (SoundkeepError, MemoryError) as e:
        print(json.dumps({"error": str(e) or "the backbone needs more memory than a trial allows; use a smaller one"}))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
