"""The append-only truth: what was taught, ignored, forgotten, renamed, merged, switched and undone.

Each method that writes is one command: it is acknowledged when the method returns, and from then on no power cut takes
it back. What is known is a fold of the rows (``journal_fold``); how they are kept safe is in ``journal_file``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.clips import ClipStore
from edge.errors import LabelError, MisuseError, SpaceMismatchError, StateError
from edge.journal_chain import payload_hash
from edge.journal_file import Draft, JournalFile
from edge.journal_fold import Content, Entry, Known, State
from edge.journal_reader import ChainReport, JournalReader, KnownRecords, resolve_prefix, space_from_description
from edge.records import BACKGROUND, Record, Twin, content_hash, embedding_bytes, normalize_label, provenance_bytes
from edge.snapshot import remove_snapshots
from edge.space import EmbeddingSpace, canonical_json

MAX_SETTING_BYTES = 1 << 20

__all__ = ["ChainReport", "Image", "Journal", "KnownRecords", "TeachOutcome", "Twin"]


@dataclass(frozen=True)
class TeachOutcome:
    """Ids that are known now and were not before, and ids that were known already; each in the order given."""

    new_ids: tuple[str, ...]
    duplicate_ids: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Image:
    """The sound of a record in another space. of: space and content of the record. embeddings: (n, d) int16.

    how: "clip", "twin" or "map", see ``edge.journal_fold.Moved``.
    """

    of: Content
    embeddings: NDArray[np.int16]
    how: str


def no_crash(point: str) -> None:
    """What happens at a crash point outside tests."""


class Journal(JournalReader):
    """What a state directory has learnt, and the commands that change it. Use ``Journal.open`` in a ``with``.

    Processes: one writes, any number read beside it; a Journal must not be used on both sides of a fork.
    """

    @classmethod
    def open(
        cls,
        state_dir: Path,
        *,
        space: EmbeddingSpace | None = None,
        read_only: bool = False,
        clock: Callable[[], float] = time.time,
        crash_point: Callable[[str], None] = no_crash,
    ) -> Journal:
        """Open a state directory; to write, it is made when it is not there, and no other process may be writing it.

        space: what new records must belong to and what ``records()`` shows unless told otherwise; None: any space.
        clock: seconds since 1970, kept with each command for people to read; nothing is decided by it.
        crash_point: called with the name of each write point as it is reached, for tests that kill the process there.
        Raises StateLockedError (another writer), StateError (not a directory, read-only, full, newer version) and
        CorruptionError (nothing of it can be read). Damage that leaves something to serve is listed in ``findings``.
        """
        file = JournalFile(Path(state_dir), read_only=read_only, clock=clock, crash_point=crash_point)
        try:
            file.open()
            journal = cls(file, space)
            journal._finish_purge()
            return journal
        except BaseException:
            file.close()
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the database and release the writer lock. Closing twice is allowed."""
        with self._guard:
            self._file.close()

    # ---- commands ---------------------------------------------------------------------------------------------------

    def teach(
        self,
        records: Sequence[Record],
        *,
        provenance: Sequence[Mapping[str, Any]],
        twins: Sequence[Twin | None] = (),
    ) -> TeachOutcome:
        """Add examples, all or none. What is known already counts once.

        provenance: for each record a JSON object (file, source, start_sample, seconds, event ...).
        twins: none, or for each record its image in another space, written with it or not at all.
        Each record is a command of its own: what `undo` takes back.
        Raises LabelError, MisuseError, SpaceMismatchError, StateError.
        """
        if any(record.label == BACKGROUND for record in records):
            raise LabelError(f"label {BACKGROUND!r} is reserved for ignored sounds; choose another, or use 'ignore'")
        return self._learn("taught", records, provenance, twins, one_command=False)

    def ignore(
        self,
        records: Sequence[Record],
        *,
        provenance: Sequence[Mapping[str, Any]],
        twins: Sequence[Twin | None] = (),
    ) -> TeachOutcome:
        """Add what to stay silent on; whatever label the records have becomes BACKGROUND. Otherwise as ``teach``."""
        relabelled = [record.relabel(BACKGROUND) for record in records]
        return self._learn("ignored", relabelled, provenance, twins, one_command=False)

    def import_records(self, records: Iterable[Record], *, provenance: Mapping[str, Any] | None = None) -> TeachOutcome:
        """Add the records of another memory as one command. What is known already counts once."""
        listed = list(records)
        return self._learn("imported", listed, [provenance or {}] * len(listed), (), one_command=True)

    def move(self, images: Sequence[Image], space: EmbeddingSpace) -> int:
        """Keep what records sound like in another space, all or none; return how many images were new.

        From now on these records are known in ``space`` too. A later image of the same content replaces an earlier
        one; an image that is kept already, or whose record was purged meanwhile, is passed over. Undo passes over it.
        Raises MisuseError, SpaceMismatchError, StateError.
        """
        with self._guard:
            self._prepare()
            drafts: list[Draft] = []
            for image in images:
                _check_image(image.embeddings, space)
                draft = self._image_draft(image, space, joins=bool(drafts))
                if draft is not None:
                    drafts.append(draft)
            if drafts:
                self._commit(self._introduction(space) + drafts)
            return len(drafts)

    def forget(self, label: str, *, purge: bool = False) -> Entry:
        """Forget every example of ``label`` (BACKGROUND: everything that is ignored).

        purge: also remove the bytes for good, those of earlier examples of this label too. That cannot be undone.
        Raises LabelError when nothing has that label, MisuseError when other labels hold the same embeddings.
        """
        with self._guard:
            self._prepare()
            wanted = label if label == BACKGROUND else normalize_label(label)
            if not purge:
                return self._command("forgotten", {"label": self._taught(wanted)})
            live = [known for known in self._state.known.values() if known.label == wanted]
            elsewhere = {known.content_sha256 for known in self._state.known.values() if known.label != wanted}
            earlier = {known.content_sha256 for known in self._state.ever.values() if known.label == wanted} - elsewhere
            if not live and not any(content in self._state.contents for content in earlier):
                self._taught(wanted)
            return self._purge({"label": wanted}, live, earlier)

    def forget_record(self, record_id: str, *, purge: bool = False) -> Entry:
        """Forget one example, named by its id or by 8 or more leading digits of it.

        An example that is known here as an image goes with its record, in every space.
        purge: also remove its bytes for good, which cannot be undone; an example forgotten before can still be purged.
        Raises MisuseError when there is no such record.
        """
        with self._guard:
            self._prepare()
            if not purge:
                behind = self._state.behind(self._state.known.values())
                named = behind[resolve_prefix(record_id, behind)]
                return self._command("forgotten", {"records": [known.id for known in named]})
            behind = self._state.behind(self._state.ever.values())
            named = behind[resolve_prefix(record_id, behind)]
            live = [known for known in named if known.id in self._state.known]
            if not live and not any(known.content_sha256 in self._state.contents for known in named):
                raise MisuseError(f"record {named[0].id} was purged already: there is nothing left of it to remove")
            gone = {known.content_sha256 for known in named}
            return self._purge({"records": [known.id for known in named]}, live, gone)

    def rename(self, old: str, new: str) -> Entry:
        """Give the class ``old`` a name that no class has; its records get new ids. Raises LabelError."""
        with self._guard:
            self._prepare()
            source, target = self._taught(normalize_label(old)), normalize_label(new)
            if target in self._state.labels:
                raise LabelError(
                    f"cannot rename {source!r} to {target!r}: that name is taken; choose another, or make the two one "
                    f"with merge-classes"
                )
            return self._command("renamed", {"from": source, "into": target})

    def merge_classes(self, source: str, target: str) -> Entry:
        """Make the examples of ``source`` examples of ``target``, which keeps its name. Raises LabelError."""
        with self._guard:
            self._prepare()
            moved, kept = self._taught(normalize_label(source)), self._taught(normalize_label(target))
            if moved == kept:
                raise LabelError(f"cannot merge {kept!r} with itself; name two classes")
            return self._command("merged", {"from": moved, "into": kept})

    def enable(self, label: str, enabled: bool) -> Entry | None:
        """Switch the detection of a class on or off; None when it is so already. Raises LabelError."""
        with self._guard:
            self._prepare()
            known = self._taught(normalize_label(label))
            if enabled == (known not in self._state.disabled):
                return None
            return self._command("enabled" if enabled else "disabled", {"label": known})

    def undo(self) -> Entry:
        """Take back the last command that is not taken back yet, and return it. Repeatable; there is no redo.

        Raises StateError when there is none left or a purge stands in the way.
        """
        with self._guard:
            self._prepare()
            last = self._state.last_command
            if last is None and self._state.last_purge:
                raise StateError(
                    "nothing can be undone: the command before was a purge, and what is purged is gone for good; "
                    "teach the sound again"
                )
            if last is None:
                raise StateError("nothing can be undone: no command is left to take back; see 'soundkeep history'")
            self._commit([Draft("undone", {"unit": last.seq})])
            return self._state.history[last.seq]

    def set_kv(self, key: str, value: Any) -> None:
        """Keep a JSON value under ``key`` (calibration record, active bundle ...). Undo passes over it."""
        with self._guard:
            self._prepare()
            try:
                encoded = canonical_json({"key": key, "value": value})
                before = canonical_json({"key": key, "value": self._state.settings.get(key)})
            except (TypeError, ValueError) as error:
                raise MisuseError(
                    f"setting {key!r} is not plain JSON ({error}); use str, int, float, list and dict"
                ) from None
            if len(encoded) > MAX_SETTING_BYTES:
                raise MisuseError(
                    f"setting {key!r} is {len(encoded)} bytes of JSON, at most {MAX_SETTING_BYTES} are kept"
                )
            if encoded != before:
                self._commit([Draft("set", {"key": key, "value": value})])

    def _learn(
        self,
        action: str,
        records: Sequence[Record],
        provenance: Sequence[Mapping[str, Any]],
        twins: Sequence[Twin | None],
        *,
        one_command: bool,
    ) -> TeachOutcome:
        if len(records) != len(provenance):
            raise MisuseError(f"{len(records)} records came with {len(provenance)} provenances; give one for each")
        if twins and len(twins) != len(records):
            raise MisuseError(f"{len(records)} records came with {len(twins)} twins; give one for each, or none")
        with self._guard:
            self._prepare()
            drafts = self._introduction(self.space)
            drafts += [row for space in _spaces_of(twins) for row in self._introduction(space)]
            first_seq = self._file.last[0] + 1
            new_ids: dict[str, None] = {}
            duplicate_ids: list[str] = []
            for record, origin, twin in zip(records, provenance, twins or [None] * len(records), strict=True):
                self._check_space(record)
                if record.id in self._state.in_space(record.space_sha256) or record.id in new_ids:
                    duplicate_ids.append(record.id)
                    continue
                drafts.append(_learning_draft(action, record, origin, joins=one_command and bool(new_ids)))
                new_ids[record.id] = None
                if twin is not None and twin.space.sha256 != record.space_sha256:
                    _check_image(twin.embeddings, twin.space)
                    of = first_seq + len(drafts) - 1
                    drafts.append(_moved_draft(of, twin.space, twin.embeddings, "twin", joins=True))
            if new_ids:
                self._commit(drafts)
            return TeachOutcome(tuple(new_ids), tuple(duplicate_ids))

    def _prepare(self) -> None:
        if self._file.settle():
            self._state = State.fold(self._file.rows)

    def _check_space(self, record: Record) -> None:
        space = self.space
        if space is None and record.space_sha256 in self._state.spaces:
            space = space_from_description(self._state.spaces[record.space_sha256])
        if space is None:
            raise SpaceMismatchError(
                f"no record of embedding space {record.space_sha256[:12]} was ever kept in {self.state_dir}; "
                f"open the journal with that space to add the first"
            )
        if record.space_sha256 != space.sha256 or record.dim != space.dim:
            raise SpaceMismatchError(
                f"a record of embedding space {record.space_sha256[:12]} ({record.dim} numbers a window) does not fit "
                f"space {space.sha256[:12]} ({space.dim} numbers); embed the sound again with the bundle in use"
            )

    def _introduction(self, space: EmbeddingSpace | None) -> list[Draft]:
        if space is None or space.sha256 in self._state.spaces:
            return []
        return [Draft("space", {"sha256": space.sha256, "description": asdict(space)})]

    def _image_draft(self, image: Image, space: EmbeddingSpace, *, joins: bool) -> Draft | None:
        source_space, content = image.of
        if source_space == space.sha256:
            raise MisuseError(f"a record of space {source_space[:12]} needs no image there; move it to another space")
        of = next((seq for seq in self._state.contents.get(content, ()) if self._state.origin(seq) == image.of), None)
        if of is None:
            return None
        kept = self._state.images.get(image.of, {}).get(space.sha256)
        draft = _moved_draft(of, space, image.embeddings, image.how, joins=joins)
        return None if kept is not None and kept.content_sha256 == draft.detail["content"] else draft

    def _taught(self, label: str) -> str:
        if label not in self._state.labels:
            taught = ", ".join(sorted(self._state.labels - {BACKGROUND})[:20]) or "nothing yet"
            raise LabelError(f"no sound is known as {label!r}; taught are: {taught}")
        return label

    def _command(self, action: str, detail: Mapping[str, Any]) -> Entry:
        row = self._commit([Draft(action, detail)])
        return self._state.history[row]

    def _commit(self, drafts: Sequence[Draft], *, purged: Sequence[int] = ()) -> int:
        rows = self._file.append(drafts, purged=purged)
        for row in rows:
            self._state.apply(row)
        return rows[-1].unit

    def _purge(self, detail: dict[str, Any], live: Sequence[Known], contents: Iterable[str]) -> Entry:
        going = {known.id for known in live}
        gone = {known.content_sha256 for known in live} | set(contents)
        for known in self._state.known.values():
            if known.content_sha256 in gone and known.id not in going:
                raise MisuseError(
                    f"cannot purge: record {known.id[:12]} ({known.label!r}) holds the same embeddings; forget it first"
                )
        rows = [seq for content in gone for seq in self._state.contents.get(content, ())]
        rows += [seq for (_, content), seqs in self._state.image_rows.items() if content in gone for seq in seqs]
        rows.sort()
        unit = self._commit([Draft("forgotten", {**detail, "purged": rows})], purged=rows)
        self._scrub()
        return self._state.history[unit]

    def _finish_purge(self) -> None:
        if self._state.unfinished_purge and self._file.writable:
            try:
                self._scrub()
            except StateError:
                return  # a reader is in the way or the disk is full: the next opening tries again

    def _scrub(self) -> None:
        """Remove what a purge deleted wherever it may still lie, and note that it is done."""
        try:
            remove_snapshots(self.state_dir)
            ClipStore(self.state_dir).retain(self._state.contents)
        except OSError as error:
            raise StateError(f"what was purged could not be removed everywhere ({error}); purge it again") from error
        self._file.scrub()
        self._commit([Draft("scrubbed", {"purge": self._state.unfinished_purge})])


def _learning_draft(action: str, record: Record, origin: Mapping[str, Any], *, joins: bool) -> Draft:
    stored, provenance = embedding_bytes(record.embeddings), provenance_bytes(origin)
    detail = {
        "label": record.label,
        "space": record.space_sha256,
        "content": record.content_sha256,
        "windows": record.n_windows,
        "dim": record.dim,
    }
    digest = payload_hash(stored, record.n_windows, record.dim, provenance)
    return Draft(action, detail, (digest, stored, provenance), joins)


def _moved_draft(of: int, space: EmbeddingSpace, embeddings: NDArray[np.int16], how: str, *, joins: bool) -> Draft:
    stored, provenance = embedding_bytes(embeddings), provenance_bytes({})
    n_windows, dim = embeddings.shape
    content = content_hash(stored, n_windows, dim).hexdigest()
    detail = {"of": of, "space": space.sha256, "content": content, "windows": n_windows, "dim": dim, "how": how}
    return Draft("moved", detail, (payload_hash(stored, n_windows, dim, provenance), stored, provenance), joins)


def _check_image(embeddings: NDArray[np.int16], space: EmbeddingSpace) -> None:
    if embeddings.dtype != np.int16 or embeddings.ndim != 2 or embeddings.shape[1] != space.dim or not len(embeddings):
        raise SpaceMismatchError(
            f"an image is {embeddings.dtype} of shape {embeddings.shape}; space {space.sha256[:12]} wants int16 "
            f"(n, {space.dim}), n at least 1"
        )


def _spaces_of(twins: Sequence[Twin | None]) -> list[EmbeddingSpace]:
    return list({twin.space.sha256: twin.space for twin in twins if twin is not None}.values())
