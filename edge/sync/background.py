"""Syncing while listening: a thread of low priority that comes by every quarter of an hour, give or take.

It never gives up and never hurries: each failure makes the next visit later, up to the cap of ``edge.sync.retry``, and
what goes wrong is counted and shown, not raised. Not enrolled, or nothing to leave: it looks again at its next visit.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from edge.errors import SoundkeepError
from edge.sync.retry import StoppedError, TryLaterError, delay_s

INTERVAL_SECONDS = 900.0
JITTER = 0.3
FIRST_SECONDS = 20.0
STOPPED_SECONDS = 86_400.0
LOOK_SECONDS = 60.0
NICENESS = 10


class BackgroundSync:
    """Runs ``sync`` inside a ``with``. sync: does one sync and returns its words, or None when there is nothing to do.

    tell: gets a sentence when the trouble changes. who: as whom it syncs; when that changes, a visit follows soon.
    """

    def __init__(
        self,
        sync: Callable[[Callable[[float], object]], str | None],
        *,
        tell: Callable[[str], None] = lambda words: None,
        who: Callable[[], object] = lambda: None,
        rng: np.random.Generator | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sync = sync
        self._tell = tell
        self._who = who
        self._rng = rng or np.random.default_rng()
        self._clock = clock
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="soundkeep-sync", daemon=True)
        self._last_success: float | None = None
        self._in_a_row = 0
        self.n_synced = 0
        self.n_failed = 0
        self.last_error: str | None = None

    def __enter__(self) -> BackgroundSync:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        self._thread.join(timeout=5.0)

    def health(self) -> dict[str, Any]:
        """How it is doing, for status and health: counts, the last trouble in words, seconds since the last success."""
        since = None if self._last_success is None else round(self._clock() - self._last_success, 1)
        return {
            "n_synced": self.n_synced,
            "n_failed": self.n_failed,
            "last_error": self.last_error,
            "seconds_since_success": since,
        }

    def visit(self) -> float:
        """Sync once if there is something to sync; returns the seconds until the next visit. Raises nothing."""
        try:
            if self._sync(self._pause) is not None:
                self.n_synced += 1
                self._last_success = self._clock()
            self._in_a_row, self.last_error = 0, None
            return self._interval()
        except StoppedError as error:
            self._failed(str(error))
            return STOPPED_SECONDS
        except TryLaterError as error:
            self._failed(str(error))
            return max(error.wait_s, delay_s(self._in_a_row, self._rng))
        except SoundkeepError as error:
            self._failed(str(error))
            return self._interval()
        except Exception as error:  # whatever it is, the listener goes on and so does the next visit
            self._failed(f"sync failed unexpectedly ({type(error).__name__}: {error})")
            return self._interval()

    def _failed(self, words: str) -> None:
        self.n_failed += 1
        self._in_a_row += 1
        if self.last_error is None and not self._stop.is_set():
            self._tell(f"soundkeep: {words}")
        self.last_error = words

    def _interval(self) -> float:
        return INTERVAL_SECONDS * float(self._rng.uniform(1.0 - JITTER, 1.0 + JITTER))

    def _pause(self, seconds: float) -> None:
        """Wait inside a sync; when the listener ends, end the sync."""
        if self._stop.wait(seconds):
            raise TryLaterError("the listener ends")

    def _watch(self) -> None:
        if sys.platform == "linux":
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        who, wait_s = self._who(), float(self._rng.uniform(0.0, FIRST_SECONDS))
        while not self._rested(wait_s, who):
            who = self._who()
            wait_s = self.visit()

    def _rested(self, wait_s: float, who: object) -> bool:
        """Wait, but no longer than until this device is enrolled elsewhere. True: the listener ends."""
        until = self._clock() + wait_s
        while (left_s := until - self._clock()) > 0.0:
            if self._stop.wait(min(left_s, LOOK_SECONDS)):
                return True
            if self._who() != who:
                return False
        return self._stop.is_set()
