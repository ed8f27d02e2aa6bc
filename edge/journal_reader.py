"""Reading the journal: what is known now, the history, and whether everything is as it was acknowledged."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.errors import CorruptionError, MisuseError
from edge.journal_chain import GENESIS, Finding, payload_hash
from edge.journal_file import JournalFile
from edge.journal_fold import Content, Entry, Known, Moved, State
from edge.records import BACKGROUND, Record, embeddings_from_bytes, parse_provenance
from edge.space import EmbeddingSpace, Grid

SHORTEST_PREFIX = 8


@dataclass(frozen=True)
class ChainReport:
    """What a verification saw. n_purged: rows whose payload was purged on purpose; the chain holds without it.

    acknowledged_seq: the row up to which everything was acknowledged, None when that cannot be read.
    """

    n_rows: int
    n_records: int
    n_purged: int
    last_seq: int
    last_hash: str
    acknowledged_seq: int | None
    findings: tuple[Finding, ...]

    @property
    def intact(self) -> bool:
        return not self.findings


class KnownRecords(Mapping[str, Record]):
    """What was known at one moment, ordered by id. Embeddings are read, and checked, when a record is asked for.

    The view stays as it was when later commands change the journal; only a purge takes records out of its reach.
    """

    def __init__(self, known: dict[str, Known], load: Callable[[Known], Record]) -> None:
        self._known = known
        self._load = load

    def __getitem__(self, record_id: str) -> Record:
        return self._load(self._known[record_id])

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, record_id: object) -> bool:
        return record_id in self._known

    def about(self, record_id: str) -> Known:
        """Return label, space and size of a record without reading its embeddings. Raises KeyError."""
        return self._known[record_id]


class JournalReader:
    """The reading half of a Journal; ``edge.journal`` adds the commands.

    Threads: any thread may call any method; a lock serialises them, so that a call waits for the one before it.
    """

    def __init__(self, file: JournalFile, space: EmbeddingSpace | None) -> None:
        self._file = file
        self.space = space
        self._guard = threading.RLock()
        self._state = State.fold(file.rows)

    @property
    def state_dir(self) -> Path:
        return self._file.state_dir

    @property
    def read_only(self) -> bool:
        return self._file.read_only

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Damage found so far; () when all is well."""
        return self._file.findings

    @property
    def last_seq(self) -> int:
        with self._guard:
            self._refresh()
            return self._file.last[0]

    @property
    def last_hash(self) -> str:
        with self._guard:
            self._refresh()
            return self._file.last[1].hex()

    def records(self, space_sha256: str | None = None) -> KnownRecords:
        """Return what is known now, ordered by id, ignored records (label BACKGROUND) included.

        space_sha256: what is known in that embedding space, as records of their own or as images; None: in the space
        given to ``open``; without one, every record once, in the space that it was taught in.
        """
        with self._guard:
            self._refresh()
            return KnownRecords(self._chosen(self._state, space_sha256), self._load)

    def natives(self) -> KnownRecords:
        """Return every known record once, in the space that it was taught in, ordered by id."""
        with self._guard:
            self._refresh()
            return KnownRecords(self._served(self._state.known.values()), self._load)

    def recoverable(self) -> tuple[Known, ...]:
        """Return the records that are forgotten and that undo can bring back, ordered by id."""
        with self._guard:
            self._refresh()
            return tuple(sorted(self._state.recoverable.values(), key=_by_id))

    def load(self, known: Known) -> Record:
        """Read the embeddings of a record or an image. Raises CorruptionError."""
        return self._load(known)

    def images(self, space_sha256: str) -> dict[Content, Moved]:
        """Return the newest image in that space of every content that has one, known now or not."""
        with self._guard:
            self._refresh()
            found = ((content, images.get(space_sha256)) for content, images in self._state.images.items())
            return {content: image for content, image in found if image is not None}

    def not_in(self, space_sha256: str) -> tuple[Known, ...]:
        """Return the known records that are neither of that space nor have an image there, ordered by id."""
        with self._guard:
            self._refresh()
            others = (known for known in self._state.known.values() if known.space_sha256 != space_sha256)
            return tuple(sorted((k for k in others if self._state.image(k, space_sha256) is None), key=_by_id))

    def sources(self, record_id: str) -> tuple[Known, ...]:
        """Return the records that an id stands for, those of an image's sources included. Raises MisuseError."""
        with self._guard:
            self._refresh()
            behind = self._state.behind(self._state.known.values())
            return tuple(behind[resolve_prefix(record_id, behind)])

    def clip_content(self, record_id: str) -> str:
        """Return the content hash under which the clip of a record lies: that of its source. Raises MisuseError."""
        return self.sources(record_id)[0].content_sha256

    def labels(self) -> tuple[str, ...]:
        """Return the labels taught now, in any space, sorted; BACKGROUND is not among them."""
        with self._guard:
            self._refresh()
            return tuple(sorted(self._state.labels - {BACKGROUND}))

    def disabled_labels(self) -> frozenset[str]:
        """Return the labels whose detection is switched off."""
        with self._guard:
            self._refresh()
            return self._state.disabled

    def spaces(self) -> dict[str, EmbeddingSpace]:
        """Return every embedding space that ever held a record, by its sha256."""
        with self._guard:
            self._refresh()
            return {name: space_from_description(described) for name, described in self._state.spaces.items()}

    def provenance(self, record_id: str) -> dict[str, Any]:
        """Return where a known record came from, as it was given when it was taught. Raises MisuseError."""
        with self._guard:
            known = self.sources(record_id)[0]
            return parse_provenance(self._payload(known)[1])

    def resolve(self, prefix: str) -> str:
        """Return the id of the known record whose id, or whose image's id, starts with ``prefix`` (8 or more digits).

        Raises MisuseError.
        """
        with self._guard:
            return self.sources(prefix)[0].id

    def history(self) -> list[Entry]:
        """Return every command ever given, oldest first, with those that were undone."""
        with self._guard:
            self._refresh()
            return [self._state.history[unit] for unit in sorted(self._state.history)]

    def get_kv(self, key: str) -> Any:
        """Return the value last stored under ``key``, or None."""
        with self._guard:
            self._refresh()
            return self._state.settings.get(key)

    def records_at(self, seq: int, space_sha256: str | None = None) -> KnownRecords | None:
        """Return what was known after row ``seq``, as ``records`` does; None when that row is not there."""
        with self._guard:
            self._refresh()
            rows = [row for row in self._file.rows if row.seq <= seq]
            if seq and (not rows or rows[-1].seq != seq):
                return None
            return KnownRecords(self._chosen(State.fold(rows), space_sha256), self._load)

    def hash_at(self, seq: int) -> str | None:
        """Return the hash of row ``seq``, or None when it is not there."""
        with self._guard:
            self._refresh()
            if seq == 0:
                return GENESIS.hex()
            return next((row.hash.hex() for row in reversed(self._file.rows) if row.seq == seq), None)

    def verify(self) -> ChainReport:
        """Check every page, row and payload again, as they lie on the disk now."""
        with self._guard:
            self._refresh()
            mark, findings = self._file.verify()
            n_payloads = sum(row.payload_sha256 is not None for row in self._file.rows)
            held = (*self._state.contents.values(), *self._state.image_rows.values())
            n_held = sum(len(seqs) for seqs in held)
            return ChainReport(
                n_rows=len(self._file.rows),
                n_records=len(self._state.known),
                n_purged=n_payloads - n_held,
                last_seq=self._file.last[0],
                last_hash=self._file.last[1].hex(),
                acknowledged_seq=None if mark is None else mark.seq,
                findings=tuple(findings),
            )

    def _refresh(self) -> None:
        if self._file.refresh():
            self._state = State.fold(self._file.rows)

    def _chosen(self, state: State, space_sha256: str | None) -> dict[str, Known]:
        wanted = space_sha256 or (None if self.space is None else self.space.sha256)
        return self._served(state.known.values() if wanted is None else state.in_space(wanted).values())

    def _served(self, records: Iterable[Known]) -> dict[str, Known]:
        readable = (known for known in records if known.seq not in self._file.unreadable)
        return {known.id: known for known in sorted(readable, key=_by_id)}

    def _payload(self, known: Known) -> tuple[bytes, bytes]:
        found = self._file.payload(known.seq)
        if found is None:
            raise CorruptionError(f"the embeddings of record {known.id[:12]} are gone: they were purged or lost")
        stored, provenance = found
        if payload_hash(stored, known.n_windows, known.dim, provenance).hex() != known.payload_sha256:
            raise CorruptionError(
                f"the embeddings of record {known.id[:12]} ({known.label!r}, row {known.seq}) were altered; "
                f"run 'soundkeep memory verify'"
            )
        return stored, provenance

    def _load(self, known: Known) -> Record:
        with self._guard:
            stored, _ = self._payload(known)
        return Record(known.space_sha256, known.label, embeddings_from_bytes(stored, known.n_windows, known.dim))


def _by_id(known: Known) -> str:
    return known.id


def space_from_description(described: Mapping[str, Any]) -> EmbeddingSpace:
    return EmbeddingSpace(**{**described, "grid": Grid(**described["grid"])})


def resolve_prefix(prefix: str, known: Mapping[str, object]) -> str:
    if prefix in known:
        return prefix
    found = [i for i in known if i.startswith(prefix)] if len(prefix) >= SHORTEST_PREFIX else []
    if len(found) != 1:
        wanted = f"{SHORTEST_PREFIX} or more leading digits" if not found else "more digits, several records begin so"
        raise MisuseError(f"{len(found)} records are named {prefix[:80]!r}; give the whole id or {wanted}")
    return found[0]
