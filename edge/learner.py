"""The only mutable model state of a device: the journal's records, their sums, and the heads read out of the sums.

The journal is the truth. What is taught is counted first, because the sums may refuse, then written, and taken back out
of the sums when writing is refused. So the sums equal a fold of what is known, to the bit. Heads are caches.

One thread at a time: the loop of a running listener, or the one command that holds the state lock.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from edge.advice import Advice, about_class, about_level, about_likeness, about_variation
from edge.errors import CorruptionError, MisuseError, NotExactError, SpaceMismatchError, StateError
from edge.heads import Background, DetectionHead
from edge.hearing import Example
from edge.journal import Journal
from edge.journal_fold import Entry
from edge.journal_reader import KnownRecords
from edge.near_duplicates import mean_direction, near_duplicates
from edge.readout import Readout
from edge.records import BACKGROUND, Record, normalize_label
from edge.snapshot import restore_statistics, save_snapshot, sum_of
from edge.space import FeatureSpace
from edge.statistics import StatisticsAccumulator, SufficientStatistics

if TYPE_CHECKING:
    from edge.recursive import RecursiveHead

Array = NDArray[np.float64]
_T = TypeVar("_T")


@dataclass(frozen=True)
class Learnt:
    """What one teach or ignore did: one record per example, those that were known before, and advice."""

    records: tuple[Record, ...]
    duplicate_ids: frozenset[str]
    advice: tuple[Advice, ...]


@dataclass(frozen=True)
class Imported:
    """What an import did. ``n_near_duplicates``: new records that are nearly the same as ones known before."""

    new_ids: tuple[str, ...]
    n_near_duplicates: int


class Learner:
    """Teaches, forgets and answers with heads. The journal is given open, and is not closed here."""

    def __init__(
        self,
        journal: Journal,
        space: FeatureSpace,
        *,
        prior: SufficientStatistics | None = None,
        readout: Readout | None = None,
        live: bool = False,
        similar_above: float = 6.0,
    ) -> None:
        """Fold what the journal knows.

        live: carry the recursive head along, so that teaching needs no refit. similar_above: z value from which a new
        example counts as heard, for advice.
        """
        self.journal = journal
        self.space = space
        self.readout = readout or Readout()
        self.generation = 0
        """Grows with every change of what is known."""
        self._saved_generation = 0
        self._prior = prior
        self._similar_above = similar_above
        self._records = journal.records(space.embedding.sha256)
        self._disabled = journal.disabled_labels()
        self._damaged: set[str] = set()
        self._taught, self._ignored = self._folded()
        self._directions: dict[str, dict[str, Array]] = {}
        self._fitted: DetectionHead | None = None
        self._serving: DetectionHead | None = None
        self._live: RecursiveHead | None = None
        self._n_reanchored = 0
        if live:
            self._live = self.readout.recursive(self._taught.snapshot(), self._ignored.snapshot(), self._prior)

    # ---- what is known ----------------------------------------------------------------------------------------------

    @property
    def records(self) -> KnownRecords:
        """Everything known in this space, ordered by id, ignored sounds included."""
        return self._records

    @property
    def labels(self) -> tuple[str, ...]:
        """The taught classes, sorted."""
        return tuple(entry["label"] for entry in self.classes())

    @property
    def n_records(self) -> int:
        return len(self._records)

    @property
    def n_windows(self) -> int:
        """Windows in the statistics, ignored ones included."""
        return sum(self._records.about(i).n_windows for i in self._records)

    def n_records_of(self, label: str) -> int:
        """How many examples a class has; of BACKGROUND, how many were ignored."""
        return sum(1 for i in self._records if self._records.about(i).label == label)

    def statistics(self) -> SufficientStatistics:
        """Everything known in this space, ignored sounds as the class BACKGROUND; without the prior."""
        return self._taught.snapshot() + self._ignored.snapshot()

    @property
    def statistics_sha256(self) -> str:
        return self.statistics().sha256

    def classes(self) -> list[dict[str, Any]]:
        """One entry per taught class, by label: label, n_records, n_windows, enabled."""
        counts: dict[str, list[int]] = {}
        for i in self._records:
            known = self._records.about(i)
            entry = counts.setdefault(known.label, [0, 0])
            entry[0] += 1
            entry[1] += known.n_windows
        counts.pop(BACKGROUND, None)
        return [
            {"label": label, "n_records": n, "n_windows": w, "enabled": label not in self._disabled}
            for label, (n, w) in sorted(counts.items())
        ]

    # ---- commands ---------------------------------------------------------------------------------------------------

    def teach(self, label: str, examples: Sequence[Example]) -> Learnt:
        """Learn examples of one class, all or none; each is one step of undo.

        Raises LabelError, SpaceMismatchError, StatisticsOverflowError, StateError.
        """
        name = normalize_label(label)
        twins = [example.twin for example in examples]
        return self._learn(name, examples, lambda r, p: self.journal.teach(r, provenance=p, twins=twins))

    def ignore(self, examples: Sequence[Example]) -> Learnt:
        """Learn what to stay silent on, each example one step of undo. Raises SpaceMismatchError, StateError."""
        twins = [example.twin for example in examples]
        return self._learn(BACKGROUND, examples, lambda r, p: self.journal.ignore(r, provenance=p, twins=twins))

    def import_records(self, records: Sequence[Record], *, provenance: Mapping[str, Any]) -> Imported:
        """Learn the records of another memory, as one command. Raises SpaceMismatchError, StateError."""
        for record in records:
            self._check_space(record.space_sha256, "the memory")
        before = self._records
        new = self._add(records, lambda: self.journal.import_records(records, provenance=provenance))
        readable = (known for i in before if (known := self._load(before, i)) is not None)
        near = {pair.id for pair in near_duplicates(new, readable)}
        return Imported(tuple(record.id for record in new), len(near))

    def forget(self, label: str, *, purge: bool = False) -> Entry:
        """Forget a class. Raises LabelError."""
        name = normalize_label(label)
        return self._change(lambda: self.journal.forget(name, purge=purge), {name})

    def forget_record(self, record_id: str, *, purge: bool = False) -> Entry:
        """Forget one record, named by 8 or more digits of its id. Raises MisuseError."""
        going: set[str] = set()
        with contextlib.suppress(MisuseError):  # not known any more, or no record at all: the journal says so
            going = {known.label for known in self.journal.sources(record_id)}
        return self._change(lambda: self.journal.forget_record(record_id, purge=purge), going)

    def rename(self, old: str, new: str) -> Entry:
        """Give a class a name that no class has. Raises LabelError."""
        return self._change(lambda: self.journal.rename(old, new))

    def merge_classes(self, source: str, target: str) -> Entry:
        """Make ``source`` part of ``target``. Raises LabelError."""
        return self._change(lambda: self.journal.merge_classes(source, target))

    def undo(self) -> Entry:
        """Take back the last command. Raises StateError when there is none."""
        return self._change(self.journal.undo)

    def enable(self, label: str, enabled: bool) -> str:
        """Switch the reporting of a class on or off; what is known stays. Returns its label. Raises LabelError."""
        self.journal.enable(label, enabled)
        self._disabled = self.journal.disabled_labels()
        return normalize_label(label)

    def catch_up(self) -> None:
        """Take in what others changed in the journal meanwhile: another learner, or images of records in this space."""
        after = self.journal.records(self.space.embedding.sha256)
        gone = [i for i in self._records if i not in after]
        if any(self._load(self._records, i) is None for i in gone):
            self._records, self._damaged = after, set()  # purged: what is gone cannot be subtracted any more
            self._taught, self._ignored = self._folded()
            self._change(lambda: None)
        elif gone or len(after) != len(self._records) or self.journal.disabled_labels() != self._disabled:
            self._change(lambda: None)
        else:
            self._records = after  # what was purged and taught again has its name still, and lies in another row

    # ---- heads ------------------------------------------------------------------------------------------------------

    def head(self) -> DetectionHead:
        """The head fitted from the statistics: what `classify` and a restart use."""
        if self._fitted is None:
            self._fitted = self.fitted_anew()
        return self._fitted

    def fitted_anew(self) -> DetectionHead:
        """Solve the head from the statistics, whatever was fitted before."""
        return self.readout.fitted(self._taught.snapshot(), self._ignored.snapshot(), self._prior)

    def judge(self, embeddings: NDArray[np.int16]) -> tuple[tuple[str, ...], Array]:
        """Labels (k,) of the enabled classes and their scores (n, k), z less the rivals. embeddings: (n, d) int16.

        From the recursive head in a listener, else from the fitted one.
        """
        head = self._serving or self._read_out()
        features, _ = self.space.features(embeddings)
        scores, ignored = head.scores(features), head.rivals.ignored_z(features)
        enabled = [i for i, label in enumerate(head.labels) if label not in self._disabled]
        labels = tuple(head.labels[i] for i in enabled)
        if ignored is None:
            return labels, scores[:, enabled]
        return (*labels, BACKGROUND), np.column_stack([scores[:, enabled], ignored])

    @property
    def n_reanchored(self) -> int:
        """How often the live head was rebuilt from the statistics."""
        return self._n_reanchored + (0 if self._live is None else self._live.n_reanchored)

    @property
    def residual(self) -> float:
        """Relative residual of the live head at its last check."""
        return 0.0 if self._live is None else self._live.last_residual

    def background(self) -> Background:
        """Everything else, as it is served now."""
        return self.readout.background(self._ignored.snapshot(), self._prior)

    def use_readout(self, readout: Readout) -> None:
        """Read heads out with other settings from now on; what was learnt is untouched."""
        self.readout = readout
        self._follow_heads()

    def save_snapshot(self) -> None:
        """Keep the sums, so that the next start is quick. A disk that refuses costs only that start's time."""
        if self.generation == self._saved_generation:
            return
        with contextlib.suppress(StateError):
            save_snapshot(self.journal, self.statistics())
        self._saved_generation = self.generation

    # ---- how --------------------------------------------------------------------------------------------------------

    def _learn(
        self, label: str, examples: Sequence[Example], write: Callable[[list[Record], list[Mapping[str, Any]]], Any]
    ) -> Learnt:
        for example in examples:
            self._check_space(example.space.sha256, example.name)
        records = [Record(self.space.embedding.sha256, label, example.embeddings) for example in examples]
        known = self._directions_of(label) if label != BACKGROUND else {}
        advice = [a for example in examples for a in about_level(example)]
        if label != BACKGROUND:
            advice += self._advice_on_likeness(label, examples, records, known)
        new = self._add(records, lambda: write(records, [example.provenance for example in examples]))
        if new and label != BACKGROUND:
            advice += about_variation(label, np.stack(list(self._directions_of(label).values())))
        new_ids = {record.id for record in new}
        return Learnt(tuple(records), frozenset(r.id for r in records if r.id not in new_ids), tuple(advice))

    def _advice_on_likeness(
        self, label: str, examples: Sequence[Example], records: Sequence[Record], known: Mapping[str, Array]
    ) -> list[Advice]:
        advice = about_likeness([example.name for example in examples], records, known)
        head = self._serving or self._read_out()
        for example, record in zip(examples, records, strict=True):
            z = head.z(self.space.features(record.embeddings)[0]).mean(axis=0)
            advice += about_class(example.name, label, head.labels, z, head.own_z, threshold=self._similar_above)
        return advice

    def _add(self, records: Sequence[Record], write: Callable[[], object]) -> list[Record]:
        """Count what is new, then write it; when writing is refused, nothing was counted. Returns what was new."""
        new: dict[str, Record] = {r.id: r for r in records if r.id not in self._records}
        counted: list[Record] = []
        try:
            for record in new.values():
                self._count(record, +1)
                counted.append(record)
            write()
        except BaseException:
            for record in counted:
                self._count(record, -1)
            raise
        self._records = self.journal.records(self.space.embedding.sha256)
        for record in new.values():
            if record.label in self._directions:
                self._directions[record.label][record.id] = mean_direction(record)
        self._fitted = self._serving = None
        self.generation += 1
        if self._live is not None:
            self._teach_live(list(new.values()))
        return list(new.values())

    def _change(self, write: Callable[[], _T], going: set[str] | None = None) -> _T:
        """Do what is no plain addition: the statistics follow the records that came and went.

        going: labels whose records may be out of reach afterwards (a purge), so they are read before.
        """
        before = self._records
        kept = {i: self._load(before, i) for i in before if going and before.about(i).label in going}
        result = write()
        after = self.journal.records(self.space.embedding.sha256)
        for i in set(before) - set(after):
            record = kept.get(i) or self._load(before, i)
            if record is not None and i not in self._damaged:
                self._count(record, -1)
        for i in set(after) - set(before):
            record = self._load(after, i)
            if record is not None:
                self._count(record, +1)
        self._records = after
        self._disabled = self.journal.disabled_labels()
        self._directions.clear()
        self.generation += 1
        self._follow_heads()
        return result

    def _read_out(self) -> DetectionHead:
        """The head that answers now. A live head that cannot be called exact gives way to the fitted one."""
        try:
            self._serving = self.head() if self._live is None else self._live.head()
        except NotExactError:
            self._serving = self.head()
        return self._serving

    def _follow_heads(self) -> None:
        self._fitted = self._serving = None
        if self._live is not None:
            self._n_reanchored += self._live.n_reanchored
            self._live = self.readout.recursive(self._taught.snapshot(), self._ignored.snapshot(), self._prior)

    def _folded(self) -> tuple[StatisticsAccumulator, StatisticsAccumulator]:
        """Sums of what was taught and of what is ignored, where possible from the snapshot and what changed since."""
        ignored_ids = [i for i in self._records if self._records.about(i).label == BACKGROUND]
        try:
            total = restore_statistics(self.journal, self.space).statistics
            ignored = sum_of(self.space, (self._records[i] for i in ignored_ids))
            taught = total - ignored
        except CorruptionError:
            readable = {i: r for i in self._records if (r := self._load(self._records, i)) is not None}
            ignored = sum_of(self.space, (readable[i] for i in ignored_ids if i in readable))
            taught = sum_of(self.space, (r for r in readable.values() if r.label != BACKGROUND))
        return StatisticsAccumulator(taught), StatisticsAccumulator(ignored)

    def _teach_live(self, records: Sequence[Record]) -> None:
        """Carry the live head along. Ignored sounds change the background, so the head is rebuilt for them."""
        assert self._live is not None
        if any(record.label == BACKGROUND for record in records):
            self._follow_heads()
            return
        for record in records:
            features, _ = self.space.features(record.embeddings)
            self._live.update(features, record.label)

    def _directions_of(self, label: str) -> dict[str, Array]:
        """Unit means of a class's records by id, read once and then kept."""
        if label not in self._directions:
            of_class = (i for i in self._records if self._records.about(i).label == label)
            loaded = {i: self._load(self._records, i) for i in of_class}
            self._directions[label] = {i: mean_direction(r) for i, r in loaded.items() if r is not None}
        return self._directions[label]

    def _count(self, record: Record, sign: int) -> None:
        features, n_clipped = self.space.features(record.embeddings)
        sums = self._ignored if record.label == BACKGROUND else self._taught
        (sums.add if sign > 0 else sums.remove)(features, record.label, n_clipped)

    def _load(self, records: KnownRecords, record_id: str) -> Record | None:
        """Read a record; None, and remembered as damaged, when its bytes do not match their hash."""
        try:
            return records[record_id]
        except CorruptionError:
            self._damaged.add(record_id)
            return None

    def _check_space(self, sha256: str, what: str) -> None:
        own = self.space.embedding.sha256
        if sha256 != own:
            raise SpaceMismatchError(
                f"{what} lives in the embedding space {sha256[:12]}, this device hears in {own[:12]}; "
                "use the bundle that it was taught with"
            )
