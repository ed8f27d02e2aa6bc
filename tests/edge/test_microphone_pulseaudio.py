"""The microphone over the real PortAudio and a private PulseAudio daemon: heard, frozen, killed, muted."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from edge.audio_stream import AudioBlock
from edge.errors import DeviceError
from edge.microphone import MicrophoneSource, list_microphones
from edge.windows import Windower
from tests.simulators.virtual_microphone import VirtualMicrophone, missing_parts

RATE = 16_000

pytestmark = pytest.mark.skipif(bool(missing_parts()), reason=f"virtual microphone: {missing_parts()}")


@pytest.fixture(scope="module")
def virtual() -> Iterator[VirtualMicrophone]:
    with VirtualMicrophone() as microphone, pytest.MonkeyPatch.context() as monkeypatch:
        for name, value in microphone.environment.items():
            monkeypatch.setenv(name, value)
        yield microphone


class Listening:
    """A source and a thread that keeps what it hears."""

    def __init__(self, source: MicrophoneSource) -> None:
        self.source = source
        self.blocks: list[AudioBlock] = []
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def __enter__(self) -> Listening:
        self.source.__enter__()
        self._thread.start()
        self.wait(lambda: bool(self.blocks), 10.0)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.source.__exit__()
        self._thread.join(timeout=2.0)

    def _listen(self) -> None:
        for block in self.source:
            self.blocks.append(block)

    def wait(self, condition: object, seconds: float) -> float:
        """Wait until ``condition()``; return how long that took. Fails after ``seconds``."""
        assert callable(condition)
        began = time.monotonic()
        while not condition():
            assert time.monotonic() - began < seconds, f"not within {seconds} s; {self.source.health()}"
            time.sleep(0.01)
        return time.monotonic() - began

    def wait_for_state(self, state: str, seconds: float) -> float:
        return self.wait(lambda: self.source.health().state == state, seconds)

    def wait_for_sound(self, seconds: float) -> float:
        n_before = len(self.blocks)
        return self.wait(lambda: len(self.blocks) > n_before, seconds)

    def assert_tiled_without_a_window_over_a_gap(self) -> None:
        windower, end, gaps = Windower(1600, 400), 0, []
        for block in list(self.blocks):
            assert block.start_sample == end + block.n_lost
            end = block.end_sample
            if block.n_lost:
                gaps.append(block.start_sample)
            for window in windower.push(block):
                assert not any(window.start_sample < gap < window.start_sample + 1600 for gap in gaps)
        assert windower.n_gaps == len(gaps)


def noise(seconds: float) -> NDArray[np.float32]:
    """Noise below 2 kHz: a shift by a part of a sample, as resampling brings, hardly changes it."""
    n = round(seconds * RATE)
    spectrum = np.fft.rfft(np.random.default_rng(0).standard_normal(n))
    spectrum[n * 2_000 // RATE :] = 0.0
    return (0.3 * np.fft.irfft(spectrum, n)).astype(np.float32)


def best_correlation(heard: NDArray[np.float32], played: NDArray[np.float32]) -> float:
    """Largest normalised correlation of ``played`` with any equally long stretch of ``heard``."""
    n = len(heard) + len(played)
    products = np.fft.irfft(np.fft.rfft(heard, n) * np.conj(np.fft.rfft(played, n)), n)[: len(heard) - len(played)]
    place = int(np.argmax(products))
    stretch = heard[place : place + len(played)]
    return float(np.corrcoef(stretch, played)[0, 1])


def test_what_is_played_is_heard(virtual: VirtualMicrophone) -> None:
    assert "vmic [ALSA]" in list_microphones()
    played = noise(2.0)
    with Listening(MicrophoneSource(RATE, device="VMIC")) as listening:
        assert listening.source.health().detail.startswith("vmic [ALSA] at ")
        correlation = 0.0
        for _ in range(6):  # on a busy machine the player may stutter, which is none of the source's doing
            before = len(listening.blocks)
            virtual.play(played)
            time.sleep(3.0)
            heard = np.concatenate([block.samples for block in list(listening.blocks)[before:]])
            correlation = best_correlation(heard, played[800:-800])
            if correlation > 0.99:
                break
        assert correlation > 0.99
        assert listening.source.health().n_lost == 0
        listening.assert_tiled_without_a_window_over_a_gap()


def test_a_frozen_sound_server_is_noticed_and_survived(virtual: VirtualMicrophone) -> None:
    with Listening(MicrophoneSource(RATE, device="vmic")) as listening:
        virtual.freeze()
        assert listening.wait_for_state("waiting", 4.0) < 2.0
        time.sleep(0.5)
        virtual.thaw()
        assert listening.wait_for_sound(10.0) < 5.0
        health = listening.source.health()
        assert health.n_reopened == 1
        assert health.n_lost > 1.0 * RATE
        listening.assert_tiled_without_a_window_over_a_gap()


def test_a_muted_microphone_is_called_silent_and_not_reopened(virtual: VirtualMicrophone) -> None:
    with Listening(MicrophoneSource(RATE)) as listening:
        virtual.play(noise(8.0))
        listening.wait(lambda: bool(listening.blocks[-1].samples.any()), 4.0)
        virtual.mute(True)
        assert 2.5 < listening.wait_for_state("silent", 6.0) < 5.0
        assert "muted?" in listening.source.health().detail
        virtual.mute(False)
        listening.wait_for_state("running", 4.0)
        assert listening.source.health().n_reopened == 0
        assert listening.source.health().n_lost == 0


def test_a_missing_device_is_one_sentence_with_the_choices(virtual: VirtualMicrophone) -> None:
    source = MicrophoneSource(RATE, device="webcam")
    with pytest.raises(DeviceError, match=r"no microphone is called 'webcam'; there are: .*'vmic \[ALSA\]'"), source:
        pass
    with pytest.raises(DeviceError, match="'ul' means 2 microphones"), MicrophoneSource(RATE, device="ul"):
        pass


def test_a_killed_sound_server_is_noticed_and_its_successor_heard(virtual: VirtualMicrophone) -> None:
    with Listening(MicrophoneSource(RATE, device="vmic")) as listening:
        virtual.kill()
        assert listening.wait_for_state("waiting", 4.0) < 2.0
        time.sleep(1.0)
        virtual.start()
        assert listening.wait_for_sound(10.0) < 5.0
        played = noise(1.0)
        virtual.play(played)
        n_before = len(listening.blocks)
        time.sleep(2.0)
        heard = np.concatenate([block.samples for block in listening.blocks[n_before:]])
        assert best_correlation(heard, played[800:-800]) > 0.99
        listening.assert_tiled_without_a_window_over_a_gap()
