"""A server on SQLite and on PostgreSQL: every test of the database runs on both."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.simulators.fleet_device import SPACE
from tests.simulators.postgresql import PostgreSQL, find_binaries
from trainer.server.database import transaction
from trainer.server.opening import Server, open_server
from trainer.server.spaces import know_space

_numbers = itertools.count()
NOW = 1_800_000_000.0


@pytest.fixture(scope="session")
def postgresql_cluster() -> Iterator[PostgreSQL]:
    """A running cluster of this session; restart it only in the test that is about that."""
    binaries = find_binaries()
    if binaries is None:
        pytest.skip("needs PostgreSQL; install its server (initdb, pg_ctl)")
    with PostgreSQL(binaries) as cluster:
        yield cluster


@pytest.fixture
def postgresql_url(postgresql_cluster: PostgreSQL) -> str:
    """The URL of an empty database."""
    return postgresql_cluster.make_database(f"server_{next(_numbers)}")


@pytest.fixture(params=["sqlite", "postgresql"])
def any_database(request: pytest.FixtureRequest) -> str | None:
    """What ``--database`` is given: None for SQLite in the data folder, or the URL of an empty PostgreSQL database."""
    return None if request.param == "sqlite" else request.getfixturevalue("postgresql_url")


@pytest.fixture
def make_server(tmp_path: Path) -> Iterator[Callable[[str | None], Server]]:
    """Open servers that know ``SPACE``; their clock stands still at ``NOW``."""
    opened: list[Server] = []

    def make(database: str | None) -> Server:
        server = replace(open_server(tmp_path / f"data{len(opened)}", database=database), clock=lambda: NOW)
        with transaction(server.engine) as session:
            know_space(session, SPACE)
        opened.append(server)
        return server

    yield make
    for server in opened:
        server.close()


@pytest.fixture
def any_engine_server(any_database: str | None, make_server: Callable[[str | None], Server]) -> Server:
    """A server on either engine."""
    return make_server(any_database)


@pytest.fixture
def sqlite_server(make_server: Callable[[str | None], Server]) -> Server:
    return make_server(None)
