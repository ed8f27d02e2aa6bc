"""A source that plays what a test hands it, when the test hands it."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from edge.audio_stream import AudioBlock, SourceHealth


class QueueSource:
    """``play`` sound, ``lose`` some, ``fail`` with an error, ``end``. State changes as a real source's would."""

    name = "test"

    def __init__(self, sample_rate: int) -> None:
        self.sample_rate = sample_rate
        self.opened = self.closed = False
        self._items: queue.Queue[AudioBlock | Exception | None] = queue.Queue()
        self._next = 0
        self._lost = 0
        self._health = SourceHealth("waiting")

    def play(self, samples: NDArray[np.float32], *, block_length: int = 1000) -> None:
        for start in range(0, len(samples), block_length):
            block = AudioBlock(samples[start : start + block_length], self._next, self._lost)
            self._next, self._lost = block.end_sample, 0
            self._items.put(block)

    def lose(self, n_samples: int) -> None:
        self._lost += n_samples
        self._next += n_samples
        self._health = replace(self._health, n_lost=self._health.n_lost + n_samples, n_overflows=1)

    def fail(self, error: Exception) -> None:
        self._items.put(error)

    def end(self) -> None:
        self._items.put(None)

    def become(self, health: SourceHealth) -> None:
        self._health = health

    def __enter__(self) -> QueueSource:
        self.opened = True
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.closed = True
        self.end()

    def __iter__(self) -> Iterator[AudioBlock]:
        while (item := self._items.get()) is not None:
            if isinstance(item, Exception):
                raise item
            if self._health.state == "waiting":
                self._health = replace(self._health, state="running")
            yield item

    def health(self) -> SourceHealth:
        return self._health
