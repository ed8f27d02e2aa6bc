"""A thousand devices at once: enrolment, poll and statement of each, against a real server on SQLite or PostgreSQL.

Devices are keys and counters that speak the protocol over real sockets, 16 at a time. ``per_s`` counts answered
requests, of which a statement at d = 256 takes two. Afterwards the fleet's sum is compared with one that was made here.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from benchmarks.machine import parser, print_table, single_thread, write_results

single_thread()

import httpx  # noqa: E402
import numpy as np  # noqa: E402
import psutil  # noqa: E402

from benchmarks.fleet_round import REPOSITORY, command  # noqa: E402
from edge.space import EmbeddingSpace, FeatureSpace  # noqa: E402
from tests.simulators.fleet_device import FleetDevice, sound, statement, statistics_of  # noqa: E402
from tests.simulators.postgresql import PostgreSQL, find_binaries  # noqa: E402
from trainer.server.database import transaction  # noqa: E402
from trainer.server.enrolment import make_token  # noqa: E402
from trainer.server.opening import open_server  # noqa: E402
from trainer.server.spaces import know_space  # noqa: E402

SPACE = EmbeddingSpace("bb" * 32, sample_rate=16000, window_length=16000, hop_length=4000, dim=256)
AT_ONCE = 16


class Serving:
    """The server as a process. database: what ``--database`` takes, None for SQLite."""

    def __init__(self, data: Path, database: str | None, workers: int) -> None:
        options = [*([] if database is None else ["--database", database]), "--workers", str(workers)]
        words = ["trainer.cli", "serve", "--data", str(data), "--port", "0", *options]
        self.process = subprocess.Popen(
            [sys.executable, "-m", *words], cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self.process.stdout is not None
        self.process.stdout.readline()
        self.url = self.process.stdout.readline().removeprefix("listening on ").strip()

    def resident_mb(self) -> float:
        family = [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]
        return float(sum(process.memory_info().rss for process in family)) / 1e6

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=60.0)


def timed(work: Callable[[FleetDevice], httpx.Response], devices: Sequence[FleetDevice], good: int) -> dict[str, float]:
    """Do ``work`` for every device, ``AT_ONCE`` at a time. Returns requests a second and latencies in milliseconds."""
    taken: list[float] = []

    def one(device: FleetDevice) -> None:
        began, before = time.perf_counter(), device.sequence
        answer = work(device)
        assert answer.status_code == good, answer.text
        taken.extend([(time.perf_counter() - began) / (device.sequence - before)] * (device.sequence - before))

    began = time.perf_counter()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(one, devices))
    ms = 1e3 * np.array(taken)
    per_s = len(taken) / (time.perf_counter() - began)
    return {"per_s": per_s, "median_ms": float(np.median(ms)), "p95_ms": float(np.percentile(ms, 95))}


def measure(name: str, folder: Path, database: str | None, n_devices: int, workers: int = 1) -> list[dict[str, Any]]:
    server = open_server(folder, database=database)
    with transaction(server.engine) as session:
        know_space(session, SPACE)
    tokens = [make_token(server) for _ in range(n_devices)]
    serving, rows = Serving(folder, database, workers), []
    try:
        with httpx.Client(
            base_url=serving.url, timeout=60.0, trust_env=False, limits=httpx.Limits(max_connections=AT_ONCE)
        ) as http:
            devices = [FleetDevice(http, f"device {i}") for i in range(n_devices)]
            records = [[sound(f"class {i % 7}", i, n_windows=2, space=SPACE)] for i in range(n_devices)]
            waiting = dict(zip((device.id for device in devices), tokens, strict=True))
            said = {d.id: statement(1, r, SPACE) for d, r in zip(devices, records, strict=True)}
            steps: list[tuple[str, Callable[[FleetDevice], httpx.Response], int]] = [
                ("enrol", lambda device: device.enrol(waiting[device.id]), 201),
                ("poll", lambda device: device.poll(), 200),
                ("statement", lambda device: device.upload("state", said[device.id]), 200),
                ("poll again", lambda device: device.poll(), 200),
            ]
            for step, work, good in steps:
                rows.append({"server": name, "devices": n_devices, "step": step, **timed(work, devices, good)})
            rows[-1]["resident_MB"] = serving.resident_mb()
        began = time.perf_counter()
        shown = command("trainer.cli", "--json", "fleet", "show", "--data", str(folder))[-1]
        wanted = statistics_of((record for kept in records for record in kept), SPACE)
        assert shown["statistics_sha256"] == wanted.sha256 and shown["n_devices"] == n_devices
        rows.append({"server": name, "devices": n_devices, "step": "fleet show, same bits as one device",
                     "seconds": time.perf_counter() - began})  # fmt: skip
    finally:
        serving.stop()
        server.close()
    keys = ("server", "devices", "step", "per_s", "median_ms", "p95_ms", "resident_MB", "seconds")
    return [{key: row.get(key) for key in keys} for row in rows]


@contextmanager
def postgresql() -> Iterator[str | None]:
    """A cluster of its own; None where PostgreSQL is not installed."""
    binaries = find_binaries()
    with nullcontext() if binaries is None else PostgreSQL(binaries) as cluster:
        yield None if cluster is None else cluster.make_database("fleet")


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--devices", type=int, default=1000)
    given = arguments.parse_args()
    n = 30 if given.quick else given.devices
    with tempfile.TemporaryDirectory(prefix="soundkeep-") as folder, postgresql() as url:
        rows = measure("SQLite", Path(folder, "sqlite"), None, n)
        if url is not None:
            rows += measure("PostgreSQL, 2 processes", Path(folder, "postgresql"), url, n, workers=2)
    print_table(rows)
    write_results(given.out, "fleet_load", {"rows": rows, "space_dim": FeatureSpace(SPACE).dim})


if __name__ == "__main__":
    main()
