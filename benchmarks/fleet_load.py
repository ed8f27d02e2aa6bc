"""A thousand devices against a server that runs as operators run it: enrol, poll, state what was learnt.

The server is ``soundkeep-trainer serve`` in processes of its own, on SQLite or on the PostgreSQL of ``--database``; the
devices are simulated here, each with its key, every request signed, several at a time. Their processor time is this
machine's too. At the end ``fleet show`` must give the sum of what was stated, to the bit.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.machine import parser, print_table, single_thread, write_results

single_thread()

import numpy as np  # noqa: E402

from edge.space import EmbeddingSpace, FeatureSpace, l2_normalize  # noqa: E402
from edge.statistics import StatisticsAccumulator, SufficientStatistics  # noqa: E402
from edge.statistics_file import PackedStatistics  # noqa: E402
from edge.sync.keys import DeviceKey  # noqa: E402
from edge.sync.signing import sign_request  # noqa: E402
from edge.sync.state_message import encode_state  # noqa: E402
from trainer.server.database import transaction  # noqa: E402
from trainer.server.enrolment import make_token  # noqa: E402
from trainer.server.fleet_sum import FleetSum  # noqa: E402
from trainer.server.opening import open_server  # noqa: E402
from trainer.server.spaces import know_space  # noqa: E402

REPOSITORY = Path(__file__).resolve().parent.parent
CHUNK_BYTES = 256 * 1024
N_CLASSES, N_WINDOWS = 5, 20
STEPS = ("enrol", "poll", "state")
PATIENCE_SECONDS = 120.0


@dataclass
class Tally:
    """Seconds of every request by its kind, and answers that were refusals; filled by several threads."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    errors: list[str] = field(default_factory=list)

    def note(self, kind: str, took: float, status: int, words: str) -> None:
        self.seconds[kind].append(took)
        if status not in (200, 201, 202):
            self.errors.append(f"{kind}: {status} {words[:200]}")

    def row(self, database: str, kind: str, wall: float) -> dict[str, Any]:
        found = np.array(self.seconds[kind])
        return {
            "database": database, "step": kind, "requests": len(found), "a_second": len(found) / wall,
            "p50_ms": 1e3 * float(np.percentile(found, 50)), "p95_ms": 1e3 * float(np.percentile(found, 95)),
            "max_ms": 1e3 * float(found.max()),
        }  # fmt: skip


class SimulatedDevice:
    """A key, a counter, a statement. It keeps no connection: what talks for it has one."""

    def __init__(self, number: int, token: str, space: EmbeddingSpace) -> None:
        self.name, self.key = f"device {number}", DeviceKey.generate()
        self._token, self._sequence = token, 0
        rng = np.random.default_rng(number)
        total = StatisticsAccumulator(SufficientStatistics.zero(FeatureSpace(space)))
        for i in range(N_CLASSES):
            rows = l2_normalize(rng.standard_normal((N_WINDOWS // N_CLASSES, space.dim)).astype(np.float32))
            total.add(space.grid.quantize(rows)[0], f"class {(number + i) % 40:02d}")
        self.known = total.snapshot()
        self.statement = encode_state(1, [secrets.token_hex(32) for _ in range(N_CLASSES)], self.known)

    def enrol(self, ask: Ask) -> None:
        public = base64.urlsafe_b64encode(self.key.public_bytes).decode("ascii")
        value = {"token": self._token, "public_key": public, "name": self.name}
        ask(self, "enrol", "POST", "/v1/enrol", json.dumps(value).encode())

    def poll(self, ask: Ask) -> None:
        ask(self, "poll", "POST", "/v1/poll", b"{}")

    def state(self, ask: Ask) -> None:
        """Send the statement in chunks, as devices do."""
        data, name = self.statement, hashlib.sha256(self.statement).hexdigest()
        ask(self, "state", "POST", f"/v1/uploads?kind=state&sha256={name}&size={len(data)}", data[:CHUNK_BYTES])
        for start in range(CHUNK_BYTES, len(data), CHUNK_BYTES):
            chunk = data[start : start + CHUNK_BYTES]
            ask(self, "state", "PATCH", f"/v1/uploads/{name}?offset={start}", chunk)

    def headers(self, method: str, target: str, body: bytes) -> dict[str, str]:
        self._sequence += 1
        return sign_request(self.key, method, target, body, sequence=self._sequence, nonce=secrets.token_bytes(16))


Ask = Callable[[SimulatedDevice, str, str, str, bytes], None]


def load(url: str, devices: Sequence[SimulatedDevice], at_once: int, database: str) -> tuple[list[Any], list[str]]:
    """Have every device take each step, ``at_once`` at a time. Returns a row a step, and what was refused."""
    import httpx

    local, tally, clients = threading.local(), Tally(), []

    def ask(device: SimulatedDevice, kind: str, method: str, target: str, body: bytes) -> None:
        if not hasattr(local, "client"):
            local.client = httpx.Client(base_url=url, timeout=60.0, trust_env=False)
            clients.append(local.client)
        headers = device.headers(method, target, body)
        start = time.perf_counter()
        answer = local.client.request(method, target, content=body, headers=headers)
        tally.note(kind, time.perf_counter() - start, answer.status_code, answer.text)

    rows = []
    with ThreadPoolExecutor(at_once) as pool:
        for step in STEPS:
            start = time.perf_counter()
            list(pool.map(lambda device, step=step: getattr(device, step)(ask), devices))
            rows.append(tally.row(database, step, time.perf_counter() - start))
    for client in clients:
        client.close()
    return rows, tally.errors


@dataclass
class Serving:
    """``soundkeep-trainer serve`` as a process; most: the largest resident memory of all its processes together."""

    process: subprocess.Popen[str]
    url: str
    most: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)

    @classmethod
    def start(cls, data: Path, workers: int) -> Serving:
        command = [sys.executable, "-m", "trainer.cli", "serve", "--data", str(data), "--port", "0"]
        process = subprocess.Popen(
            [*command, "--workers", str(workers)], cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True,
        )  # fmt: skip
        assert process.stdout is not None
        process.stdout.readline()
        found = cls(process, process.stdout.readline().removeprefix("listening on ").strip())
        threading.Thread(target=found._watch, daemon=True).start()
        return found

    def stop(self) -> None:
        self._stop.set()
        self.process.terminate()
        self.process.wait(PATIENCE_SECONDS)

    def _watch(self) -> None:
        while not self._stop.wait(0.2):
            self.most = max(self.most, resident_bytes(self.process.pid))


def resident_bytes(pid: int) -> int:
    """Resident memory of a process and all that it started."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (OSError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE") + sum(resident_bytes(int(child)) for child in children)


def play(n_devices: int, dim: int, at_once: int, *, database: str | None = None, workers: int = 1) -> dict[str, Any]:
    """Play one server with its devices in a folder of its own. database: ``--database``; None: SQLite."""
    space = EmbeddingSpace("fe" * 32, sample_rate=16000, window_length=16000, hop_length=4000, dim=dim)
    kind = f"{'SQLite' if database is None else 'PostgreSQL'}, {workers} process{'es' if workers > 1 else ''}"
    with tempfile.TemporaryDirectory(prefix="soundkeep-") as folder:
        data = Path(folder) / "fleet"
        server = open_server(data, database=database)
        with transaction(server.engine) as session:
            know_space(session, space)
        devices = [SimulatedDevice(number, make_token(server), space) for number in range(n_devices)]
        server.close()
        serving = Serving.start(data, workers)
        try:
            rows, errors = load(serving.url, devices, at_once, kind)
        finally:
            serving.stop()
        command = [sys.executable, "-m", "trainer.cli", "--json", "fleet", "show", "--data", str(data)]
        start = time.perf_counter()
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
        shown, show_seconds = json.loads(done.stdout), time.perf_counter() - start
    wanted = FleetSum.of(FeatureSpace(space), (PackedStatistics.of(device.known) for device in devices)).packed()
    return {
        "database": kind, "devices": n_devices, "dim": dim, "at_once": at_once, "rows": rows,
        "errors": len(errors), "first_errors": errors[:5], "server_MiB": serving.most / 2**20,
        "statement_bytes": len(devices[0].statement), "fleet_show_seconds": show_seconds,
        "same_bits": shown["statistics_sha256"] == wanted.sha256 and shown["n_devices"] == n_devices,
    }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("--devices", type=int, default=1000)
    options.add_argument("--dim", type=int, default=256, help="of the space; 256 is the shipped bundle's")
    options.add_argument("--at-once", type=int, default=8, help="requests on their way at a time")
    options.add_argument("--workers", type=int, default=1, help="processes of the server on PostgreSQL")
    options.add_argument("--database", metavar="URL", help="an empty PostgreSQL database, measured after SQLite")
    given = options.parse_args(arguments)
    n, dim = (30, 16) if given.quick else (given.devices, given.dim)
    runs = [play(n, dim, given.at_once)]
    if given.database:
        runs.append(play(n, dim, given.at_once, database=given.database, workers=given.workers))
    print_table([row for run in runs for row in run["rows"]])
    print_table([{k: v for k, v in run.items() if k not in ("rows", "first_errors")} for run in runs])
    for words in (words for run in runs for words in run["first_errors"]):
        print(words)
    write_results(given.out, "fleet_load", {"runs": runs})


if __name__ == "__main__":
    main()
