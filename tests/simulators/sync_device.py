"""A device that syncs, without an ear: a journal, an enrolment and a clock that the test sets.

``python -m tests.simulators.sync_device STATE [POINT NTH]`` syncs as a process, and kills itself (-9) when it comes to
POINT the NTH time; it writes every sequence number to STATE/sequences before the request leaves.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edge.clips import ClipStore
from edge.journal import Journal
from edge.records import Record
from edge.space import EmbeddingSpace, FeatureSpace, l2_normalize
from edge.sync.client import SignedClient
from edge.sync.device_file import Enrolment, SyncFolder
from edge.sync.exchange import Exchange, SyncReport
from edge.sync.knowledge import from_journal
from edge.sync.outbox import Outbox, no_crash
from edge.sync.retry import Moment, TryLaterError, moment_now

SPACE = EmbeddingSpace("e1" * 32, sample_rate=16000, window_length=16000, hop_length=4000, dim=16)
ABOUT = {"version": "0", "slot": "none"}


def heard(label: str, seed: int, *, n_windows: int = 3, space: EmbeddingSpace = SPACE) -> Record:
    """A record of unit embeddings that follow from ``seed`` alone."""
    x = np.random.default_rng(seed).standard_normal((n_windows, space.dim)).astype(np.float32)
    return Record(space.sha256, label, space.grid.quantize(l2_normalize(x))[0])


@dataclass
class FakeClock:
    """Seconds since boot that pass only when somebody waits."""

    seconds: float = 0.0
    boot: str = "a"
    waits: list[float] = field(default_factory=list)

    def now(self) -> Moment:
        return Moment(self.boot, self.seconds)

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.seconds += seconds


class SyncDevice:
    """One state directory that is enrolled at a server."""

    def __init__(self, state: Path, *, level: str = "statistics", clip_bytes: int = 0) -> None:
        self.state = state
        self.level = level
        self.clips = ClipStore(state, max_bytes=clip_bytes)
        self.folder = SyncFolder(state)

    def teach(self, *records: Record, audio: bool = False) -> None:
        with Journal.open(self.state, space=SPACE) as journal:
            journal.import_records(records)
        for record in records if audio else ():
            rng = np.random.default_rng(int(record.id[:8], 16))
            self.clips.keep(record.content_sha256, rng.uniform(-0.5, 0.5, 16000).astype(np.float32), 16000)

    def enrol(self, url: str, token: str) -> str:
        key = self.folder.key_to_enrol()
        with Outbox(self.folder.outbox_path) as outbox, SignedClient(url, key, outbox) as client:
            device_id, _ = client.enrol(token, "tester")
        self.point_to(url, device_id)
        return device_id

    def point_to(self, url: str, device_id: str | None = None) -> None:
        device_id = device_id or self.folder.key_to_enrol().device_id
        self.folder.save(Enrolment(url, device_id, "tester", self.level))

    def sync(
        self,
        *,
        clock: FakeClock | None = None,
        crash_point: Callable[[str], None] = no_crash,
        insist: bool = False,
        attempts: int = 4,
        batch_bytes: int = 4 << 20,
        max_waiting_bytes: int = 512 << 20,
        read_s: float = 10.0,
        seed: int = 0,
    ) -> SyncReport:
        """One exchange."""
        enrolment = self.folder.load()
        assert enrolment is not None
        now, sleep = (clock.now, clock.sleep) if clock else (moment_now, lambda seconds: None)
        with (
            Journal.open(self.state, space=SPACE, read_only=True) as journal,
            Outbox(self.folder.outbox_path, now=now, crash_point=crash_point) as outbox,
            SignedClient(
                enrolment.server, self.folder.key(), outbox, attempts=attempts, insist=insist, sleep=sleep,
                read_s=read_s, rng=np.random.default_rng(seed),
            ) as client,
        ):  # fmt: skip
            return Exchange(
                enrolment, self.state, client, outbox,
                lambda private: from_journal(journal, FeatureSpace(SPACE), private),
                ABOUT, crash_point=crash_point, batch_bytes=batch_bytes, max_waiting_bytes=max_waiting_bytes,
            ).run()  # fmt: skip

    def sync_until_done(self, clock: FakeClock, *, max_hours: float = 1000.0) -> SyncReport:
        """Sync as the background does: after each failure wait as long as it asks for, on the fake clock."""
        n_failures = 0
        while clock.seconds < max_hours * 3600.0:
            try:
                return self.sync(clock=clock, attempts=2, seed=n_failures)
            except TryLaterError as error:
                n_failures += 1
                clock.sleep(max(error.wait_s, 1.0))
        raise AssertionError(f"not done after {max_hours} simulated hours")

    def outbox(self) -> Outbox:
        return Outbox(self.folder.outbox_path)


def main(state: Path, point: str, nth: int) -> None:
    left = nth

    def crash(reached: str) -> None:
        nonlocal left
        left -= reached == point
        if reached == point and left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    given = Outbox.next_sequence
    said = os.open(state / "sequences", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def telling(outbox: Outbox) -> int:
        sequence = given(outbox)
        os.write(said, f"{sequence}\n".encode())
        return sequence

    Outbox.next_sequence = telling  # type: ignore[method-assign]
    enrolment = SyncFolder(state).load()
    assert enrolment is not None
    rested = FakeClock(7200.0, boot=str(os.getpid()))  # restarted two hours ago: the hour's requests are all there
    print("ready", flush=True)
    device = SyncDevice(state, level=enrolment.level)
    print(device.sync(clock=rested, crash_point=crash, batch_bytes=2000).words)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "", int(sys.argv[3]) if len(sys.argv) > 3 else 1)
