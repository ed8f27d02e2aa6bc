"""Shards on Ray: this machine alone, or the hosts of a cluster that runs. The only file that imports it.

Whoever reaches the ports of Ray can run code. So on one machine it is bound to loopback, behind a token of chance. A
cluster is for a network that devices cannot reach; its hosts want this version of soundkeep and the same paths (a
shared folder, ``s3://``).
"""

from __future__ import annotations

import logging
import secrets
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from edge.errors import ConfigurationError
from trainer.errors import ExecutorError
from trainer.server.executor import MAX_DEATHS, ONE_BLAS_THREAD, Answer, Shard, environment

LOOPBACK = "127.0.0.1"
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", **ONE_BLAS_THREAD}
OBJECT_STORE_BYTES = 400 << 20


class RayExecutor:
    """Use it in a ``with``. n_workers: CPUs that Ray gives; each shard takes one.

    address: head of a running cluster (``HOST:PORT``), of which this host is a node; None: Ray is started here with
    ``n_processes`` workers and ends with the ``with``.
    """

    def __init__(self, n_processes: int = 1, *, address: str | None = None) -> None:
        if n_processes < 1:
            raise ConfigurationError(f"n_processes is {n_processes}; wanted 1 or more")
        self.n_workers = n_processes
        self._address = address
        self._ray: Any = None
        self._open = ExitStack()

    def __enter__(self) -> RayExecutor:
        with ExitStack() as opened:
            opened.enter_context(environment(QUIET if self._address is not None else {**QUIET, **_alone()}))
            self._ray = _import_ray()
            where: dict[str, Any] = {"address": self._address}
            if self._address is None:
                folder = opened.enter_context(tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True))
                where = {
                    "address": "local", "num_cpus": self.n_workers, "include_dashboard": False, "_temp_dir": folder,
                    "_node_ip_address": LOOPBACK, "object_store_memory": OBJECT_STORE_BYTES,
                }  # fmt: skip
            opened.callback(self._ray.shutdown)
            self.n_workers = self._start(where)
            self._open = opened.pop_all()
        return self

    def _start(self, where: Mapping[str, Any]) -> int:
        """Returns the number of workers. Raises ExecutorError."""
        place = "on this machine" if self._address is None else f"at {self._address}"
        try:
            self._ray.init(**where, log_to_driver=False, logging_level=logging.CRITICAL)
            bound = str(self._ray.util.get_node_ip_address())
            n_workers = int(self._ray.cluster_resources().get("CPU", 1))
        except Exception as error:  # Ray raises classes of many kinds here
            raise ExecutorError(
                f"Ray cannot be used {place} ({_first_line(error)}); start it, or use the local executor"
            ) from error
        if self._address is None and bound != LOOPBACK:
            raise ExecutorError(f"Ray listens on {bound} and not on {LOOPBACK} alone; use the local executor")
        return max(1, n_workers)

    def __exit__(self, *exc_info: object) -> None:
        self._open.close()

    def map_shards(self, function: Callable[[Shard], Answer], shards: Sequence[Shard]) -> list[Answer]:
        """As ``Executor`` says. A shard whose worker or host died is done again, wherever there is room."""
        ray = self._ray
        task = ray.remote(num_cpus=1, max_retries=MAX_DEATHS - 1, retry_exceptions=False)(function)
        running = [task.remote(shard) for shard in shards]
        try:
            return list(ray.get(running))
        except ray.exceptions.RayTaskError as error:
            for left in running:
                ray.cancel(left)
            raise error.cause from error
        except ray.exceptions.RayError as error:
            raise ExecutorError(
                f"a worker died {MAX_DEATHS} times over one of {len(shards)} shards ({_first_line(error)}); it may "
                "lack memory: use fewer processes or smaller shards"
            ) from error


def _import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise ConfigurationError(
            "Ray is not installed; install soundkeep[cluster], or use the local executor"
        ) from error
    if ray.is_initialized():
        raise ConfigurationError("Ray is in use in this process already; leave that first")
    ray._private.worker._worker_logs_enabled = False  # else it tells of workers that died on stdout, amidst the answers
    return ray


def _alone() -> dict[str, str]:
    """What keeps others out. Asked for 127.0.0.1 by name, Ray takes the outward address; the first setting, made for
    other systems, is its only way to loopback, and is read when it is imported."""
    return {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
