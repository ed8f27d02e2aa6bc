"""Where the listening loop waits: commands first, then audio. Both queues are bounded.

When full: a block of audio waits, so the source feels it and its own bounded queue counts what it must drop; a command
is refused at once, so that a caller is told instead of hanging.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

from edge.audio import AudioBlock
from edge.errors import ApiError

_T = TypeVar("_T")


@dataclass(frozen=True)
class Arrival:
    """A block of audio and the monotonic second at which it was handed over."""

    block: AudioBlock
    at: float


@dataclass(frozen=True)
class Command:
    """Work that the loop does between two windows, for somebody on another thread who waits for ``answer``."""

    work: Callable[[], Any]
    answer: Future[Any] = field(default_factory=Future)

    def run(self) -> None:
        """Do the work; its result or its exception goes to whoever waits."""
        if not self.answer.set_running_or_notify_cancel():
            return
        try:
            result = self.work()
        except BaseException as error:
            self.answer.set_exception(error)
            if not isinstance(error, Exception):
                raise
        else:
            self.answer.set_result(result)


class Inbox:
    """Iterate it on the loop's thread; every other method may be called from any thread."""

    def __init__(
        self, *, max_blocks: int = 64, max_commands: int = 32, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_blocks = max_blocks
        self._max_commands = max_commands
        self._clock = clock
        self._blocks: deque[Arrival] = deque()
        self._commands: deque[Command] = deque()
        self._changed = threading.Condition()
        self._ended = False
        self._stopped = False
        self._error: BaseException | None = None
        self.last_block_at: float | None = None
        """Monotonic second of the newest block; None before the first."""

    @property
    def n_waiting_blocks(self) -> int:
        return len(self._blocks)

    def put(self, block: AudioBlock) -> bool:
        """Hand over audio, waiting while the queue is full. False: nobody listens any more."""
        with self._changed:
            self.last_block_at = self._clock()
            self._changed.wait_for(lambda: len(self._blocks) < self._max_blocks or self._stopped)
            if self._stopped:
                return False
            self._blocks.append(Arrival(block, self.last_block_at))
            self._changed.notify_all()
            return True

    def call(self, work: Callable[[], _T]) -> Future[_T]:
        """Ask the loop to do ``work``. Raises ApiError when too much waits already or the listener has ended."""
        command = Command(work)
        with self._changed:
            if self._stopped:
                raise ApiError("the listener has ended; start it again with `soundkeep listen`")
            if len(self._commands) >= self._max_commands:
                raise ApiError(f"{self._max_commands} commands wait already; try again in a moment")
            self._commands.append(command)
            self._changed.notify_all()
        return command.answer

    def end(self, error: BaseException | None = None) -> None:
        """Say that no more audio comes: iteration stops once what waits is done, raising ``error`` if given."""
        with self._changed:
            self._ended = True
            self._error = error
            self._changed.notify_all()

    def stop(self) -> None:
        """End iteration now; blocks that wait are dropped and commands that wait are refused."""
        with self._changed:
            self._stopped = True
            self._blocks.clear()
            refused = list(self._commands)
            self._commands.clear()
            self._changed.notify_all()
        for command in refused:
            if command.answer.set_running_or_notify_cancel():
                command.answer.set_exception(ApiError("the listener has ended before it came to this command"))

    def __iter__(self) -> Iterator[Arrival | Command]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._commands or self._blocks or self._ended or self._stopped)
                if self._commands:
                    item: Arrival | Command = self._commands.popleft()
                elif self._blocks:
                    item = self._blocks.popleft()
                elif self._error is not None:
                    raise self._error
                else:
                    return
                self._changed.notify_all()
            yield item
