"""Stands in for ``sounddevice`` in a capture process: hardware that the machine of the test does not have.

The environment variable VIRTUAL_PORTAUDIO holds JSON: ``devices`` (name, host_api, n_channels, sample_rate, optional
``opens_with`` channel counts), ``default`` (index), ``appears_at`` (how many initialisations until devices are listed),
``stream`` (a list of callbacks: a number is the level of a block of 0.02 s, "nan", "overflow", "end", "freeze"),
``missing`` (PortAudio itself is).
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

SETTINGS = json.loads(os.environ["VIRTUAL_PORTAUDIO"])
BLOCK_SECONDS = 0.02

if SETTINGS.get("missing"):
    raise OSError("PortAudio library not found")


class PortAudioError(Exception):
    """As in sounddevice."""


initialisations = [0]
default = SimpleNamespace(device=(SETTINGS.get("default", -1), -1))


def _initialize() -> None:
    initialisations.append(len(initialisations))


def _terminate() -> None:
    pass


def _listed() -> list[dict[str, Any]]:
    return SETTINGS["devices"] if len(initialisations) >= SETTINGS.get("appears_at", 1) else []


def query_hostapis() -> list[dict[str, str]]:
    return [{"name": name} for name in sorted({device["host_api"] for device in _listed()})]


def query_devices() -> list[dict[str, Any]]:
    host_apis = [host_api["name"] for host_api in query_hostapis()]
    return [
        {
            "name": device["name"],
            "hostapi": host_apis.index(device["host_api"]),
            "max_input_channels": device["n_channels"],
            "default_samplerate": float(device["sample_rate"]),
        }
        for device in _listed()
    ]


def check_input_settings(device: int, channels: int, dtype: str, samplerate: int) -> None:
    wanted = _listed()[device]
    if channels not in wanted.get("opens_with", [channels]) or samplerate != wanted["sample_rate"]:
        raise PortAudioError("Error opening stream: Invalid number of channels [PaErrorCode -9998]")


class RawInputStream:
    """Calls back from a thread of its own, as PortAudio does."""

    def __init__(self, *, samplerate: int, channels: int, callback: Callable[..., None], **_others: object) -> None:
        self._rate, self._n_channels, self._callback = samplerate, channels, callback
        self.active = False

    def start(self) -> None:
        self.active = True
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        n_frames = round(BLOCK_SECONDS * self._rate)
        overflowed = False
        for step in SETTINGS.get("stream", []):
            if step == "overflow":
                overflowed = True
                continue
            if step == "end":
                break
            while step == "freeze":
                time.sleep(1)
            frames = np.full((n_frames, self._n_channels), step, dtype=np.float32)
            frames[:, 1:] *= -1.0
            self._callback(frames.data, n_frames, None, SimpleNamespace(input_overflow=overflowed))
            overflowed = False
            time.sleep(BLOCK_SECONDS)
        self.active = False
