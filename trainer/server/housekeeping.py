"""What runs beside the answering of requests, put together in one place: the keeper and the supervisor of jobs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from trainer.server.keeper import Keeper
from trainer.server.opening import Server
from trainer.server.repository import ensure_repository, refresh_timestamp
from trainer.server.spaces import know_shipped_spaces
from trainer.server.status_visitors import operator_password
from trainer.server.supervisor import Supervisor


def prepare(server: Server) -> None:
    """Make what a server needs before it answers: the operator's password, the spaces it knows, the repository."""
    operator_password(server.data_dir)
    know_shipped_spaces(server)
    ensure_repository(server.data_dir)


@contextmanager
def housekeeping(server: Server) -> Iterator[None]:
    """Run the duties of the server, and its jobs, within the block."""
    keeper, supervisor = Keeper(server, [refresh_timestamps]), Supervisor(server)
    keeper.start()
    supervisor.start()
    try:
        yield
    finally:
        supervisor.stop()
        keeper.stop()


def refresh_timestamps(server: Server) -> None:
    """Sign anew that the newest is the newest, before the last signature of it runs out."""
    refresh_timestamp(server.data_dir, server.clock())
