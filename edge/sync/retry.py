"""When to try again: what an answer means, how long to wait, and how many requests an hour may lead nowhere. Pure.

Waiting is exponential with full jitter (Brooker 2015), so that a fleet does not come back in step. No wall clock is
asked: time is the seconds since this boot together with the boot's name, so a clock that is set changes nothing.
"""

from __future__ import annotations

import enum
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edge.errors import SyncError

BASE_SECONDS = 1.0
CAP_SECONDS = 900.0
MAX_RETRY_AFTER_SECONDS = 3600.0
BUDGET_BURST = 30.0
BUDGET_PER_HOUR = 30.0
TO_BEGIN = 8.0
"""Requests that must be left to begin a sync: with fewer, a bad network would let a device poll and never send."""
UNNAMED_BOOT = "unnamed"

_LATER = frozenset({408, 425, 429})
_STOPPING = frozenset({"unknown-device", "bad-signature", "revoked"})
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Verdict(enum.Enum):
    """What an answer means for the request. TAKEN: done. ELSEWHERE: go on from another offset. REPLAYED: sign anew.
    REFUSED: this content will never be taken. STOPPED: this device will not be served. LATER: try again."""

    TAKEN = "taken"
    ELSEWHERE = "elsewhere"
    REPLAYED = "replayed"
    REFUSED = "refused"
    STOPPED = "stopped"
    LATER = "later"


class TryLaterError(SyncError):
    """No answer, or one that asks for patience. wait_s: seconds that must pass before the next request."""

    def __init__(self, sentence: str, *, wait_s: float = 0.0) -> None:
        super().__init__(sentence)
        self.wait_s = wait_s


class StoppedError(SyncError):
    """The server does not serve this device: unknown, revoked, or its signatures do not hold."""


def judge(status: int | None, kind: str | None) -> Verdict:
    """What an answer means. status: of the answer, None when there was none. kind: the word in its JSON, if any.

    Without a word of ours a refusal may come from anything in between (a proxy, a portal of a guest network), so only
    413 counts without one.
    """
    if status is None or status in _LATER or status >= 500 or status < 200 or 300 <= status < 400:
        return Verdict.LATER
    if status < 300:
        return Verdict.TAKEN
    if kind in _STOPPING:
        return Verdict.STOPPED
    if status == 409:
        return {"replayed": Verdict.REPLAYED, "offset": Verdict.ELSEWHERE}.get(kind or "", Verdict.LATER)
    return Verdict.REFUSED if status == 413 or kind is not None else Verdict.LATER


def delay_s(n_failures: int, rng: np.random.Generator, *, retry_after_s: float | None = None) -> float:
    """Return how long to wait after ``n_failures`` in a row (1 or more), in seconds.

    Full jitter: uniform in [0, min(cap, base 2^(n-1))]. What the server asked for is the least, within an hour.
    """
    ceiling = min(CAP_SECONDS, BASE_SECONDS * 2.0 ** min(max(n_failures, 1) - 1, 32))
    jittered = float(rng.uniform(0.0, ceiling))
    return jittered if retry_after_s is None else max(jittered, min(retry_after_s, MAX_RETRY_AFTER_SECONDS))


def retry_after_s(header: str | None) -> float | None:
    """Read a Retry-After header in seconds; a date needs a clock that is right, so it counts as none."""
    if header is None or not header.strip().isascii() or not header.strip().isdigit():
        return None
    return min(float(header.strip()[:9]), MAX_RETRY_AFTER_SECONDS)


@dataclass(frozen=True)
class Moment:
    """A time that no one can set. boot: name of this boot. since_boot_s: seconds since then."""

    boot: str
    since_boot_s: float


def moment_now() -> Moment:
    """The monotonic clock of this boot."""
    try:
        boot = _BOOT_ID.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        boot = UNNAMED_BOOT
    return Moment(boot, time.monotonic())


@dataclass(frozen=True)
class RequestBudget:
    """A bucket of requests that may lead nowhere: polls, and requests that failed. tokens: how many are left.

    Holds ``BUDGET_BURST`` and gains ``BUDGET_PER_HOUR``: no hour sees more than their sum, 60.
    """

    tokens: float
    at: Moment

    @classmethod
    def full(cls, at: Moment) -> RequestBudget:
        return cls(BUDGET_BURST, at)

    def refilled(self, now: Moment) -> RequestBudget:
        """Return the bucket as it is at ``now``. After a reboot at least the time since that boot has passed."""
        passed = now.since_boot_s - (self.at.since_boot_s if now.boot == self.at.boot else 0.0)
        if not math.isfinite(passed) or passed <= 0.0:
            return self if now.boot == self.at.boot != UNNAMED_BOOT else replace(self, at=now)
        held = min(max(self.tokens, 0.0), BUDGET_BURST)
        return RequestBudget(min(BUDGET_BURST, held + passed * BUDGET_PER_HOUR / 3600.0), now)

    def take(self, now: Moment, *, of: float = 1.0) -> tuple[RequestBudget, float]:
        """Take one request. Returns the bucket after it and 0.0, or the bucket and the seconds until it can be taken.

        of: how many must be there to take one.
        """
        bucket = self.refilled(now)
        if bucket.tokens >= of:
            return replace(bucket, tokens=bucket.tokens - 1.0), 0.0
        return bucket, (of - bucket.tokens) * 3600.0 / BUDGET_PER_HOUR

    def give_back(self, now: Moment) -> RequestBudget:
        """Return the bucket after a request that led somewhere."""
        bucket = self.refilled(now)
        return replace(bucket, tokens=min(BUDGET_BURST, bucket.tokens + 1.0))
