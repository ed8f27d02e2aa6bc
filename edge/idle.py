"""What a listener does once nothing was learnt for a while: keep a snapshot of the sums, choose the ridge anew.

Both run beside the loop, on a thread of their own. Only what touches the learner is posted to the loop: taking the
statistics, and putting a new ridge into use.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

from edge.errors import SoundkeepError
from edge.heads import Background
from edge.journal_reader import KnownRecords
from edge.learner import Learner
from edge.readout import keep_calibration
from edge.records import BACKGROUND
from edge.ridge_selection import CalibrationRecord, TaughtRecord, select_ridge
from edge.space import FeatureSpace

MAX_CALIBRATION_BYTES = 64 * 2**20


@dataclass(frozen=True)
class _Known:
    """What the choice of a ridge needs, as it was at one ``generation`` of the learner."""

    generation: int
    space: FeatureSpace
    records: KnownRecords
    background: Background


class IdleWork:
    """Watches a learner inside a ``with``. call: posts work to the loop. tell: gets a sentence when something fails."""

    def __init__(
        self,
        current: Callable[[], Learner],
        call: Callable[[Callable[[], Any]], Future[Any]],
        *,
        idle_seconds: float,
        default_ridge: float | None,
        tell: Callable[[str], None] = lambda words: None,
        poll_seconds: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """current: the learner in use. default_ridge: the one to prefer among equals; None never calibrates."""
        self._current = current
        self._call = call
        self._idle_seconds = idle_seconds
        self.default_ridge = default_ridge
        self._tell = tell
        self._poll_seconds = poll_seconds
        self._clock = clock
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="soundkeep-idle", daemon=True)

    def __enter__(self) -> IdleWork:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        self._thread.join(timeout=5.0)

    def _watch(self) -> None:
        done = seen = self._mark()
        since = self._clock()
        while not self._stop.wait(self._poll_seconds):
            now = self._mark()
            if now != seen:
                seen, since = now, self._clock()
            elif now != done and self._clock() - since >= self._idle_seconds:
                done = now
                try:
                    self.work()
                except SoundkeepError as error:
                    if not self._stop.is_set():
                        self._tell(f"soundkeep: idle work was left undone: {error}")

    def _mark(self) -> tuple[str, int]:
        """What changes when something is learnt, or another ear is worn."""
        learner = self._current()
        return learner.space.sha256, learner.generation

    def work(self) -> CalibrationRecord | None:
        """Do it now. Returns the calibration when there was one. Raises SoundkeepError."""
        self._call(lambda: self._current().save_snapshot()).result()
        default = self.default_ridge
        if default is None:
            return None
        known: _Known = self._call(self._known).result()
        taught = list(_taught_records(known))
        if not taught:
            return None
        chosen = select_ridge(taught, known.background, default=default)
        self._call(lambda: self._use(chosen, known)).result()
        return chosen

    def _known(self) -> _Known:
        learner = self._current()
        return _Known(learner.generation, learner.space, learner.records, learner.background())

    def _use(self, chosen: CalibrationRecord, known: _Known) -> None:
        """Put the choice into use, unless something was learnt meanwhile."""
        learner = self._current()
        if learner.generation != known.generation or learner.space != known.space:
            return
        keep_calibration(learner.journal, learner.space, chosen)
        if chosen.ridge != learner.readout.ridge:
            learner.use_readout(replace(learner.readout, ridge=chosen.ridge))


def _taught_records(known: _Known) -> Iterator[TaughtRecord]:
    """Taught records in order of id, which is no order at all, up to a budget of memory."""
    n_bytes = 0
    for record_id in known.records:
        about = known.records.about(record_id)
        n_bytes += 2 * about.n_windows * known.space.dim
        if n_bytes > MAX_CALIBRATION_BYTES:
            return
        if about.label != BACKGROUND:
            features, _ = known.space.features(known.records[record_id].embeddings)
            yield TaughtRecord(record_id, about.label, features)
