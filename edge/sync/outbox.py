"""What a device remembers of its talks with the server: counters, what was answered to each item, the request budget.

What waits to be sent is not here: it is derived from the journal and the clips (``edge.sync.pending``), so it is as
durable as they are and costs no second copy. Losing this file costs only sending again: everything counts once on
the server, and the server says where its counters stand.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.errors import SyncError
from edge.sync.retry import Moment, RequestBudget, moment_now
from edge.sync.signing import MAX_SEQUENCE

SEQUENCE_BLOCK = 64
BUSY_MS = 30_000
SETTLED = frozenset({"created", "duplicate", "superseded"})
RESULTS = SETTLED | {"rejected", "dropped"}
MAX_REASON_CHARACTERS = 500

_SCHEMA = """
CREATE TABLE IF NOT EXISTS counter (key TEXT PRIMARY KEY, value TEXT NOT NULL, proof TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS ledger (
    kind TEXT NOT NULL, item TEXT NOT NULL, result TEXT NOT NULL, reason TEXT, n_bytes INTEGER NOT NULL,
    PRIMARY KEY (kind, item)
) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Settled:
    """What became of one item. kind: state, embeddings or clips. item: its hash. result: created, duplicate,
    superseded, rejected (reason says why), or dropped (left out here, for want of room)."""

    kind: str
    item: str
    result: str
    reason: str | None = None
    n_bytes: int = 0


def no_crash(point: str) -> None:
    """What happens at a crash point outside tests."""


class Outbox:
    """``outbox.db`` of one enrolment. Use in a ``with``, on one thread; several processes may have it open.

    Raises SyncError when the disk refuses.
    """

    def __init__(
        self,
        path: Path,
        *,
        now: Callable[[], Moment] = moment_now,
        crash_point: Callable[[str], None] = no_crash,
        block: int = SEQUENCE_BLOCK,
    ) -> None:
        self._path = path
        self._now = now
        self._crash_point = crash_point
        self._block = block
        self._next = self._end = 0
        self.findings: list[str] = []
        """What was wrong with the file when it was opened, for people."""
        self._connection = self._open()

    def __enter__(self) -> Outbox:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._connection.close()

    # ---- counters ---------------------------------------------------------------------------------------------------

    def next_sequence(self) -> int:
        """Return a number that no request of this device carried before, whatever kills the process.

        A block of numbers is on the disk as used before the first of it is.
        """
        if self._next >= self._end:
            with self._transaction():
                start = int(self._get("sequence", 0)) + 1
                if start + self._block > MAX_SEQUENCE:
                    raise SyncError("this device has used up its sequence numbers; `soundkeep sync off`, enrol again")
                self._put("sequence", start + self._block - 1)
            self._next, self._end = start, start + self._block
            self._crash_point("sequence-reserved")
        self._next += 1
        return self._next - 1

    def sequence_is_at_least(self, top: int) -> None:
        """Go on after ``top``: the server saw numbers that this outbox does not remember."""
        if not 0 <= top < MAX_SEQUENCE - self._block:
            raise SyncError(f"the server says that sequence number {top} was seen; `soundkeep sync off`, enrol again")
        with self._transaction():
            self._put("sequence", max(int(self._get("sequence", 0)), top))
        self._next = self._end = 0

    def get(self, key: str, default: Any = None) -> Any:
        """Return what was last kept under ``key``."""
        with self._saying():
            return self._get(key, default)

    def put(self, values: Mapping[str, Any]) -> None:
        """Keep all of ``values`` (plain JSON), or none."""
        with self._transaction():
            for key, value in values.items():
                self._put(key, value)

    # ---- the ledger -------------------------------------------------------------------------------------------------

    def settle(self, items: Iterable[Settled]) -> None:
        """Remember what became of items, all or none; the last word about an item counts."""
        rows = [(s.kind, s.item, s.result, s.reason and s.reason[:MAX_REASON_CHARACTERS], s.n_bytes) for s in items]
        with self._transaction():
            self._connection.executemany("INSERT OR REPLACE INTO ledger VALUES (?, ?, ?, ?, ?)", rows)

    def settled(self, kind: str) -> dict[str, Settled]:
        """Return everything remembered of one kind, by item. A row that makes no sense is as if it were not there."""
        with self._saying():
            rows = self._connection.execute("SELECT * FROM ledger WHERE kind = ?", (kind,)).fetchall()
        return {row[1]: Settled(*row) for row in rows if row[2] in RESULTS}

    def refused(self) -> list[Settled]:
        """Return what the server will not take, with its reasons."""
        with self._saying():
            rows = self._connection.execute("SELECT * FROM ledger WHERE result = 'rejected' ORDER BY kind, item")
            return [Settled(*row) for row in rows]

    def dropped(self) -> tuple[int, int]:
        """Return how many items were left out for want of room, and their bytes."""
        with self._saying():
            n, n_bytes = self._connection.execute(
                "SELECT count(*), coalesce(sum(n_bytes), 0) FROM ledger WHERE result = 'dropped'"
            ).fetchone()
        return int(n), int(n_bytes)

    def forget_items(self, kind: str, items: Iterable[str]) -> None:
        """Forget what was answered to these items."""
        with self._transaction():
            self._connection.executemany("DELETE FROM ledger WHERE kind = ? AND item = ?", [(kind, i) for i in items])

    def forget_answers(self, *, refused_only: bool = False) -> None:
        """Forget every answer, or every refusal and everything left out: it is sent again. What counted counts once."""
        chosen = " WHERE result IN ('rejected', 'dropped')" if refused_only else ""
        with self._transaction():
            self._connection.execute(f"DELETE FROM ledger{chosen}")

    # ---- the request budget -----------------------------------------------------------------------------------------

    def take_request(self, *, of: float = 1.0) -> float:
        """Take one request from the hour's budget if ``of`` are left. Returns 0.0, or the seconds until they are."""
        with self._transaction():
            bucket, wait_s = self.budget().take(self._now(), of=of)
            self._keep_budget(bucket)
            return wait_s

    def give_request_back(self) -> None:
        """Say that the request that was taken led somewhere."""
        with self._transaction():
            self._keep_budget(self.budget().give_back(self._now()))

    def budget(self) -> RequestBudget:
        """The bucket of requests that may lead nowhere, as it is now."""
        now = self._now()
        kept = self.get("budget")
        try:
            tokens, boot, at_s = float(kept[0]), str(kept[1]), float(kept[2])
        except (TypeError, ValueError, LookupError):
            return RequestBudget.full(now)
        return RequestBudget(tokens, Moment(boot, at_s)).refilled(now)

    def _keep_budget(self, bucket: RequestBudget) -> None:
        self._put("budget", [bucket.tokens, bucket.at.boot, bucket.at.since_boot_s])

    # ---- how --------------------------------------------------------------------------------------------------------

    def _get(self, key: str, default: Any) -> Any:
        row = self._connection.execute("SELECT value, proof FROM counter WHERE key = ?", (key,)).fetchone()
        if row is None or row[1] != _proof(key, row[0]):
            return default
        return json.loads(row[0])

    def _put(self, key: str, value: Any) -> None:
        text = json.dumps(value)
        self._connection.execute("INSERT OR REPLACE INTO counter VALUES (?, ?, ?)", (key, text, _proof(key, text)))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._saying():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    @contextmanager
    def _saying(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise SyncError(
                f"{self._path} refuses ({error}); make room for it; when it is damaged, the next sync makes it anew"
            ) from error

    def _open(self) -> sqlite3.Connection:
        try:
            return self._opened()
        except (OSError, sqlite3.OperationalError) as error:
            raise SyncError(f"{self._path} cannot be opened ({error}); make room or rights for it") from error
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            self.findings.append(
                f"the outbox was damaged ({error}) and was made anew; nothing is lost, what was sent is sent again"
            )
        try:
            for suffix in ("-wal", "-shm", ""):
                Path(f"{self._path}{suffix}").unlink(missing_ok=True)
            return self._opened()
        except (OSError, sqlite3.Error) as error:
            raise SyncError(f"{self._path} is damaged and cannot be made anew ({error}); remove it") from error

    def _opened(self) -> sqlite3.Connection:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)  # for the owner alone
        os.close(descriptor)
        connection = sqlite3.connect(self._path, isolation_level=None, timeout=BUSY_MS / 1000.0)
        try:
            for pragma in ("journal_mode=WAL", "synchronous=FULL", f"busy_timeout={BUSY_MS}"):
                connection.execute(f"PRAGMA {pragma}")
            said = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if said != "ok":
                raise sqlite3.DatabaseError(said)
            connection.executescript(_SCHEMA)
            damaged = [
                key for key, value, proof in connection.execute("SELECT * FROM counter") if proof != _proof(key, value)
            ]
            if damaged:
                raise sqlite3.DatabaseError(f"the counter {damaged[0]!r:.40} was altered")
        except BaseException:
            connection.close()
            raise
        return connection


def _proof(key: str, value: str) -> str:
    return hashlib.sha256(f"{key}\0{value}".encode()).hexdigest()[:16]
