"""Work in shards: on this machine by default, on many with Ray (``trainer.server.ray_executor``).

A shard's function is a function of a module and its answer follows from the shard alone, so a shard whose worker died
is done again.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Protocol, TypeVar

from edge.errors import ConfigurationError
from trainer.errors import ExecutorError

Shard = TypeVar("Shard")
Answer = TypeVar("Answer")
EXECUTORS = ("local", "ray")
MAX_DEATHS = 3
ONE_BLAS_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class Executor(Protocol):
    """n_workers: how many shards are worked on at a time."""

    @property
    def n_workers(self) -> int: ...

    def map_shards(self, function: Callable[[Shard], Answer], shards: Sequence[Shard]) -> list[Answer]:
        """Return ``function`` of every shard, in the order of the shards.

        Raises what the function raises, and ExecutorError when workers die ``MAX_DEATHS`` times over a shard.
        """


@contextmanager
def open_executor(kind: str = "local", n_processes: int = 1, address: str | None = None) -> Iterator[Executor]:
    """Open one of ``EXECUTORS``. address: head of a Ray cluster that runs; None: this machine alone.

    Raises ConfigurationError when it is unknown or not installed, ExecutorError when the cluster cannot be reached.
    """
    if kind not in EXECUTORS:
        raise ConfigurationError(f"executor is {kind!r}; wanted one of {', '.join(EXECUTORS)}")
    if kind == "local":
        if address is not None:
            raise ConfigurationError(f"the address {address!r} is one of a Ray cluster; choose the executor ray")
        with LocalExecutor(n_processes) as local:
            yield local
        return
    from trainer.server.ray_executor import RayExecutor

    with RayExecutor(n_processes, address=address) as ray:
        yield ray


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
        with environment(ONE_BLAS_THREAD):
            if self._pool is None:
                self._pool = ProcessPoolExecutor(self.n_workers, multiprocessing.get_context("spawn"))
            waiting: dict[int, Future[Answer]] = {}
            broken: BrokenProcessPool | None = None
            try:
                for i, shard in enumerate(shards):
                    if i not in answers:
                        waiting[i] = self._pool.submit(function, shard)
            except BrokenProcessPool as error:
                broken = error
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


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Processes that are started meanwhile have ``variables``."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
