"""Writing commands and their answers, the same words whether the learner is in this process or behind the live API.

``LocalDesk`` works on a learner that this process owns; ``edge.client.ListenerClient`` sends the same words to the
running listener. Answers are plain JSON objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from edge.backbones import remember_backbone
from edge.clips import ClipStore
from edge.errors import StateError
from edge.hearing import Example
from edge.journal_fold import Entry
from edge.learner import Learner, Learnt
from edge.memory_file import decode_memory
from edge.records import BACKGROUND

Answer = dict[str, Any]


class Desk(Protocol):
    """Every command that changes what a device knows. Raises SoundkeepError with the sentence for the user."""

    def teach(self, label: str, examples: Sequence[Example]) -> Answer: ...

    def ignore(self, examples: Sequence[Example]) -> Answer: ...

    def forget(self, label: str, *, purge: bool = False) -> Answer: ...

    def forget_record(self, record_id: str, *, purge: bool = False) -> Answer: ...

    def rename(self, old: str, new: str) -> Answer: ...

    def merge_classes(self, label: str, into: str) -> Answer: ...

    def enable(self, label: str, enabled: bool) -> Answer: ...

    def undo(self) -> Answer: ...

    def import_memory(self, data: bytes) -> Answer: ...

    def use_backbone(self, path: str) -> Answer: ...


class LocalDesk:
    """The desk over a learner of this process. clips: keeps the audio of examples that bring it along."""

    def __init__(self, learner: Learner, *, clips: ClipStore | None = None, on_trial: bool = False) -> None:
        """on_trial: a new ear is on trial, so that what has no sound to hear again cannot be taken in."""
        self._own = learner
        self._clips = clips
        self._on_trial = on_trial

    @property
    def learner(self) -> Learner:
        return self._own

    @property
    def on_trial(self) -> bool:
        return self._on_trial

    def teach(self, label: str, examples: Sequence[Example]) -> Answer:
        return self._learnt(self.learner.teach(label, examples), examples)

    def ignore(self, examples: Sequence[Example]) -> Answer:
        return self._learnt(self.learner.ignore(examples), examples)

    def forget(self, label: str, *, purge: bool = False) -> Answer:
        return {**_entry(self.learner.forget(label, purge=purge)), "purged": purge}

    def forget_record(self, record_id: str, *, purge: bool = False) -> Answer:
        return {**_entry(self.learner.forget_record(record_id, purge=purge)), "purged": purge}

    def rename(self, old: str, new: str) -> Answer:
        return _entry(self.learner.rename(old, new))

    def merge_classes(self, label: str, into: str) -> Answer:
        return _entry(self.learner.merge_classes(label, into))

    def enable(self, label: str, enabled: bool) -> Answer:
        return {"label": self.learner.enable(label, enabled), "enabled": enabled}

    def undo(self) -> Answer:
        return _entry(self.learner.undo())

    def import_memory(self, data: bytes) -> Answer:
        if self.on_trial:
            raise StateError(
                "a new ear is on trial, and a memory file holds no sound that both ears could hear; import it when the "
                "trial has ended, see 'soundkeep sync status'"
            )
        _, records = decode_memory(data, expected=self.learner.space.embedding)
        imported = self.learner.import_records(records, provenance={"source": "import"})
        return {
            "n_records": len(records),
            "n_new": len(imported.new_ids),
            "n_known": len(records) - len(imported.new_ids),
            "n_near_duplicates": imported.n_near_duplicates,
        }

    def use_backbone(self, path: str) -> Answer:
        return remember_backbone(self.learner.journal.state_dir, Path(path))

    def _learnt(self, learnt: Learnt, examples: Sequence[Example]) -> Answer:
        for record, example in zip(learnt.records, examples, strict=True):
            if self._clips is not None and example.samples is not None:
                content = self.learner.journal.clip_content(record.id)
                self._clips.keep(content, example.samples, example.space.sample_rate)
        return _learnt(learnt, examples, self.learner)


def history_answer(learner: Learner) -> list[Answer]:
    """The whole history, oldest first; ``time`` in seconds since 1970 as the clock said."""
    return [{**_entry(entry), "undone": entry.undone} for entry in learner.journal.history()]


def _entry(entry: Entry) -> Answer:
    return {
        "seq": entry.seq,
        "action": entry.action,
        "detail": dict(entry.detail),
        "n_records": entry.n_records,
        "time": entry.wall_time,
    }


def _learnt(learnt: Learnt, examples: Sequence[Example], learner: Learner) -> Answer:
    label = learnt.records[0].label
    return {
        "label": None if label == BACKGROUND else label,
        "records": [
            {
                "id": record.id,
                "file": example.provenance.get("file"),
                "n_windows": record.n_windows,
                "new": record.id not in learnt.duplicate_ids,
            }
            for record, example in zip(learnt.records, examples, strict=True)
        ],
        "advice": [{"kind": advice.kind, "message": advice.message} for advice in learnt.advice],
        "n_records": learner.n_records_of(label),
    }
