"""Keeps a device's head the one of what is known here: after every teaching, and after a restart of the device.

What was taught to the device itself meanwhile is learnt here first, exactly and for good; then the head goes back.

A thread of its own looks twice a second at the number of the last command in the journal. It reads beside the listener;
what fails is told once, and tried again when something changes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from edge.decision import DecisionSettings
from edge.errors import SoundkeepError
from edge.learner import Learner
from edge.records import BACKGROUND, Record
from firmware_bridge.connection import Connection
from firmware_bridge.head_transfer import require_same_ear, send_head
from firmware_bridge.heads import device_head, short_name

LOOK_SECONDS = 0.5


class HeadKeeper:
    """Works inside a ``with``. reading: opens what is known, beside whoever writes it. learn: has records learnt.
    tell: takes a sentence for people."""

    def __init__(
        self,
        link: Connection,
        reading: Callable[[], AbstractContextManager[Learner]],
        decision: DecisionSettings,
        *,
        learn: Callable[[Sequence[Record]], object],
        tell: Callable[[str], None],
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        self._link = link
        self._reading = reading
        self._decision = decision
        self._learn = learn
        self._tell = tell
        self._look_seconds = look_seconds
        self._version = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="soundkeep-head", daemon=True)

    def __enter__(self) -> HeadKeeper:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stopping.set()
        self._thread.join(timeout=5.0)

    def _run(self) -> None:
        while not self._stopping.wait(self._look_seconds):
            if not self._link.is_up:
                continue
            try:
                with self._reading() as learner:
                    self._keep(learner)
            except SoundkeepError as error:
                self._tell(f"the device's head is not kept: {error}")
                return

    def _keep(self, learner: Learner) -> None:
        """Until it is stopped: whatever is known is on the device."""
        sent: tuple[int, int] | None = None
        while not self._stopping.wait(self._look_seconds):
            if not self._link.is_up:
                continue
            try:
                self._learn_lessons(learner)
                state = (self._link.device.session, learner.journal.last_seq)
                if state == sent:
                    continue
                sent = state  # whatever comes of it: the same is not tried twice a second
                learner.catch_up()
                self._send(learner)
            except SoundkeepError as error:
                self._tell(f"the device's head stays as it is: {error}")

    def _learn_lessons(self, learner: Learner) -> None:
        """What the device was taught by itself; an example that is known already changes nothing."""
        space = learner.space.embedding
        labels = {short_name(entry["label"]): entry["label"] for entry in learner.classes()}
        records = []
        while not self._link.lessons.empty():
            lesson = self._link.lessons.get()
            label = BACKGROUND if lesson.index is None else labels.get(lesson.name.encode("utf-8"), lesson.name)
            if not label or len(lesson.grid) != space.dim:
                self._tell("the device was taught something by itself that has no name here; it is left out")
                continue
            records.append(Record(space.sha256, label, lesson.grid[None]))
        if records:
            self._learn(records)
            self._tell(f"learnt {len(records)} example(s) that the device was taught by itself")

    def _send(self, learner: Learner) -> None:
        device = self._link.device
        require_same_ear(device, str(self._link.address), bytes.fromhex(learner.space.embedding.sha256)[:8])
        self._version = max(self._version + 1, int(time.time())) & 0xFFFFFFFF
        made = device_head(learner, self._decision, version=self._version, room=device.bank_bytes)
        seconds = send_head(self._link, made)
        known = ", ".join(made.labels) or "nothing"
        self._tell(f"{device.name} knows {known} (head {made.version}, {len(made.data)} bytes in {seconds:.2f} s)")
