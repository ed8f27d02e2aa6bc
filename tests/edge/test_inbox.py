"""Where the loop waits: commands first, bounded queues, and what happens when they are full."""

from __future__ import annotations

import threading
from concurrent.futures import TimeoutError as StillWaiting

import numpy as np
import pytest

from edge.audio_stream import AudioBlock
from edge.errors import ApiError, AudioError
from edge.inbox import Arrival, Command, Inbox


def block(start: int = 0) -> AudioBlock:
    return AudioBlock(np.zeros(4, dtype=np.float32), start)


def drained(inbox: Inbox) -> list[object]:
    """Take everything, doing the commands."""
    items: list[object] = []
    for item in inbox:
        if isinstance(item, Command):
            item.run()
        items.append(item)
    return items


def test_nothing_put_and_ended_is_nothing_taken() -> None:
    inbox = Inbox()
    inbox.end()
    assert drained(inbox) == []


def test_blocks_come_in_order_with_the_time_of_their_arrival() -> None:
    inbox = Inbox(clock=iter([1.0, 2.0]).__next__)
    inbox.put(block(0))
    inbox.put(block(4))
    inbox.end()
    taken = drained(inbox)
    assert [(a.block.start_sample, a.at) for a in taken if isinstance(a, Arrival)] == [(0, 1.0), (4, 2.0)]


def test_commands_come_before_audio_that_waits() -> None:
    inbox = Inbox()
    inbox.put(block())
    answer = inbox.call(lambda: "done")
    inbox.end()
    taken = drained(inbox)
    assert [type(item) for item in taken] == [Command, Arrival]
    assert answer.result(0) == "done"


def test_an_error_of_a_command_goes_to_its_caller_and_the_loop_goes_on() -> None:
    inbox = Inbox()
    answer = inbox.call(lambda: 1 // 0)
    inbox.put(block())
    inbox.end()
    assert len(drained(inbox)) == 2
    with pytest.raises(ZeroDivisionError):
        answer.result(0)


def test_a_full_queue_of_blocks_makes_the_source_wait() -> None:
    inbox = Inbox(max_blocks=1)
    assert inbox.put(block(0))
    put = threading.Event()
    source = threading.Thread(target=lambda: (inbox.put(block(4)), put.set()))
    source.start()
    assert not put.wait(0.05)
    assert isinstance(next(iter(inbox)), Arrival)
    assert put.wait(5.0)
    source.join()


def test_a_full_queue_of_commands_refuses_at_once() -> None:
    inbox = Inbox(max_commands=1)
    inbox.call(lambda: None)
    with pytest.raises(ApiError, match="1 commands wait already; try again"):
        inbox.call(lambda: None)


def test_stopping_refuses_what_waits_and_frees_the_source() -> None:
    inbox = Inbox(max_blocks=1)
    inbox.put(block(0))
    answers: list[bool] = []
    source = threading.Thread(target=lambda: answers.append(inbox.put(block(4))))
    source.start()
    waiting = inbox.call(lambda: "never")
    inbox.stop()
    source.join(5.0)
    assert answers == [False]
    assert drained(inbox) == []
    with pytest.raises(ApiError, match="ended before"):
        waiting.result(0)
    with pytest.raises(ApiError, match="has ended"):
        inbox.call(lambda: None)


def test_an_error_of_the_source_is_raised_after_what_it_had_delivered() -> None:
    inbox = Inbox()
    inbox.put(block())
    inbox.end(AudioError("the file is truncated"))
    taken = []
    with pytest.raises(AudioError, match="truncated"):
        taken.extend(iter(inbox))
    assert len(taken) == 1


def test_a_command_whose_caller_gave_up_is_not_done() -> None:
    inbox = Inbox()
    done: list[int] = []
    answer = inbox.call(lambda: done.append(1))
    with pytest.raises(StillWaiting):
        answer.result(0.0)
    assert answer.cancel()
    inbox.end()
    drained(inbox)
    assert done == []
