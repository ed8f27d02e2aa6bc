"""Work in shards: on this machine by default, on many with Ray (``trainer.server.ray_executor``).

A shard's function is a function of a module and its answer follows from the shard alone, so a shard whose worker died
is done again. Sums are of integers: however the statements are cut into shards, the total has the same bits.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from edge.errors import ConfigurationError
from edge.space import FeatureSpace
from edge.statistics_file import PackedStatistics, read_packed
from edge.sync.state_message import split_state
from trainer.errors import ExecutorError
from trainer.server.blobs import BlobStore
from trainer.server.fleet_sum import FleetSum

Shard = TypeVar("Shard")
Answer = TypeVar("Answer")
MAX_DEATHS = 3
BLAS_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Executor(Protocol):
    """n_workers: how many shards are worked on at a time."""

    n_workers: int

    def map_shards(self, function: Callable[[Shard], Answer], shards: Sequence[Shard]) -> list[Answer]:
        """Return ``function`` of every shard, in the order of the shards. Raises what it raises, and ExecutorError."""


class LocalExecutor:
    """A pool of processes that are started anew, each with one BLAS thread; with one process, this process itself.

    Use it in a ``with``. A worker that dies takes the pool with it: a new pool does what is not done yet.
    """

    def __init__(self, n_processes: int = 1) -> None:
        if n_processes < 1:
            raise ConfigurationError(f"n_processes is {n_processes}; wanted 1 or more")
        self.n_workers = n_processes
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> LocalExecutor:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._close()

    def map_shards(self, function: Callable[[Shard], Answer], shards: Sequence[Shard]) -> list[Answer]:
        if self.n_workers == 1:
            return [function(shard) for shard in shards]
        answers: dict[int, Answer] = {}
        deaths = 0
        while len(answers) < len(shards):
            n_before = len(answers)
            try:
                self._run(function, shards, answers)
            except BrokenProcessPool as error:
                self._close()
                deaths = 1 if len(answers) > n_before else deaths + 1
                if deaths >= MAX_DEATHS:
                    left = [i for i in range(len(shards)) if i not in answers]
                    raise ExecutorError(
                        f"a worker died {deaths} times in a row over shards {left[:5]} of {len(shards)}; it may lack "
                        "memory: use fewer processes or smaller shards"
                    ) from error
        return [answers[i] for i in range(len(shards))]

    def _run(self, function: Callable[[Shard], Answer], shards: Sequence[Shard], answers: dict[int, Answer]) -> None:
        """Work on what has no answer yet; answers that came before a worker died are kept."""
        with _one_blas_thread():
            if self._pool is None:
                self._pool = ProcessPoolExecutor(self.n_workers, multiprocessing.get_context("spawn"))
            waiting: dict[int, Future[Answer]] = {}
            try:
                for i, shard in enumerate(shards):
                    if i not in answers:
                        waiting[i] = self._pool.submit(function, shard)
            finally:
                broken: BrokenProcessPool | None = None
                for i, future in waiting.items():
                    try:
                        answers[i] = future.result()
                    except BrokenProcessPool as error:
                        broken = error
                    except BaseException:
                        for other in waiting.values():
                            other.cancel()
                        raise
            if broken is not None:
                raise broken

    def _close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None


@dataclass(frozen=True)
class StoredStatements:
    """A shard of the fleet: statements in a blob store, and what the fleet calls the labels of each."""

    store: str
    space: FeatureSpace
    names: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Name of the blob to the renamed labels."""


def sum_statements(shard: StoredStatements) -> bytes:
    """Sum up a shard; returns the stored form of statistics. Runs in a worker."""
    store, total = BlobStore(shard.store), FleetSum(shard.space)
    for blob, names in shard.names.items():
        _, space, _, stored = split_state(store.get(blob))
        total.add(read_packed(space, stored), names)
    return total.statistics().to_bytes()


def sum_tree(executor: Executor, statements: StoredStatements) -> PackedStatistics:
    """Sum up statements on all workers, then the sums of the workers."""
    blobs = list(statements.names)
    n_shards = max(1, min(len(blobs), executor.n_workers))
    parts = [{blob: statements.names[blob] for blob in blobs[i::n_shards]} for i in range(n_shards)]
    shards = [StoredStatements(statements.store, statements.space, part) for part in parts]
    sums = executor.map_shards(sum_statements, shards)
    return FleetSum.of(statements.space, (read_packed(statements.space, data) for data in sums)).packed()


@contextmanager
def _one_blas_thread() -> Iterator[None]:
    """Processes that are started meanwhile have one BLAS thread each."""
    before = {name: os.environ.get(name) for name in BLAS_THREADS}
    os.environ.update(dict.fromkeys(BLAS_THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
