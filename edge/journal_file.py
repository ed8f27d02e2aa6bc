"""The journal as a file that can be trusted: rows in, rows out, acknowledged and verified; not what they mean.

A command is acknowledged when ``append`` returns. Order of work: the new mark (last seq and hash) is flushed to a file
beside, the rows are committed, the mark is renamed into place. So after a crash the database is at the mark or one
command ahead of it, and that command stays. A mark ahead of the database means that acknowledged rows were lost.
"""

from __future__ import annotations

import errno
import math
import os
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.durable import prepare_file, publish_file, write_file
from edge.errors import CorruptionError, StateError
from edge.journal_chain import GENESIS, Finding, Mark, Row, check_chain, sealed
from edge.journal_examination import (
    DATABASE,
    MARK,
    SUMS,
    Examination,
    check_payloads,
    check_sums,
    examine,
    log_of,
    read_mark,
)
from edge.journal_store import Store
from edge.page_sums import write_sums
from edge.space import canonical_json
from edge.state_lock import WriterLock

LOCK = "writer.lock"
LOG_BYTES = 4 << 20


@dataclass(frozen=True)
class Draft:
    """A row to be appended. ``payload``: (hash, embeddings, provenance). ``joins``: part of the command before it."""

    action: str
    detail: Mapping[str, Any]
    payload: tuple[bytes, bytes, bytes] | None = None
    joins: bool = False


class JournalFile:
    """Owner of the database, the mark and, when writing, the writer lock of one state directory. Not thread-safe."""

    def __init__(
        self, state_dir: Path, *, read_only: bool, clock: Callable[[], float], crash_point: Callable[[str], None]
    ) -> None:
        self.state_dir = state_dir
        self.read_only = read_only
        self.rows: list[Row] = []
        self.findings: tuple[Finding, ...] = ()
        self.unreadable: frozenset[int] = frozenset()
        self._database = state_dir / DATABASE
        self._clock = clock
        self._crash_point = crash_point
        self._lock = WriterLock(state_dir / LOCK)
        self._store: Store | None = None
        self._data_version = 0
        self._unusable: str | None = None
        self._in_doubt = False

    # ---- opening and closing ----------------------------------------------------------------------------------------

    def open(self) -> None:
        """Take the lock, look at everything, and only then open for writing. Raises StateError and its kinds."""
        if self.state_dir.exists() and not self.state_dir.is_dir():
            raise StateError(
                f"state directory {self.state_dir} is a file, not a directory; choose another with --state"
            )
        try:
            if not self.read_only:
                self.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._lock.acquire()
            if not self._database.exists():
                self._begin()
            if self._database.exists():
                self._examine()
            else:
                self._store = Store.in_memory(self._database, [], [])
        except (OSError, sqlite3.Error) as error:
            raise self._refused(error, "opened") from error

    def _begin(self) -> None:
        mark = read_mark(self.state_dir)[0] if (self.state_dir / MARK).exists() else None
        if mark is not None and mark.seq:
            raise CorruptionError(
                f"{self._database} is missing although {mark.seq} rows were acknowledged; put it back from a backup, "
                f"or choose another state directory with --state"
            )
        if self.read_only:
            return
        write_file(self.state_dir / MARK, [Mark().to_bytes()])
        self._crash_point("mark created")

        def with_sums(beside: Path) -> None:
            write_sums(self.state_dir / SUMS, beside, log_of(beside), anew=True)
            self._crash_point("first page sums written")

        Store.create(self._database, before_rename=with_sums)
        self._crash_point("database created")

    def _examine(self) -> None:
        seen = examine(self.state_dir, heal=not self.read_only)
        self._data_version = seen.store.data_version()
        if not self.read_only and not seen.broken:
            seen.store = self._continued(seen)
        self._store, self.rows, self.unreadable = seen.store, seen.rows, frozenset(seen.unreadable)
        self.findings = tuple(dict.fromkeys((*self.findings, *seen.findings)))
        if seen.broken:
            self._unusable = (
                f"{self._database} is damaged ({seen.findings[-1].message}): what is intact is served, but nothing can "
                f"be added; save it with 'soundkeep memory export', and import that into a fresh state directory"
            )

    def _continued(self, seen: Examination) -> Store:
        """Open for writing what was examined, and bring the files beside it up to date."""
        store = Store.open_writer(self._database)
        try:
            seen.store.close()
            if seen.altered or any(finding.part == "sums" for finding in seen.findings):
                write_sums(self.state_dir / SUMS, self._database, log_of(self._database), anew=True)
            last = Mark(seen.rows[-1].seq, seen.rows[-1].hash) if seen.rows else Mark()
            if seen.mark is None or seen.mark.seq < last.seq:
                write_file(self.state_dir / MARK, [last.to_bytes()])
            self._crash_point("opened for writing")
        except BaseException:
            store.close(keep_log=True)
            raise
        return store

    def close(self) -> None:
        """Move the log into the database, close it and release the lock. Closing twice is allowed."""
        store, self._store = self._store, None
        try:
            if store is not None and (self.read_only or self._unusable is not None):
                store.close()
            elif store is not None:
                self._close_written(store)
        finally:
            self._lock.release()

    def _close_written(self, store: Store) -> None:
        keep_log = True
        try:
            if not self._in_doubt:
                self._move_log(store)
                keep_log = False
        except (OSError, ValueError, sqlite3.Error):
            pass  # a full disk: the log stays as it is, and the next opening finds everything in it
        store.close(keep_log=keep_log)

    def _move_log(self, store: Store) -> bool:
        """Write the page sums for the time after, then move the log; False when a reader is in the way."""
        write_sums(self.state_dir / SUMS, self._database, log_of(self._database))
        self._crash_point("page sums written")
        moved = store.checkpoint()
        self._crash_point("log moved")
        return moved

    @property
    def writable(self) -> bool:
        return not self.read_only and self._unusable is None

    @property
    def store(self) -> Store:
        if self._store is None:
            raise StateError(f"the journal of {self.state_dir} is closed; open it again")
        return self._store

    @property
    def last(self) -> tuple[int, bytes]:
        """Seq and hash of the last row."""
        return (self.rows[-1].seq, self.rows[-1].hash) if self.rows else (0, GENESIS)

    # ---- reading ----------------------------------------------------------------------------------------------------

    def refresh(self) -> bool:
        """For a reader: take in what a writer has committed since; True when ``rows`` changed. Raises StateError."""
        if not self.read_only:
            return False
        try:
            store = self.store
            version = store.data_version()
            if version == self._data_version:
                return False
            mark, _ = read_mark(self.state_dir)
            self.rows, findings = check_chain(store.lines(), mark)
            self.findings = tuple(dict.fromkeys((*self.findings, *findings)))
            self._data_version = version
        except (OSError, sqlite3.Error) as error:
            raise self._refused(error, "read") from error
        return True

    def settle(self) -> bool:
        """For a writer: after a commit that ended in a disk error, open anew and see what became of it.

        True when ``rows`` may have changed. Raises StateError as long as the disk refuses.
        """
        if not self._in_doubt:
            return False
        before = self.store
        try:
            self._examine()
        except (OSError, sqlite3.Error) as error:
            raise self._refused(error, "opened") from error
        before.close()
        self._in_doubt = False
        return True

    def verify(self) -> tuple[Mark | None, list[Finding]]:
        """Look at everything again, as it lies on the disk now. Returns the acknowledged mark and what is wrong."""
        if not self._database.exists():
            return None, []
        try:
            mark, findings = read_mark(self.state_dir)
            findings += check_sums(self.state_dir)[1]
            rows, wrong = check_chain(self.store.lines(), mark)
            return mark, findings + wrong + check_payloads(self.store, rows)[1]
        except (OSError, sqlite3.Error) as error:
            raise CorruptionError(
                f"{self._database} cannot be read ({error}); open it again to see what is left"
            ) from error

    def payload(self, seq: int) -> tuple[bytes, bytes] | None:
        """Return (embeddings, provenance) of a row as they lie there. Raises StateError."""
        try:
            return self.store.payload(seq)
        except sqlite3.Error as error:
            raise CorruptionError(
                f"the payload of row {seq} cannot be read ({error}); run 'soundkeep memory verify'"
            ) from error

    # ---- writing ----------------------------------------------------------------------------------------------------

    def append(self, drafts: Sequence[Draft], *, purged: Sequence[int] = ()) -> list[Row]:
        """Append rows, and delete purged payloads, in one transaction; return the rows once they are acknowledged.

        All or nothing. Raises StateError when reading only, damaged, read-only or full; nothing is changed then.
        """
        store = self.store
        if self.read_only:
            raise StateError(f"the journal of {self.state_dir} was opened for reading only; open it for writing")
        if self._unusable is not None:
            raise CorruptionError(self._unusable)
        rows = self._sealed(drafts)
        mark = Mark(rows[-1].seq, rows[-1].hash)
        payloads = [
            (r.seq, d.payload[1], d.payload[2]) for r, d in zip(rows, drafts, strict=True) if d.payload is not None
        ]
        beside: list[Path] = []

        def before_commit() -> None:
            self._crash_point("rows written")
            beside.append(prepare_file(self.state_dir / MARK, [mark.to_bytes()]))
            self._crash_point("mark written beside")

        try:
            store.append(rows, payloads, purged, before_commit=before_commit)
        except (OSError, sqlite3.Error) as error:
            for file in beside:
                file.unlink(missing_ok=True)
            self._in_doubt = isinstance(error, sqlite3.Error) and "full" not in str(error)
            raise self._refused(error, "written") from error
        self._crash_point("rows committed")
        self.rows.extend(rows)
        try:
            publish_file(beside[0], self.state_dir / MARK)
        except OSError as error:
            self._unusable = (
                f"the last command of {self.state_dir} was written but could not be acknowledged ({error}); "
                f"close the journal and open it again"
            )
            raise StateError(self._unusable) from error
        self._crash_point("mark renamed")
        self._bound_log()
        return rows

    def _bound_log(self) -> None:
        try:
            if log_of(self._database).stat().st_size > LOG_BYTES:
                self._move_log(self.store)
        except (OSError, ValueError, sqlite3.Error):
            return  # the command is acknowledged whatever becomes of this; the log stays and is moved another time

    def _sealed(self, drafts: Sequence[Draft]) -> list[Row]:
        now = self._clock() * 1000.0
        wall_ms = int(min(max(now, -(2.0**62)), 2.0**62)) if math.isfinite(now) else 0
        rows: list[Row] = []
        seq, previous = self.last
        unit = seq + 1
        for draft in drafts:
            seq += 1
            unit = unit if draft.joins else seq
            digest = None if draft.payload is None else draft.payload[0]
            row = sealed(Row(seq, unit, wall_ms, draft.action, canonical_json(draft.detail), digest, previous))
            rows.append(row)
            previous = row.hash
        return rows

    def scrub(self) -> None:
        """Write the database anew and empty the log, so that no deleted byte is left. Raises StateError."""
        try:
            self.store.vacuum()
            self._crash_point("database rewritten")
            if not self._move_log(self.store):
                raise StateError(
                    f"what was purged still lies in the log of {self.state_dir}, because another process reads it; "
                    f"it is removed the next time this state directory is opened for writing"
                )
        except (OSError, ValueError, sqlite3.Error) as error:
            raise self._refused(error, "scrubbed") from error

    # ---- saying what went wrong -------------------------------------------------------------------------------------

    def _refused(self, error: Exception, what: str) -> StateError:
        safe = "nothing of this command was kept, and all that was learnt before is safe"
        where = f"state directory {self.state_dir}"
        number = getattr(error, "errno", None)
        if number in (errno.ENOSPC, errno.EDQUOT) or "full" in str(error) or self._no_space_left():
            return StateError(f"{where} is on a full disk: {safe}; free some space and try again")
        if number in (errno.EROFS, errno.EACCES, errno.EPERM) or "readonly" in str(error):
            return StateError(
                f"{where} cannot be {what}: it is read-only ({error}); make it writable, or choose another with --state"
            )
        return StateError(f"{where} cannot be {what} ({error}): {safe}; check the disk, or choose another with --state")

    def _no_space_left(self) -> bool:
        try:
            return os.statvfs(self.state_dir).f_bavail == 0
        except OSError:
            return False
