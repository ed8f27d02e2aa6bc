"""A microcontroller as a source of sound or of features for the listener: what comes over a link, on one timeline.

Sound is never sent twice. What is missing shows in the device's sample counter, is counted to the sample, moves the
timeline on and marks the block behind it, so that no window spans it. After a restart of the device the counter begins
anew; then the time that passed is the best that is known, and counts as away.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeVar

import numpy as np

from edge.audio_stream import AudioBlock, SourceHealth, Timeline
from edge.errors import BundleError
from edge.feature_input import FeatureInput
from firmware_bridge.connection import Connection
from firmware_bridge.errors import LinkError
from firmware_bridge.feature_windows import FeatureBlock, feature_block
from firmware_bridge.link_events import Device, Frames, Greeted, Lost, Said, Sound

MAX_GAP_SECONDS = 24 * 3600
SILENT_SECONDS = 3.0


Self = TypeVar("Self", bound="LinkSource")


class LinkSource:
    """What both sources share: one link, one device, and where its samples lie on the timeline.

    A place on the device's counter becomes a place on our timeline; ``_gap`` says how many of the device's samples are
    missing before the next one, and how many of those passed while nobody could have heard them.
    """

    format = "pcm16"

    def __init__(self, link: Connection, sample_rate: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.sample_rate = sample_rate
        self.name = str(link.address)
        self._link = link
        self._clock = clock
        self._closed = threading.Event()
        self._health = SourceHealth("waiting", detail="the device is not open")
        self._next: int | None = None
        self._heard_at: float | None = None
        self._device: Device | None = None
        self._anew = False
        self._was_lost = False

    def health(self) -> SourceHealth:
        return self._health

    def __exit__(self, *exc_info: object) -> None:
        self._closed.set()
        self._health = replace(self._health, state="ended", detail="")
        self._link.__exit__()

    def __enter__(self: Self) -> Self:
        self._link.stream(self.format)
        self._link.__enter__()
        if self._link.is_up:
            try:
                self._note_greeting(self._link.device)
            except BaseException:
                self._link.__exit__()
                raise
        return self

    def _note_greeting(self, device: Device) -> None:
        """Raises LinkError for a device that does not send what is wanted, or that came back as another one."""
        if self.format not in device.formats:
            raise LinkError(
                f"{device.name} at {self.name} sends {', '.join(device.formats) or 'nothing'}; wanted {self.format}; "
                "choose another with --format"
            )
        if self._device is not None and device.sample_rate != self._device.sample_rate:
            raise LinkError(
                f"{device.name} at {self.name} came back with {device.sample_rate} Hz after "
                f"{self._device.sample_rate} Hz; start again"
            )
        if self._device is not None and device.session != self._device.session:
            self._anew = True
        self._device = device
        detail = f"{device.name}, {self.format} at {device.sample_rate} Hz"
        self._health = replace(self._health, state="running", detail=detail, n_reopened=self._link.n_reopened)

    def _note_lost(self, lost: Lost) -> None:
        self._was_lost = True
        self._health = replace(self._health, state="waiting", detail=lost.sentence)

    def _gap(self, device: Device, start: int, n_samples: int, at: float) -> tuple[int, int] | None:
        """(missing, of them away) before a block at ``start`` of the device's counter; None: it was had already."""
        if self._next is None or self._anew:
            away = 0
            if self._heard_at is not None:
                away = max(1, round((at - self._heard_at) * device.sample_rate) - n_samples)
            self._anew = False
            gap = (away, away)
        elif start < self._next:
            return None
        else:
            missing = start - self._next
            gap = (missing, missing if self._was_lost else 0)
        self._was_lost = False
        if gap[0] > MAX_GAP_SECONDS * device.sample_rate:
            raise LinkError(
                f"{device.name} at {self.name} counts {gap[0]} samples more than were heard: more than a day; "
                "its counter cannot be trusted, restart it"
            )
        self._next, self._heard_at = start + n_samples, at
        return gap

    def _count(self, n_lost: int, n_away: int) -> None:
        health = self._health
        self._health = replace(
            health,
            n_lost=health.n_lost + n_lost,
            n_away=health.n_away + n_away,
            n_overflows=health.n_overflows + (n_lost > n_away),
        )


class McuSource(LinkSource):
    """Sound from a microcontroller, as PCM16 or IMA-ADPCM; resampled when the ear wants another rate."""

    def __init__(
        self,
        link: Connection,
        sample_rate: int,
        *,
        format: str = "pcm16",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(link, sample_rate, clock=clock)
        self.format = format
        self._n_zeros = 0

    def __iter__(self) -> Iterator[AudioBlock]:
        timeline = Timeline(self.sample_rate)
        lost_before = 0
        for event in self._link.events():
            if self._closed.is_set():
                return
            if isinstance(event, Greeted):
                self._note_greeting(event.device)
            elif isinstance(event, Lost):
                self._note_lost(event)
            elif isinstance(event, Said):
                self._health = replace(self._health, detail=event.sentence)
            elif isinstance(event, Sound) and self._device is not None:
                rate, first = self._device.sample_rate, self._next is None
                gap = self._gap(self._device, event.start, len(event.samples), event.at)
                if gap is None:
                    continue
                missing, away = gap
                if first or missing:
                    yield from timeline.finish()
                    lost_before += missing
                    n_lost = self._scaled(lost_before, rate) - self._scaled(lost_before - missing, rate)
                    timeline.begin(rate, n_lost=n_lost)
                    self._count(n_lost, n_lost if away else 0)
                self._note_level(event.samples, rate)
                yield from timeline.push(event.samples.astype(np.float32) / np.float32(32768.0))
        yield from timeline.finish()

    def _scaled(self, n: int, rate: int) -> int:
        return round(n * self.sample_rate / rate)

    def _note_level(self, samples: np.ndarray[tuple[int], np.dtype[np.int16]], rate: int) -> None:
        self._n_zeros = 0 if samples.any() else self._n_zeros + len(samples)
        if self._n_zeros >= SILENT_SECONDS * rate:
            detail = f"silent (is its microphone connected?): {self._n_zeros / rate:.0f} s of exact zeros"
            self._health = replace(self._health, state="silent", detail=detail)
        elif self._health.state != "running":
            self._health = replace(self._health, state="running", detail="")


class FeatureSource(LinkSource):
    """Log-mel features from a microcontroller, as blocks of frames. takes: what the ear's second graph wants.

    ``with`` raises BundleError when the device makes its features with another front end.
    """

    format = "log_mel"

    def __init__(
        self,
        link: Connection,
        sample_rate: int,
        takes: FeatureInput,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(link, sample_rate, clock=clock)
        self._takes = takes
        self._place = 0

    def _note_greeting(self, device: Device) -> None:
        check_front_end(device, self._takes, self.sample_rate)
        super()._note_greeting(device)

    def __iter__(self) -> Iterator[FeatureBlock]:
        hop = self._takes.frame_hop
        for event in self._link.events():
            if self._closed.is_set():
                return
            if isinstance(event, Greeted):
                self._note_greeting(event.device)
            elif isinstance(event, Lost):
                self._note_lost(event)
            elif isinstance(event, Said):
                self._health = replace(self._health, detail=event.sentence)
            elif isinstance(event, Frames) and self._device is not None:
                gap = self._gap(self._device, event.start, len(event.powers) * hop, event.at)
                if gap is None:
                    continue
                if gap[0]:
                    self._count(*gap)
                if self._health.state != "running":
                    self._health = replace(self._health, state="running", detail="")
                block = feature_block(event.powers, hop, self._place + gap[0], gap[0])
                self._place = block.end_sample
                yield block


def check_front_end(device: Device, takes: FeatureInput, sample_rate: int) -> None:
    """Raises BundleError when a device makes its features in another way than the ear was trained on."""
    theirs, ours = device.front_end.hex(), takes.front_end[: 2 * len(device.front_end)]
    if not device.front_end or theirs != ours or device.sample_rate != sample_rate:
        raise BundleError(
            f"{device.name} makes its features with front end {theirs or 'none'} at {device.sample_rate} Hz; this ear "
            f"was made with {takes.front_end[:16]} at {sample_rate} Hz; build its firmware from this bundle "
            "(`soundkeep-export c`), or have it send PCM"
        )
