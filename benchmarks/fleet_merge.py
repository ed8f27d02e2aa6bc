"""How many devices a second a server sums up at d = 1024, beside the memory bandwidth of the same machine.

``in memory``: packed statements that lie in memory are added, and NumPy adds and copies the same bytes in turn with it.
``from disk``: as ``fleet show`` does it: read, hashes checked, added, by one process, by two, and by Ray where it is.
Every way must give the same bits.
"""

from __future__ import annotations

import importlib.util
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import parser, print_table, single_thread, write_results

single_thread()

import numpy as np  # noqa: E402

from edge.space import EmbeddingSpace, FeatureSpace, l2_normalize  # noqa: E402
from edge.statistics import StatisticsAccumulator, SufficientStatistics  # noqa: E402
from edge.statistics_file import PackedStatistics  # noqa: E402
from edge.sync.state_message import encode_state  # noqa: E402
from trainer.server.blobs import BlobStore  # noqa: E402
from trainer.server.executor import open_executor  # noqa: E402
from trainer.server.fleet_sum import FleetSum  # noqa: E402
from trainer.server.statements import Statement, sum_in_shards  # noqa: E402

N_CLASSES, N_WINDOWS = 10, 60
ROUNDS = 5


def feature_space(dim: int) -> FeatureSpace:
    return FeatureSpace(EmbeddingSpace("fe" * 32, sample_rate=16000, window_length=16000, hop_length=4000, dim=dim))


def knowledge(space: FeatureSpace, device: int) -> SufficientStatistics:
    """What one device taught: some classes, unit vectors of chance."""
    rng = np.random.default_rng(device)
    total = StatisticsAccumulator(SufficientStatistics.zero(space))
    for i in range(N_CLASSES):
        rows = l2_normalize(rng.standard_normal((N_WINDOWS // N_CLASSES, space.dim)).astype(np.float32))
        total.add(space.embedding.grid.quantize(rows)[0], f"class {(device + i) % (2 * N_CLASSES):02d}")
    return total.snapshot()


def n_bytes(part: PackedStatistics) -> int:
    return part.gram.nbytes + part.sums.nbytes + part.counts.nbytes


def in_memory(space: FeatureSpace, parts: Sequence[PackedStatistics], rounds: int) -> tuple[list[dict[str, Any]], str]:
    """Seconds of one pass over ``parts`` for each way, the best of ``rounds`` in which they take turns."""
    flat = [np.concatenate([part.gram, part.sums.ravel(), part.counts]) for part in parts]
    total, place = np.zeros_like(flat[0]), np.empty_like(flat[0])
    sums: list[str] = []

    def added() -> None:
        for part in flat:
            np.add(total, part, out=total)

    def copied() -> None:
        for part in flat:
            np.copyto(place, part)

    def summed() -> None:
        sums.append(FleetSum.of(space, parts).packed().sha256)

    ways: Mapping[str, Callable[[], None]] = {"FleetSum.add": summed, "numpy add": added, "numpy copy": copied}
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds):
        for name, work in ways.items():
            start = time.perf_counter()
            work()
            best[name] = min(best[name], time.perf_counter() - start)
    read = sum(n_bytes(part) for part in parts)
    rows = [
        {
            "way": name, "devices": len(parts), "seconds": seconds, "devices_a_second": len(parts) / seconds,
            "statement_GB_a_second": read / seconds / 1e9, "share_of_numpy_add": best["numpy add"] / seconds,
        }
        for name, seconds in best.items()
    ]  # fmt: skip
    assert len(set(sums)) == 1
    return rows, sums[0]


def stored(blobs: BlobStore, space: FeatureSpace, device: int) -> Statement:
    known = knowledge(space, device)
    labels = {label: int(n) for label, n in zip(known.labels, known.counts.tolist(), strict=True)}
    name = blobs.put(encode_state(1, [], known))
    return Statement(f"{device:032x}", f"device {device}", name, known.sha256, 0, N_WINDOWS, labels, {})


def from_disk(space: FeatureSpace, n_devices: int, wanted: str | None) -> list[dict[str, Any]]:
    """Sum up statements of a blob store with each executor; opening it is timed apart."""
    kinds = [("local", 1), ("local", 2), *([("ray", 2)] if importlib.util.find_spec("ray") else [])]
    rows, found = [], set()
    with tempfile.TemporaryDirectory(prefix="soundkeep-") as folder:
        blobs = BlobStore(folder)
        statements = [stored(blobs, space, device) for device in range(n_devices)]
        for kind, n in kinds:
            start = time.perf_counter()
            with open_executor(kind, n) as executor:
                sum_in_shards(executor, blobs.url, space, statements[:2])  # starts the workers
                opened = time.perf_counter()
                found.add(sum_in_shards(executor, blobs.url, space, statements).packed().sha256)
                seconds = time.perf_counter() - opened
            size = sum(path.stat().st_size for path in Path(folder).glob("??/*"))
            rows.append({
                "executor": kind, "workers": n, "devices": n_devices, "seconds": seconds,
                "devices_a_second": n_devices / seconds, "GB_a_second": size / seconds / 1e9,
                "seconds_to_open": opened - start,
            })  # fmt: skip
    assert len(found) == 1 and (wanted is None or found == {wanted}), "every way gives the same bits"
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("--dim", type=int, default=1024)
    options.add_argument("--devices", type=int, default=200)
    given = options.parse_args(arguments)
    dim, n_devices, rounds = (64, 8, 2) if given.quick else (given.dim, given.devices, ROUNDS)
    space = feature_space(dim)
    parts = [PackedStatistics.of(knowledge(space, device)) for device in range(n_devices)]
    memory, sha256 = in_memory(space, parts, rounds)
    print(f"d = {dim}, {N_CLASSES} classes a device, {n_bytes(parts[0]) / 1e6:.2f} MB a statement, int64, packed")
    print_table(memory)
    disk = from_disk(space, n_devices, sha256)
    print_table(disk)
    write_results(given.out, "fleet_merge", {"dim": dim, "in_memory": memory, "from_disk": disk, "sha256": sha256})


if __name__ == "__main__":
    main()
