"""Looking at a state directory before trusting it: mark, pages, chain and payloads; what is wrong is named.

The mark is read first and the database after it: a writer may move on in between, never back.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from edge.errors import CorruptionError, StateError
from edge.journal_chain import Finding, Mark, Row, check_chain, payload_matches
from edge.journal_salvage import salvage
from edge.journal_store import Store, line_of
from edge.page_sums import PageCheck, check_pages

DATABASE = "state.db"
MARK = "acknowledged"
SUMS = "state.sums"


@dataclass
class Examination:
    """A store to read from, its intact rows, and everything that is wrong.

    unreadable: rows whose payload is missing or altered. altered: some pages differ from their sums and could not be
    put right. broken: something that was acknowledged is lost, so nothing may be added.
    """

    store: Store
    rows: list[Row]
    mark: Mark | None
    findings: list[Finding]
    unreadable: set[int] = field(default_factory=set)
    altered: bool = False
    broken: bool = False


def log_of(database: Path) -> Path:
    return Path(f"{database}-wal")


def read_mark(state_dir: Path) -> tuple[Mark | None, list[Finding]]:
    """Return the acknowledged mark, or None and what is wrong with it. Raises OSError."""
    path = state_dir / MARK
    try:
        return Mark.from_bytes(path.read_bytes()), []
    except FileNotFoundError:
        wrong = "is missing"
    except ValueError as error:
        wrong = f"was altered ({error})"
    message = f"the file {MARK!r} {wrong}: that nothing was lost at the end of the journal cannot be proven"
    return None, [Finding("mark", message)]


def check_sums(state_dir: Path) -> tuple[PageCheck, list[Finding]]:
    """Compare the database with its page sums. Raises OSError."""
    database = state_dir / DATABASE
    try:
        check = check_pages(state_dir / SUMS, database, log_of(database))
    except FileNotFoundError:
        return PageCheck(), [Finding("sums", f"the file {SUMS!r} is missing: bytes between the rows cannot be checked")]
    except ValueError as error:
        return PageCheck(), [Finding("sums", f"the file {SUMS!r} was altered ({error}): its pages cannot be checked")]
    return check, [Finding("page", _about_page(check, number), page=number) for number in check.altered]


def _about_page(check: PageCheck, number: int) -> str:
    if number not in check.flipped:
        return f"page {number} of {DATABASE} does not match its sum: it was altered or cut off"
    byte, bit = check.flipped[number]
    return f"bit {bit} of byte {byte} in page {number} of {DATABASE} had flipped; it is read as it was"


def check_payloads(store: Store, rows: Sequence[Row]) -> tuple[set[int], list[Finding]]:
    """Compare every payload with its row. Returns the rows that cannot be served, and why. Raises sqlite3.Error."""
    purged = {seq for row in rows if row.action == "forgotten" for seq in row.fields().get("purged", ())}
    present = store.payload_seqs()
    unreadable: set[int] = set()
    findings: list[Finding] = []

    def bad(row: Row, what: str) -> None:
        unreadable.add(row.seq)
        findings.append(Finding("payload", f"the embeddings of row {row.seq} ({row.action}) {what}", row.seq))

    for row in rows:
        if row.payload_sha256 is None:
            continue
        if row.seq not in present:
            if row.seq not in purged:
                bad(row, "are missing")
            continue
        try:
            payload = store.payload(row.seq)
            if payload is None or not payload_matches(row, *payload):
                bad(row, "were altered")
        except (sqlite3.Error, TypeError, ValueError) as error:
            bad(row, f"cannot be read ({error})")
    return unreadable, findings


def examine(state_dir: Path, *, heal: bool) -> Examination:
    """Look at everything. heal: put single flipped bits right in the file itself; else in a private copy.

    Raises OSError, StateError (newer version), CorruptionError (nothing of it can be read).
    """
    database = state_dir / DATABASE
    mark, findings = read_mark(state_dir)
    check, wrong = check_sums(state_dir)
    findings += wrong
    try:
        seen = _read(database, mark, check, heal=heal, thorough=bool(wrong))
        if not seen.broken:
            seen.findings[:0] = findings
            return seen
        first_look, lines = seen.findings, seen.store.lines()
        seen.store.close()
    except (sqlite3.Error, StateError) as error:
        if isinstance(error, StateError) and not isinstance(error, CorruptionError):
            raise
        if isinstance(error, sqlite3.OperationalError) and not wrong:
            raise  # the bytes are as they should be: it is the disk, or there is no room beside them
        findings.append(Finding("file", f"{DATABASE} cannot be read as a whole: {error}"))
        first_look, lines = [], []
    saved = _saved(database, mark, lines)
    saved.findings = findings + _told_once(first_look, saved.findings)
    return saved


def _told_once(first_look: Sequence[Finding], after: Sequence[Finding]) -> list[Finding]:
    """Return the findings of the first look, saying what was found again, and then those that only came up after it."""
    still = {(finding.part, finding.seq) for finding in after}
    told = [
        f if (f.part, f.seq) in still else replace(f, message=f"{f.message}; it was found again page by page")
        for f in first_look
    ]
    known = {(finding.part, finding.seq) for finding in first_look}
    return told + [finding for finding in after if (finding.part, finding.seq) not in known]


def _read(database: Path, mark: Mark | None, check: PageCheck, *, heal: bool, thorough: bool) -> Examination:
    if check.healed and heal:
        Store.heal(database, check.healed)
    in_copy = bool(check.healed) and not heal
    store = Store.open_copy(database, check.healed) if in_copy else Store.open_reader(database)
    try:
        rows, findings = check_chain(store.lines(), mark)
        unreadable: set[int] = set()
        if findings or thorough:
            unreadable, more = check_payloads(store, rows)
            findings += more
        altered = len(check.healed) < len(check.altered)
        broken = bool(findings) or (altered and not store.is_sound())
        return Examination(store, rows, mark, findings, unreadable, altered, broken)
    except BaseException:
        store.close()
        raise


def _saved(database: Path, mark: Mark | None, lines: Sequence[Sequence[object]]) -> Examination:
    """Serve what proves itself page by page, together with what SQLite could still read."""
    rows, payloads = salvage(database, log_of(database), mark)
    by_seq: dict[int, Sequence[object]] = {line[0]: line for line in lines if isinstance(line[0], int)}
    for row in rows:
        by_seq[row.seq] = line_of(row)
    if not by_seq and mark is None:
        raise CorruptionError(
            f"{database} holds nothing that can be read as a soundkeep journal; choose another state directory "
            f"with --state"
        )
    intact, wrong = check_chain([by_seq[seq] for seq in sorted(by_seq)], mark)
    store = Store.in_memory(database, intact, payloads)
    unreadable, more = check_payloads(store, intact)
    return Examination(store, intact, mark, wrong + more, unreadable, altered=True, broken=True)
