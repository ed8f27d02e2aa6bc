"""What there is to tell, at one moment: the records of the space in use and their sum, without what is private.

Read beside everything: from the journal when no listener runs, else from the listener's own sums, which only costs its
loop a copy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from edge.errors import CorruptionError
from edge.journal_reader import JournalReader, KnownRecords
from edge.learner import Learner
from edge.records import Record
from edge.snapshot import restore_statistics, sum_of
from edge.space import FeatureSpace
from edge.statistics import SufficientStatistics

CALL_SECONDS = 60.0


@dataclass(frozen=True)
class Knowledge:
    """ids: of the records, ascending. statistics: the sum over exactly these. records: where they are read from.

    clip_content: the content hash under which the clip of a record was kept.
    """

    ids: tuple[str, ...]
    statistics: SufficientStatistics
    records: KnownRecords
    clip_content: Callable[[str], str]


def from_journal(journal: JournalReader, space: FeatureSpace, private: Collection[str]) -> Knowledge:
    """Read the journal as it is on the disk. Raises StateError."""
    records = journal.records(space.embedding.sha256)
    try:
        statistics = restore_statistics(journal, space).statistics
    except CorruptionError:
        statistics = SufficientStatistics.zero(space)  # its counts cannot match, so the readable records are summed
    return _without_private(journal, space, records, statistics, private)


def from_learner(
    learner: Learner, call: Callable[[Callable[[], Any]], Future[Any]], private: Collection[str]
) -> Knowledge:
    """Ask the running loop for its sums: one copy, between two windows. Raises ApiError, TimeoutError.

    A learner that waits behind a trial has not caught up with what was taught and forgotten: then the journal is asked.
    """
    known, statistics = call(lambda: (learner.records, learner.statistics())).result(CALL_SECONDS)
    records = learner.journal.records(learner.space.embedding.sha256)
    if records.keys() != known.keys():
        return from_journal(learner.journal, learner.space, private)
    return _without_private(learner.journal, learner.space, records, statistics, private)


def _without_private(
    journal: JournalReader,
    space: FeatureSpace,
    records: KnownRecords,
    statistics: SufficientStatistics,
    private: Collection[str],
) -> Knowledge:
    told = [i for i in records if records.about(i).label not in private]
    try:
        kept_back = sum_of(space, (records[i] for i in records if records.about(i).label in private))
        statistics = statistics - kept_back
    except CorruptionError:
        statistics = SufficientStatistics.zero(space)
    if _counts(statistics) != _windows(records, told):  # a record is damaged: say only what can be read
        readable = {i: record for i in told if (record := _readable(records, i)) is not None}
        told, statistics = list(readable), sum_of(space, readable.values())
    return Knowledge(tuple(told), statistics, records, _clip_names(journal, records, space.embedding.sha256))


def _clip_names(journal: JournalReader, records: KnownRecords, space_sha256: str) -> Callable[[str], str]:
    """A record that was moved here from another space keeps its clip under the content of its source."""
    source_of = {image.content_sha256: of[1] for of, image in journal.images(space_sha256).items()}

    def clip_content(record_id: str) -> str:
        content = records.about(record_id).content_sha256
        return source_of.get(content, content)

    return clip_content


def _counts(statistics: SufficientStatistics) -> dict[str, int]:
    return {label: int(n) for label, n in zip(statistics.labels, statistics.counts.tolist(), strict=True)}


def _windows(records: KnownRecords, ids: Collection[str]) -> dict[str, int]:
    n_windows: Counter[str] = Counter()
    for i in ids:
        n_windows[records.about(i).label] += records.about(i).n_windows
    return dict(n_windows)


def _readable(records: KnownRecords, record_id: str) -> Record | None:
    try:
        return records[record_id]
    except CorruptionError:
        return None
