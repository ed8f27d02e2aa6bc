"""The SQLite file under the journal: how rows and payloads are kept, appended, purged and read.

WAL with synchronous=FULL: a committed transaction survives a power cut. ``journal`` only ever grows (triggers refuse
anything else); ``payload`` loses bytes only by a purge, and secure_delete overwrites them.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from edge.durable import flush_directory
from edge.errors import CorruptionError, StateError
from edge.journal_chain import Row
from edge.journal_log import PAGE_SIZE

SCHEMA_VERSION = 1
APPLICATION_ID = 0x736B6A6C
BUSY_SECONDS = 5.0

_SCHEMA = f"""
CREATE TABLE journal (
    seq INTEGER PRIMARY KEY, unit INTEGER NOT NULL, wall_ms INTEGER NOT NULL, action BLOB NOT NULL,
    detail BLOB NOT NULL, payload_sha256 BLOB, previous BLOB NOT NULL, hash BLOB NOT NULL);
CREATE TABLE payload (seq INTEGER PRIMARY KEY, embeddings BLOB NOT NULL, provenance BLOB NOT NULL);
CREATE TRIGGER journal_no_update BEFORE UPDATE ON journal BEGIN SELECT RAISE(ABORT, 'the journal only grows'); END;
CREATE TRIGGER journal_no_delete BEFORE DELETE ON journal BEGIN SELECT RAISE(ABORT, 'the journal only grows'); END;
CREATE TRIGGER payload_no_update BEFORE UPDATE ON payload BEGIN SELECT RAISE(ABORT, 'a payload never changes'); END;
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
"""


class Store:
    """One connection to a journal database. Not thread-safe by itself: its Journal serialises the calls."""

    def __init__(self, connection: sqlite3.Connection, path: Path, *, scratch: Path | None = None) -> None:
        self.path = path
        self._connection = connection
        self._scratch = scratch

    @staticmethod
    def create(path: Path, *, before_rename: Callable[[Path], None]) -> None:
        """Make an empty database that appears under ``path`` complete or not at all. Raises OSError, sqlite3.Error.

        before_rename: called with the finished file while it still lies beside.
        """
        beside = path.with_name(path.name + ".tmp")
        for leftover in (beside, Path(f"{beside}-wal"), Path(f"{beside}-shm"), Path(f"{beside}-journal")):
            leftover.unlink(missing_ok=True)
        os.close(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        connection = sqlite3.connect(beside, isolation_level=None)
        try:
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(f"PRAGMA page_size = {PAGE_SIZE}")
            connection.executescript(_SCHEMA)
            connection.execute("PRAGMA journal_mode = WAL")
        finally:
            connection.close()
        before_rename(beside)
        os.replace(beside, path)
        flush_directory(path.parent)

    @staticmethod
    def heal(path: Path, pages: Mapping[int, bytes]) -> None:
        """Write pages (numbered from 1) in place and flush them; each is one bit away from what is there. OSError."""
        with open(path, "r+b") as file:
            for number, page in pages.items():
                file.seek((number - 1) * PAGE_SIZE)
                file.write(page)
            file.flush()
            os.fsync(file.fileno())

    @classmethod
    def open_writer(cls, path: Path) -> Store:
        """Open for appending. Raises sqlite3.Error, StateError."""
        connection = _connect(path, "rw")
        for setting in (
            "journal_mode = WAL",
            "synchronous = FULL",
            "secure_delete = ON",
            "wal_autocheckpoint = 0",
            "trusted_schema = OFF",
            "cell_size_check = ON",
        ):
            connection.execute(f"PRAGMA {setting}").fetchall()
        return cls(_checked_version(connection, path), path)

    @classmethod
    def open_reader(cls, path: Path) -> Store:
        """Open for reading beside a writer, after a crash, and in a directory that cannot be written.

        Raises sqlite3.Error, OSError, StateError.
        """
        log = Path(f"{path}-wal")
        try:
            connection = _connect(path, "ro")
            try:
                connection.execute("SELECT max(seq) FROM journal").fetchone()
                return cls(_checked_version(connection, path), path)
            except sqlite3.OperationalError:
                connection.close()
                raise
        except sqlite3.OperationalError:
            if os.access(path.parent, os.W_OK) and _writable_mount(path.parent):
                raise
        if not log.exists() or log.stat().st_size == 0:
            return cls(_checked_version(_connect(path, "ro&immutable=1"), path), path)
        return cls.open_copy(path, {})

    @classmethod
    def open_copy(cls, path: Path, pages: Mapping[int, bytes]) -> Store:
        """Open a private copy of the database and its log, with some pages (numbered from 1) replaced."""
        scratch = Path(tempfile.mkdtemp(prefix="soundkeep-"))
        try:
            copy = scratch / path.name
            shutil.copyfile(path, copy)
            log = Path(f"{path}-wal")
            if log.exists():
                shutil.copyfile(log, Path(f"{copy}-wal"))
            cls.heal(copy, pages)
            return cls(_checked_version(_connect(copy, "rw"), path), path, scratch=scratch)
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise

    @classmethod
    def in_memory(cls, path: Path, rows: Iterable[Row], payloads: Iterable[tuple[int, bytes, bytes]]) -> Store:
        """Serve rows and payloads that were saved from a database which SQLite cannot read any more."""
        connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        connection.executescript(_SCHEMA)
        store = cls(connection, path)
        store.append(list(rows), list(payloads), [], before_commit=lambda: None)
        return store

    def append(
        self,
        rows: Sequence[Row],
        payloads: Sequence[tuple[int, bytes, bytes]],
        purged: Sequence[int],
        *,
        before_commit: Callable[[], None],
    ) -> None:
        """Append ``rows`` and payloads (seq, embeddings, provenance), and delete purged payloads, in one transaction.

        ``before_commit`` runs as the last step inside the transaction. All or nothing. Raises sqlite3.Error, OSError.
        """
        run = self._connection.execute
        run("BEGIN IMMEDIATE")
        try:
            for row in rows:
                run(
                    "INSERT INTO journal VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    line_of(row),
                )
            self._connection.executemany("INSERT INTO payload VALUES (?, ?, ?)", payloads)
            self._connection.executemany("DELETE FROM payload WHERE seq = ?", [(seq,) for seq in purged])
            before_commit()
            run("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                run("ROLLBACK")
            raise

    def lines(self) -> list[tuple[object, ...]]:
        """Return the journal as it lies there, in order of seq, unchecked."""
        columns = "seq, unit, wall_ms, action, detail, payload_sha256, previous, hash"
        return self._connection.execute(f"SELECT {columns} FROM journal ORDER BY seq").fetchall()

    def payload(self, seq: int) -> tuple[bytes, bytes] | None:
        """Return (embeddings, provenance) of a row, unchecked; None when there is none."""
        found = self._connection.execute("SELECT embeddings, provenance FROM payload WHERE seq = ?", (seq,)).fetchone()
        return None if found is None else (bytes(found[0]), bytes(found[1]))

    def payload_seqs(self) -> set[int]:
        return {seq for (seq,) in self._connection.execute("SELECT seq FROM payload")}

    def data_version(self) -> int:
        """Return a number that changes when another connection has committed."""
        return int(self._connection.execute("PRAGMA data_version").fetchone()[0])

    def checkpoint(self) -> bool:
        """Move the log into the database and empty it; False when a reader is in the way."""
        busy, _, _ = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return not busy

    def vacuum(self) -> None:
        """Write the database anew, into the log: no page keeps remnants of what was deleted."""
        self._connection.execute("VACUUM")

    def is_sound(self) -> bool:
        """Tell whether SQLite finds nothing wrong with the structure of the file."""
        try:
            (verdict,) = self._connection.execute("PRAGMA integrity_check(1)").fetchone()
            return bool(verdict == "ok")
        except sqlite3.Error:
            return False

    def close(self, *, keep_log: bool = False) -> None:
        """Close. keep_log: leave the log as it is, which the last connection would else move into the database."""
        keeper = None
        if keep_log and self._scratch is None:
            keeper = _connect(self.path, "ro")
            keeper.execute("SELECT max(seq) FROM journal").fetchone()
        self._connection.close()
        if keeper is not None:
            keeper.close()  # a read-only connection cannot move the log
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)


def line_of(row: Row) -> tuple[object, ...]:
    """Return a row as a line of the table."""
    action = row.action.encode("utf-8")
    return (row.seq, row.unit, row.wall_ms, action, row.detail, row.payload_sha256, row.previous, row.hash)


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    address = f"{path.absolute().as_uri()}?mode={mode}"
    return sqlite3.connect(address, uri=True, isolation_level=None, check_same_thread=False, timeout=BUSY_SECONDS)


def _writable_mount(directory: Path) -> bool:
    return not os.statvfs(directory).f_flag & os.ST_RDONLY


def _checked_version(connection: sqlite3.Connection, path: Path) -> sqlite3.Connection:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application != APPLICATION_ID or version < 1:
        connection.close()
        raise CorruptionError(
            f"{path} is not a soundkeep journal (application id {application:#x}, wanted {APPLICATION_ID:#x}); "
            f"choose another state directory with --state"
        )
    if version > SCHEMA_VERSION:
        connection.close()
        raise StateError(
            f"{path} was written by a newer soundkeep (schema {version}, this one knows {SCHEMA_VERSION}); "
            f"update soundkeep, or choose another state directory with --state"
        )
    return connection
