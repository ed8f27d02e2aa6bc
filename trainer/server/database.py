"""One engine per process, SQLite or PostgreSQL; what differs between the two is here and nowhere else."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.exc import ArgumentError
from sqlalchemy.orm import Session

from edge.errors import ConfigurationError

DATABASE_NAME = "server.db"
BUSY_SECONDS = 30
_READING = "soundkeep_reading"
Row = TypeVar("Row")


def database_url(data_dir: Path, given: str | None) -> str:
    """Return the URL that was given (``postgresql://...``, ``sqlite:///...``), else that of a file in ``data_dir``."""
    if given is None:
        return f"sqlite:///{data_dir.absolute() / DATABASE_NAME}"
    return given.replace("postgresql://", "postgresql+psycopg://", 1).replace("postgres://", "postgresql+psycopg://", 1)


def open_database(url: str) -> Engine:
    """Open an engine whose commits are on disk when they return. Raises ConfigurationError for any other URL."""
    try:
        if url.startswith("sqlite"):
            engine = create_engine(url, connect_args={"timeout": float(BUSY_SECONDS)}, pool_size=8, max_overflow=8)
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


@contextmanager
def reading(engine: Engine) -> Iterator[Session]:
    """A session that only reads: one picture of the database, and on SQLite no writer waits for it."""
    options = {_READING: True} if engine.dialect.name == "sqlite" else {"isolation_level": "REPEATABLE READ"}
    with (
        engine.connect().execution_options(**options) as connection,
        Session(connection, expire_on_commit=False) as session,
    ):
        yield session


def lock_row(session: Session, table: type[Row], key: Any) -> Row | None:
    """Read a row so that no other transaction changes it before this one ends."""
    return session.get(table, key, populate_existing=True, with_for_update=not is_sqlite(session))


def add_missing(session: Session, table: type[Any], **values: Any) -> None:
    """Add a row unless there is one with that key, whoever adds the same at the same time."""
    from sqlalchemy.dialects import postgresql, sqlite

    insert = sqlite.insert if is_sqlite(session) else postgresql.insert
    session.execute(insert(table).values(**values).on_conflict_do_nothing())


def _on_sqlite(connection: Any, record: object) -> None:
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in (f"busy_timeout={BUSY_SECONDS * 1000}", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    _use_write_ahead_log(cursor)
    cursor.close()


def _use_write_ahead_log(cursor: sqlite3.Cursor) -> None:
    """SQLite does not wait for others when it changes the mode of a new file, whatever busy_timeout says."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _begin_immediate(connection: Any) -> None:
    only_reads = connection.get_execution_options().get(_READING, False)
    connection.exec_driver_sql("BEGIN" if only_reads else "BEGIN IMMEDIATE")
