"""What the journal's rows add up to: known records, disabled classes, settings, and the commands that undo takes back.

Pure. Undo is a stack: ``undone`` takes the last command off, and the state after it is exactly the state before that
command. Order is the order of ``seq``; clocks decide nothing.

A record belongs to one embedding space, and commands act on records. An image is the same sound in another space: it
hangs on the content of its record and has neither label nor history of its own, so whatever happens to the record
happens to the image.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from edge.journal_chain import Row
from edge.records import BACKGROUND, record_id

LEARNING = frozenset({"taught", "ignored", "imported"})
COMMANDS = LEARNING | {"forgotten", "renamed", "merged", "enabled", "disabled"}

Content = tuple[str, str]
"""Embedding space and content hash of a record: what an image is an image of, whatever the label."""


@dataclass(frozen=True)
class Known:
    """A record that is known, without its embeddings: those are in the payload of row ``seq``."""

    seq: int
    id: str
    label: str
    space_sha256: str
    content_sha256: str
    payload_sha256: str
    n_windows: int
    dim: int

    @property
    def content(self) -> Content:
        return self.space_sha256, self.content_sha256

    def relabelled(self, label: str) -> Known:
        return replace(self, label=label, id=record_id(self.space_sha256, label, self.content_sha256))


@dataclass(frozen=True)
class Moved:
    """One image: the embeddings of a record's sound in another space, in the payload of row ``seq``.

    how: "clip" (embedded again from kept audio), "twin" (embedded while it was taught) or "map" (computed from the
    record's own embeddings).
    """

    seq: int
    of: Content
    space_sha256: str
    content_sha256: str
    payload_sha256: str
    n_windows: int
    dim: int
    how: str

    def of_label(self, label: str) -> Known:
        """Return the image as the record that it stands for."""
        name = record_id(self.space_sha256, label, self.content_sha256)
        size = (self.n_windows, self.dim)
        return Known(self.seq, name, label, self.space_sha256, self.content_sha256, self.payload_sha256, *size)


@dataclass(frozen=True)
class Entry:
    """One command of the history.

    seq: its first row. n_records: how many records it added, removed or renamed. wall_time: the clock when it was
    given, in seconds since 1970, for people only. undone: taken back later.
    """

    seq: int
    action: str
    detail: Mapping[str, Any]
    n_records: int
    wall_time: float
    undone: bool = False


@dataclass
class _Change:
    """What one command did, so that it can be taken back."""

    unit: int
    disabled_before: frozenset[str]
    added: list[Known] = field(default_factory=list)
    removed: list[Known] = field(default_factory=list)


class State:
    """The fold of the rows applied so far. Rows that name what is no longer there change nothing."""

    def __init__(self) -> None:
        self.known: dict[str, Known] = {}
        self.disabled: frozenset[str] = frozenset()
        self.settings: dict[str, Any] = {}
        self.spaces: dict[str, Mapping[str, Any]] = {}
        self.history: dict[int, Entry] = {}
        self.contents: dict[str, list[int]] = {}  # content hash -> rows whose payload still holds it
        self.ever: dict[str, Known] = {}  # every id that was known at some time, as it was then
        self.images: dict[Content, dict[str, Moved]] = {}  # by the space of the image; the newest counts
        self.image_rows: dict[Content, list[int]] = {}  # rows whose payload still holds an image, the newest last
        self.last_purge = 0
        self.unfinished_purge = 0
        self._stack: list[_Change] = []
        self._n_by_label: Counter[str] = Counter()
        self._origin: dict[int, Content] = {}
        self._views: dict[str, dict[str, Known]] = {}

    @classmethod
    def fold(cls, rows: Iterable[Row]) -> State:
        """Return the state after ``rows``, which are in order of seq."""
        state = cls()
        for row in rows:
            state.apply(row)
        return state

    @property
    def labels(self) -> set[str]:
        """The labels known now, BACKGROUND included when something is ignored."""
        return set(self._n_by_label)

    @property
    def last_command(self) -> Entry | None:
        """The command that undo takes back next, or None."""
        return self.history[self._stack[-1].unit] if self._stack else None

    @property
    def recoverable(self) -> dict[str, Known]:
        """Records that are not known, by id, and that undo can bring back."""
        removed = (known for change in self._stack for known in change.removed)
        return {known.id: known for known in removed if known.id not in self.known}

    def in_space(self, space_sha256: str) -> Mapping[str, Known]:
        """What is known in one space, by id: its own records, and the images of the others. What is equal is one."""
        if space_sha256 not in self._views:
            view = {known.id: known for known in self.known.values() if known.space_sha256 == space_sha256}
            for native in sorted(self.known.values(), key=_by_id) if self.images else ():
                image = self.image(native, space_sha256)
                if image is not None:
                    view.setdefault(image.id, image)
            self._views[space_sha256] = view
        return self._views[space_sha256]

    def image(self, native: Known, space_sha256: str) -> Known | None:
        """Return a record of another space as it is in this one; None when it has no image there."""
        moved = self.images.get(native.content, {}).get(space_sha256)
        return None if moved is None or native.space_sha256 == space_sha256 else moved.of_label(native.label)

    def origin(self, seq: int) -> Content | None:
        """Return what the payload of a row is the sound of: the record that it taught, or whose image it is."""
        return self._origin.get(seq)

    def behind(self, records: Iterable[Known]) -> dict[str, list[Known]]:
        """Return by id the records that an id stands for: itself, and those whose image has that id in some space."""
        found: dict[str, list[Known]] = {}
        for native in sorted(records, key=_by_id):
            found.setdefault(native.id, []).insert(0, native)
            for space_sha256 in self.images.get(native.content, ()):
                image = self.image(native, space_sha256)
                if image is not None:
                    found.setdefault(image.id, []).append(native)
        return found

    def apply(self, row: Row) -> None:
        self._views.clear()
        detail = row.fields()
        if row.action in COMMANDS:
            self._command(row, detail)
        elif row.action == "undone":
            self._undo(detail["unit"])
        elif row.action == "moved":
            self._move(row, detail)
        elif row.action == "space":
            self.spaces[detail["sha256"]] = detail["description"]
        elif row.action == "set":
            self.settings[detail["key"]] = detail["value"]
        elif row.action == "scrubbed":
            self.unfinished_purge = 0

    def _command(self, row: Row, detail: Mapping[str, Any]) -> None:
        if not self._stack or self._stack[-1].unit != row.unit:
            self._stack.append(_Change(row.unit, self.disabled))
        change = self._stack[-1]
        n_records = self._carry_out(row, detail, change)
        self.disabled = frozenset(label for label in self.disabled if label in self._n_by_label)
        entry = self.history.get(row.unit) or Entry(row.unit, row.action, detail, 0, row.wall_ms / 1000.0)
        self.history[row.unit] = replace(entry, n_records=entry.n_records + n_records)
        if detail.get("purged") is not None:
            self._purge(row, detail["purged"])

    def _carry_out(self, row: Row, detail: Mapping[str, Any], change: _Change) -> int:
        if row.action in LEARNING:
            return self._learn(row, detail, change)
        if row.action == "forgotten":
            return self._forget(detail, change)
        if row.action in ("renamed", "merged"):
            moved = [known for known in self.known.values() if known.label == detail["from"]]
            was_disabled = detail["from"] in self.disabled and detail["into"] not in self._n_by_label
            for known in moved:
                self._remove(known, change)
            for known in moved:
                self._add(known.relabelled(detail["into"]), change)
            if was_disabled:
                self.disabled |= {detail["into"]}
            return len(moved)
        if row.action == "disabled":
            self.disabled |= {detail["label"]}
        else:
            self.disabled -= {detail["label"]}
        return 0

    def _learn(self, row: Row, detail: Mapping[str, Any], change: _Change) -> int:
        label = BACKGROUND if row.action == "ignored" else detail["label"]
        new_id = record_id(detail["space"], label, detail["content"])
        payload = "" if row.payload_sha256 is None else row.payload_sha256.hex()
        self.contents.setdefault(detail["content"], []).append(row.seq)
        self._origin[row.seq] = (detail["space"], detail["content"])
        size = (detail["windows"], detail["dim"])
        self._add(Known(row.seq, new_id, label, detail["space"], detail["content"], payload, *size), change)
        return 1

    def _move(self, row: Row, detail: Mapping[str, Any]) -> None:
        origin = self._origin.get(detail["of"])
        if origin is None or row.payload_sha256 is None:
            return
        self._origin[row.seq] = origin
        size = (detail["windows"], detail["dim"])
        payload = row.payload_sha256.hex()
        moved = Moved(row.seq, origin, detail["space"], detail["content"], payload, *size, detail["how"])
        self.images.setdefault(origin, {})[moved.space_sha256] = moved
        self.image_rows.setdefault(origin, []).append(row.seq)

    def _forget(self, detail: Mapping[str, Any], change: _Change) -> int:
        if "label" in detail:
            gone = [known for known in self.known.values() if known.label == detail["label"]]
        else:
            gone = [self.known[one] for one in detail["records"] if one in self.known]
        for known in gone:
            self._remove(known, change)
        return len(gone)

    def _purge(self, row: Row, purged: Iterable[int]) -> None:
        gone = set(purged)
        self.contents = {
            content: kept
            for content, seqs in self.contents.items()
            if (kept := [seq for seq in seqs if seq not in gone])
        }
        self.image_rows = {
            origin: kept
            for origin, seqs in self.image_rows.items()
            if (kept := [seq for seq in seqs if seq not in gone])
        }
        for images in self.images.values():
            for space_sha256 in [name for name, image in images.items() if image.seq in gone]:
                del images[space_sha256]
        self._stack.clear()  # what is purged cannot come back: nothing before this can be undone
        self.last_purge = row.seq
        self.unfinished_purge = row.seq

    def _undo(self, unit: int) -> None:
        position = next((i for i in reversed(range(len(self._stack))) if self._stack[i].unit == unit), None)
        if position is None:
            return
        change = self._stack.pop(position)
        for known in change.added:
            self._drop(known)
        for known in change.removed:
            self._put(known)
        self.disabled = change.disabled_before
        self.history[unit] = replace(self.history[unit], undone=True)

    def _add(self, known: Known, change: _Change) -> None:
        if known.id not in self.known:
            self._put(known)
            change.added.append(known)

    def _remove(self, known: Known, change: _Change) -> None:
        self._drop(known)
        change.removed.append(known)

    def _put(self, known: Known) -> None:
        if known.id not in self.known:
            self.known[known.id] = known
            self.ever[known.id] = known
            self._n_by_label[known.label] += 1

    def _drop(self, known: Known) -> None:
        if self.known.pop(known.id, None) is not None:
            self._n_by_label[known.label] -= 1
            if not self._n_by_label[known.label]:
                del self._n_by_label[known.label]


def _by_id(known: Known) -> str:
    return known.id
