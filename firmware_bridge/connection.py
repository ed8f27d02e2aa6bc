"""A device on the other end, kept: dialled, greeted, listened to, and dialled again when it is lost.

One thread does all that; what it hears goes through a bounded queue. When the queue is full, sound is dropped there and
counted, and the sample counter of what follows tells how much: memory stays bounded whatever a device sends. Commands
may be asked from any thread.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import replace

from edge.errors import SoundkeepError
from firmware_bridge.address import Address
from firmware_bridge.control import Outcome
from firmware_bridge.dialling import Backoff
from firmware_bridge.errors import LinkError, LinkLostError
from firmware_bridge.link_events import Device, Event, Greeted, Lesson, LinkHealth, Lost
from firmware_bridge.session import Expected, HostSession
from firmware_bridge.transports import Transport, dialled

GREETING_SECONDS = 4.0
SILENT_SECONDS = 3.0
STEP_SECONDS = 0.02
MAX_EVENTS = 512
COMMAND_SECONDS = 10.0
MAX_LESSONS = 256


class Connection:
    """Opens in a ``with``, which raises LinkError when the device cannot be reached, says nothing, says nothing that
    can be read, or is not the one that is expected. wait_for_device: ``with`` does not wait, and a device that cannot
    be reached yet is dialled again. Iterate ``events`` once, inside it; who is inside already may enter again."""

    def __init__(
        self,
        address: Address,
        expected: Expected = Expected(),
        *,
        dial: Callable[[Address], Transport] = dialled,
        clock: Callable[[], float] = time.monotonic,
        greeting_seconds: float = GREETING_SECONDS,
        backoff: Backoff | None = None,
        max_events: int = MAX_EVENTS,
        wait_for_device: bool = False,
    ) -> None:
        self.address = address
        self.n_reopened = 0
        self._expected = expected
        self._dial = dial
        self._clock = clock
        self._greeting_seconds = greeting_seconds
        self._backoff = backoff or Backoff()
        self._wait_for_device = wait_for_device
        self._events: queue.Queue[Event] = queue.Queue(max_events)
        self._closed = threading.Event()
        self._asked: queue.SimpleQueue[tuple[Callable[[HostSession], int], Future[Outcome]]] = queue.SimpleQueue()
        self._answers: dict[int, Future[Outcome]] = {}
        self._greeted: Future[Device] = Future()
        self._wanted: str | None = None
        self._session: HostSession | None = None
        self._transport: Transport | None = None
        self._dropped = 0
        self._before = LinkHealth()
        self.lessons: queue.SimpleQueue[Lesson] = queue.SimpleQueue()
        """What was taught to the device itself; whoever keeps its head takes it out."""
        self._thread = threading.Thread(target=self._run, name="soundkeep-link", daemon=True)

    # ---- from any thread --------------------------------------------------------------------------------------------

    def __enter__(self) -> Connection:
        if self._thread.ident is None:
            self._thread.start()
        if self._wait_for_device:
            return self
        try:
            self._greeted.result(self._greeting_seconds + 6.0)
        except FutureTimeoutError as error:
            self.__exit__()
            raise LinkError(
                f"{self.address} cannot be opened: the system does not answer; unplug the device"
            ) from error
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._closed.set()
        if self._transport is not None:
            self._transport.close()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(timeout=2.0)

    @property
    def device(self) -> Device:
        """What the device said of itself when it was greeted last."""
        session = self._session
        assert session is not None and session.device is not None, "inside the with block, a device was greeted"
        return session.device

    def stream(self, format: str | None) -> None:
        """Have the device send its sound as ``format``, from now on and after every loss; None: nothing."""
        self._wanted = format

    def ask(self, command: Callable[[HostSession], int]) -> Future[Outcome]:
        """Have the link's thread call ``command``, which asks the device for something; the outcome, in time."""
        answer: Future[Outcome] = Future()
        if self.is_up:
            self._asked.put((command, answer))
        else:
            answer.set_exception(LinkLostError(f"{self.address} is not connected now; nothing can be asked of it"))
        return answer

    def events(self) -> Iterator[Event]:
        """What the device sends, as it comes, until the connection is closed. Raises LinkError for one that may not be
        used (another version, another ear) after a restart."""
        while not self._closed.is_set():
            try:
                event = self._events.get(timeout=0.1)
            except queue.Empty:
                if not self._thread.is_alive() and self._greeted.done():
                    self._greeted.result()
                    return
                continue
            if isinstance(event, Lost) and event.for_good:
                raise LinkError(event.sentence)
            yield event

    def health(self) -> LinkHealth:
        """All counts since the connection was opened."""
        session = self._session
        now = LinkHealth() if session is None else session.health()
        return replace(_sum(self._before, now), n_dropped=self._dropped)

    @property
    def is_up(self) -> bool:
        """Whether a device has been greeted and not been lost since."""
        session = self._session
        return session is not None and session.device is not None

    # ---- the thread -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        previous: Device | None = None
        while not self._closed.is_set():
            began = self._clock()
            try:
                previous = self._hold(previous)
            except LinkLostError as error:
                if not self._greeted.done() and not self._wait_for_device:
                    self._greeted.set_exception(LinkError(f"{error}, before it said who it is; restart the device"))
                    return
                previous = self._note_lost(str(error)) or previous
            except SoundkeepError as error:
                greeted = self._greeted.done()
                if not greeted and not self._wait_for_device:
                    self._greeted.set_exception(error)
                    return
                for_good = not isinstance(error, LinkError) or (self._session is not None and self._session.refused)
                previous = self._note_lost(str(error), for_good=bool(for_good)) or previous
                if for_good:
                    if not greeted:
                        self._greeted.set_exception(error)
                    return
            except BaseException as error:  # a fault of ours: it must come out, not end a thread in silence
                if not self._greeted.done():
                    self._greeted.set_exception(error)
                else:
                    self._note_lost(f"the link failed: {error!r}", for_good=True)
                raise
            self._closed.wait(self._backoff.lost_after(self._clock() - began))

    def _note_lost(self, sentence: str, *, for_good: bool = False) -> Device | None:
        device = None if self._session is None else self._session.device
        if self._session is not None:
            self._before = _sum(self._before, self._session.health())
            self._session = None
        waiting = list(self._answers.values())
        while not self._asked.empty():
            waiting.append(self._asked.get()[1])
        for answer in waiting:
            answer.set_exception(LinkLostError(f"{self.address} was lost before it answered: {sentence}"))
        self._answers.clear()
        if self._transport is not None:
            self._transport.close()
        self._put(Lost(sentence, for_good))
        return device

    def _hold(self, previous: Device | None) -> Device | None:
        """One link, from dialling to its loss. Raises LinkError."""
        self._transport = transport = self._dial(self.address)
        session = HostSession(self._expected, previous=previous, now=self._clock())
        self._session = session
        until = self._clock() + self._greeting_seconds
        heard_at = self._clock()
        asked: str | None = None
        while not self._closed.is_set():
            data = transport.read(STEP_SECONDS)
            now = self._clock()
            if data:
                heard_at = now
            for event in [*session.receive(data, now), *session.tick(now)]:
                if isinstance(event, Greeted):
                    asked = None
                    if previous is not None:
                        self.n_reopened += 1
                    previous = event.device
                self._deliver(event)
            if session.device is None and now > until:
                raise LinkError(session.why_no_greeting(str(self.address)))
            if session.device is not None:
                if not self._greeted.done():
                    self._greeted.set_result(session.device)
                if asked != self._wanted:
                    asked = self._wanted
                    session.stream(asked)
                self._take_commands(session)
                if now - heard_at > SILENT_SECONDS:
                    raise LinkLostError(f"{self.address} has said nothing for {now - heard_at:.1f} s")
            for packet in session.outgoing():
                transport.write(packet)
        transport.close()
        return session.device

    def _take_commands(self, session: HostSession) -> None:
        while not self._asked.empty():
            command, answer = self._asked.get()
            try:
                self._answers[command(session)] = answer
            except SoundkeepError as error:
                answer.set_exception(error)

    def _deliver(self, event: Event) -> None:
        if isinstance(event, Outcome):
            answer = self._answers.pop(event.ticket, None)
            if answer is not None:
                answer.set_result(event)
            return
        if isinstance(event, Lesson):
            if self.lessons.qsize() < MAX_LESSONS:
                self.lessons.put(event)
            return
        self._put(event)

    def _put(self, event: Event) -> None:
        try:
            self._events.put_nowait(event)
        except queue.Full:
            self._dropped += 1
            if isinstance(event, Greeted | Lost):  # these may not be missed: an older one makes room
                with contextlib.suppress(queue.Empty):
                    self._events.get_nowait()
                self._events.put_nowait(event)


def _sum(one: LinkHealth, other: LinkHealth) -> LinkHealth:
    """Counts of two links after one another; what is no count comes from the later one."""
    counts = {
        name: getattr(one, name) + getattr(other, name)
        for name in ("n_good", "n_crc", "n_malformed", "n_oversized", "n_unknown", "n_late", "n_retries", "n_bytes")
    }
    return replace(other, **counts)
