"""One engine per process, SQLite or PostgreSQL; what differs between the two is here and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.exc import ArgumentError
from sqlalchemy.orm import Session

from edge.errors import ConfigurationError

DATABASE_NAME = "server.db"


def database_url(data_dir: Path, given: str | None) -> str:
    """Return the URL that was given (``postgresql://...``, ``sqlite:///...``), else that of a file in ``data_dir``."""
    if given is None:
        return f"sqlite:///{data_dir.absolute() / DATABASE_NAME}"
    return given.replace("postgresql://", "postgresql+psycopg://", 1).replace("postgres://", "postgresql+psycopg://", 1)


def open_database(url: str) -> Engine:
    """Open an engine whose commits are on disk when they return. Raises ConfigurationError for any other URL."""
    try:
        if url.startswith("sqlite"):
            engine = create_engine(url, connect_args={"timeout": 30.0}, pool_size=8, max_overflow=8)
            event.listen(engine, "connect", _on_sqlite)
            event.listen(engine, "begin", _begin_immediate)
            return engine
        if url.startswith("postgresql+psycopg"):
            return create_engine(url, pool_pre_ping=True, pool_size=8, max_overflow=8)
    except ArgumentError as error:
        raise ConfigurationError(f"the database URL {url!r} cannot be read ({error})") from error
    kind = url.partition(":")[0]
    raise ConfigurationError(f"the database URL {kind!r}://... is neither sqlite nor postgresql")


def is_sqlite(session: Session) -> bool:
    return session.get_bind().dialect.name == "sqlite"


@contextmanager
def transaction(engine: Engine) -> Iterator[Session]:
    """A session whose work is committed at the end of the block, all or nothing.

    On SQLite it is the only writer from its begin on, so that what it read cannot have changed when it writes.
    """
    with Session(engine, expire_on_commit=False) as session, session.begin():
        yield session


def _on_sqlite(connection: Any, record: object) -> None:
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=30000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_immediate(connection: Any) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")
