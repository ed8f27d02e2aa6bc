"""A device as a source: every sample where it belongs, every lost one counted, whatever the link does meanwhile."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge.audio_stream import AudioBlock, Timeline
from edge.errors import BundleError
from edge.feature_input import FeatureInput
from edge.windows import Windower
from firmware_bridge.address import parse_address
from firmware_bridge.adpcm import decode_block, encode_block
from firmware_bridge.connection import Connection
from firmware_bridge.dialling import Backoff
from firmware_bridge.errors import LinkError
from firmware_bridge.feature_windows import FeatureBlock, FeatureWindower
from firmware_bridge.front_end import FRONT_END, FrontEnd
from firmware_bridge.simulator import Faults, Simulation
from firmware_bridge.sources import FeatureSource, McuSource
from tests.faults import repetitions
from tests.simulators.device_process import free_port, simulated_device

RATE = 16_000
QUICK = Backoff(first_s=0.02, max_s=0.1)


def sound(seconds: float, seed: int = 0) -> NDArray[np.int16]:
    """Noise without a zero, so that silence after it is told from it."""
    x = np.random.default_rng(seed).integers(1, 20_000, round(seconds * RATE)).astype(np.int16)
    x[::2] *= -1
    return x


def connection(simulation: Simulation, **options: Any) -> Connection:
    return Connection(parse_address(simulation.where), backoff=Backoff(0.02, 0.1), **options)


def heard_until(
    source: McuSource | FeatureSource, end: int, *, seconds: float = 20.0, stream: Iterator[Any] | None = None
) -> list[Any]:
    """Blocks up to place ``end``, of a stream that has begun or anew. One that stops fails here, without a hang."""
    blocks: list[Any] = []
    guard = threading.Timer(seconds, source.__exit__)
    guard.start()
    try:
        for block in iter(source) if stream is None else stream:
            blocks.append(block)
            if block.end_sample >= end:
                return blocks
    finally:
        guard.cancel()
    raise AssertionError(f"came to {blocks[-1].end_sample if blocks else 0} of {end} in {seconds} s")


def check_tiles(blocks: list[AudioBlock]) -> int:
    """The timeline's law; returns how many samples were lost."""
    end = 0
    for block in blocks:
        assert block.start_sample == end + block.n_lost
        end = block.end_sample
    return sum(block.n_lost for block in blocks)


def pcm(block: AudioBlock) -> NDArray[np.int16]:
    return np.rint(block.samples * 32768.0).astype(np.int16)


# ---- sound ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tcp", "udp", "serial"])
def test_pcm_comes_over_to_the_bit(kind: str) -> None:
    x = sound(3.0)
    port = free_port(socket.SOCK_DGRAM)
    address = {"tcp": None, "udp": f"udp:127.0.0.1:{port}", "serial": "pty"}[kind]
    if kind == "serial":
        pytest.importorskip("serial")
    with simulated_device(x, address=address, speed=2.0) as simulation:
        link = Connection(parse_address(f"udp:{port}")) if kind == "udp" else connection(simulation)
        with McuSource(link, RATE) as source:
            blocks = heard_until(source, len(x))
            assert check_tiles(blocks) == 0 and source.health().n_lost == 0
            assert source.health().state == "running" and "simulated device" in source.health().detail
        np.testing.assert_array_equal(np.concatenate([pcm(b) for b in blocks])[: len(x)], x)
        assert source.health().state == "ended"


@pytest.mark.faults
def test_a_minute_of_pcm_over_tcp_is_exact_and_with_losses_every_gap_is_counted() -> None:
    seconds = repetitions(20, 60)
    x = sound(seconds)
    for faults in (Faults(), Faults(loss=0.02), Faults(flip=2e-5)):
        with simulated_device(x, speed=repetitions(20, 30), faults=faults) as simulation:
            link = connection(simulation)
            with McuSource(link, RATE) as source:
                blocks = heard_until(source, len(x), seconds=60.0)
            n_lost = check_tiles(blocks)
            for block in blocks:
                end = min(block.end_sample, len(x))
                np.testing.assert_array_equal(pcm(block)[: end - block.start_sample], x[block.start_sample : end])
            assert source.health().n_lost == n_lost
            health = link.health()
            assert health.n_late == 0 and health.n_dropped == 0
            if faults == Faults():
                assert n_lost == 0 and health.n_crc == health.n_malformed == 0
            elif faults.flip:
                assert n_lost > 0 and n_lost % 320 == 0 and health.n_crc + health.n_malformed >= n_lost // 320 // 2
            else:
                dice = np.random.default_rng(faults.seed).random(blocks[-1].end_sample // 320) < faults.loss
                assert n_lost == 320 * dice.sum() > 0, "the blocks that the device's dice chose, and no other"


def test_adpcm_is_what_the_coder_makes_of_each_block_and_a_lost_block_spoils_no_other() -> None:
    x = (8000 * np.sin(np.arange(2 * RATE) / 7.0)).astype(np.int16)
    wanted, state = [], (0, 0)
    for begin in range(0, len(x), 320):
        data, *rest = encode_block(x[begin : begin + 320], *state)
        state = (rest[0], rest[1])
        wanted.append(decode_block(data))
    made = np.concatenate(wanted)
    with simulated_device(x, faults=Faults(loss=0.1, seed=4)) as simulation:
        with McuSource(connection(simulation), RATE, format="adpcm") as source:
            blocks = heard_until(source, len(x))
        assert check_tiles(blocks) > 0
        for block in blocks:
            end = min(block.end_sample, len(x))
            np.testing.assert_array_equal(pcm(block)[: end - block.start_sample], made[block.start_sample : end])
    assert np.sqrt(np.mean((made - x.astype(float)) ** 2)) < 0.03 * 8000


def test_another_rate_is_resampled_on_the_timeline_and_a_gap_keeps_its_length() -> None:
    x = sound(2.0)
    with simulated_device(x, faults=Faults(loss=0.05, seed=1)) as simulation:
        with McuSource(connection(simulation), 8000) as source:
            blocks = heard_until(source, len(x) // 2)
        n_lost = check_tiles(blocks)
    assert n_lost and n_lost % 160 == 0 and n_lost == source.health().n_lost
    whole = Timeline(8000)
    whole.begin(RATE)
    first = blocks[0]
    reference = np.concatenate([b.samples for b in whole.push(x.astype(np.float32) / np.float32(32768.0))])
    np.testing.assert_array_equal(first.samples, reference[: len(first.samples)])


def test_windows_span_no_gap_and_without_the_counter_they_would() -> None:
    x = sound(3.0)
    with (
        simulated_device(x, faults=Faults(loss=0.05, seed=2)) as simulation,
        McuSource(connection(simulation), RATE) as source,
    ):
        blocks = heard_until(source, len(x))
    windower, blind = Windower(1600, 800), Windower(1600, 800)
    windows = [w for b in blocks for w in windower.push(b) if w.start_sample + 1600 <= len(x)]
    for window in windows:
        at = window.start_sample
        np.testing.assert_array_equal(np.rint(window.samples * 32768.0), x[at : at + 1600])
    place, wrong = 0, 0
    for block in blocks:  # switched off: blocks one behind the other, as if nothing was lost
        for window in blind.push(AudioBlock(block.samples, place)):
            at = window.start_sample
            wrong += at + 1600 <= len(x) and not np.array_equal(np.rint(window.samples * 32768.0), x[at : at + 1600])
        place += len(block.samples)
    assert windows and windower.n_gaps > 0 and wrong > 0


# ---- devices that hang, go and come back ----------------------------------------------------------------------------


def test_a_pause_on_the_line_is_a_gap_of_its_length() -> None:
    x = sound(6.0)
    with simulated_device(x, speed=4.0, faults=Faults(pause_s=2.0)) as simulation:
        with McuSource(connection(simulation), RATE) as source:
            blocks = heard_until(source, len(x))
            health = source.health()
        assert check_tiles(blocks) == health.n_lost == simulation.device.played.n_lost
        assert health.n_lost == pytest.approx(2 * RATE, abs=0.3 * RATE)
    for block in blocks:
        end = min(block.end_sample, len(x))
        np.testing.assert_array_equal(pcm(block)[: end - block.start_sample], x[block.start_sample : end])


def test_a_restart_is_a_gap_and_a_new_stretch_and_sound_is_asked_for_again() -> None:
    x = sound(30.0)
    with (
        simulated_device(x, speed=1.0, faults=Faults(restart_s=1.0)) as simulation,
        McuSource(connection(simulation), RATE) as source,
    ):
        blocks = heard_until(source, 2 * RATE)
        health = source.health()
    assert check_tiles(blocks) == health.n_lost == health.n_away > 0
    assert health.n_reopened == 1
    assert health.n_away < RATE, "the time that passed, not what the new counter says"
    (gap,) = [i for i, block in enumerate(blocks) if block.n_lost]
    after = np.concatenate([pcm(b) for b in blocks[gap:]])
    begin = len(x) - len(np.trim_zeros(x, "f"))
    at = next(i for i in range(begin, 3 * RATE) if np.array_equal(x[i : i + 320], after[:320]))
    np.testing.assert_array_equal(after, x[at : at + len(after)])


def test_a_device_that_disappears_in_mid_packet_is_dialled_again_and_the_gap_is_exact() -> None:
    """Its counter ran on, so what was missed is known to the sample."""
    x = sound(20.0)
    with simulated_device(x, speed=2.0) as simulation:
        link = connection(simulation)
        with McuSource(link, RATE) as source:
            stream = iter(source)
            first = heard_until(source, RATE, stream=stream)
            transport = simulation._transport
            assert transport is not None
            transport.write(b"\0\x21half of a packet")
            transport.close()
            rest = heard_until(source, 3 * RATE, stream=stream)
            health = source.health()
    assert check_tiles(first + rest) == health.n_lost == health.n_away
    for block in first + rest:
        np.testing.assert_array_equal(pcm(block), x[block.start_sample : block.end_sample])


def test_a_link_whose_device_is_gone_waits_and_says_why_and_leaving_ends_it() -> None:
    with ExitStack() as stack:
        simulation = stack.enter_context(simulated_device(sound(1.0)))
        source = stack.enter_context(McuSource(connection(simulation), RATE))
        heard_until(source, RATE)
        ended = threading.Event()
        thread = threading.Thread(target=lambda: (list(source), ended.set()), daemon=True)
        thread.start()
        simulation.stop()
        until = time.monotonic() + 5.0
        while source.health().state != "waiting" and time.monotonic() < until:
            time.sleep(0.02)
        assert source.health().state == "waiting" and source.health().detail
        source.__exit__()
        assert ended.wait(1.5)


def test_a_flood_is_bounded_and_what_it_drops_is_counted() -> None:
    """The device sends a minute in a second and nobody takes it; then somebody does."""
    x = sound(60.0)
    with simulated_device(x, speed=200.0) as simulation:
        link = connection(simulation, max_events=50)
        with McuSource(link, RATE) as source:
            time.sleep(1.0)
            assert link._events.qsize() <= 50
            blocks = heard_until(source, len(x))
        assert check_tiles(blocks) == source.health().n_lost > 0
        assert link.health().n_dropped > 0
        for block in blocks:
            end = min(block.end_sample, len(x))
            np.testing.assert_array_equal(pcm(block)[: end - block.start_sample], x[block.start_sample : end])


def test_zeros_for_long_are_told_as_silence() -> None:
    with (
        simulated_device(np.zeros(0, dtype=np.int16)) as simulation,
        McuSource(connection(simulation), RATE) as source,
    ):
        heard_until(source, 4 * RATE)
        assert source.health().state == "silent" and "microphone" in source.health().detail


# ---- refusals at the door -------------------------------------------------------------------------------------------


@contextmanager
def talker(data: bytes, *, every_s: float = 0.02) -> Iterator[str]:
    """A port on which somebody says the same thing over and over."""
    listener = socket.create_server(("127.0.0.1", 0))
    stopped = threading.Event()

    def talk() -> None:
        listener.settimeout(0.1)
        while not stopped.is_set():
            try:
                client, _ = listener.accept()
                while not stopped.is_set():
                    client.sendall(data)
                    time.sleep(every_s)
            except OSError:
                continue

    thread = threading.Thread(target=talk, daemon=True)
    thread.start()
    try:
        yield f"tcp:127.0.0.1:{listener.getsockname()[1]}"
    finally:
        stopped.set()
        thread.join(2.0)
        listener.close()


@pytest.mark.parametrize(
    ("data", "words"),
    [(bytes(np.random.default_rng(0).integers(0, 256, 2000, dtype=np.uint8)), "baud rate"), (b"", "says nothing")],
)
def test_garbage_and_silence_are_a_sentence_in_time(data: bytes, words: str) -> None:
    with talker(data) as address:
        began = time.monotonic()
        link = Connection(parse_address(address), greeting_seconds=0.6)
        with pytest.raises(LinkError, match=words), McuSource(link, RATE):
            pass
        assert time.monotonic() - began < 3.0


def test_a_device_that_hangs_up_at_once_is_a_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            while True:
                try:
                    listener.accept()[0].close()
                except OSError:
                    return

        threading.Thread(target=hang_up, daemon=True).start()
        link = Connection(parse_address(f"tcp:127.0.0.1:{listener.getsockname()[1]}"))
        with pytest.raises(LinkError, match="before it said who it is"), link:
            pass
        listener.shutdown(socket.SHUT_RDWR)


def test_another_version_and_a_format_that_it_does_not_send_are_refused() -> None:
    with (
        simulated_device(sound(1.0), version=9) as simulation,
        pytest.raises(LinkError, match="version 9"),
        McuSource(connection(simulation), RATE),
    ):
        pass
    with (
        simulated_device(sound(1.0)) as simulation,
        pytest.raises(LinkError, match="wanted log_mel"),
        McuSource(connection(simulation), RATE, format="log_mel"),
    ):
        pass


def test_a_device_may_be_waited_for() -> None:
    port = free_port()
    link = Connection(parse_address(f"tcp:127.0.0.1:{port}"), wait_for_device=True, backoff=Backoff(0.02, 0.1))
    with McuSource(link, RATE) as source:
        assert source.health().state == "waiting"
        x = sound(1.0)
        with simulated_device(x, address=f"tcp:127.0.0.1:{port}"):
            assert check_tiles(heard_until(source, len(x))) == 0


# ---- features -------------------------------------------------------------------------------------------------------

TAKES = FeatureInput("band_powers", 64, 98, 400, 160, FRONT_END)


def test_features_come_over_as_the_front_end_makes_them_and_gaps_are_counted() -> None:
    x = sound(4.0)
    wanted = FrontEnd()(x)
    about = {"features": FrontEnd(), "front_end": bytes.fromhex(FRONT_END)[:8]}
    with (
        simulated_device(x, faults=Faults(loss=0.05, seed=5), **about) as simulation,
        FeatureSource(connection(simulation), RATE, TAKES) as source,
    ):
        blocks = heard_until(source, len(x) - 400)
    lost = check_tiles(blocks)
    assert lost > 0 and lost % 160 == 0 and source.health().n_lost == lost
    windower = FeatureWindower(TAKES, 4000)
    windows = [w for b in blocks for w in windower.push(b)]
    assert windower.n_gaps == sum(b.n_lost > 0 for b in blocks)
    for block in blocks:
        assert isinstance(block, FeatureBlock)
        frame = block.start_sample // 160
        n = min(len(block.powers), len(wanted) - frame)
        np.testing.assert_allclose(block.powers[:n], wanted[frame : frame + n], rtol=0.0014)
    assert len(windows) < 13


def test_another_front_end_is_refused_by_name() -> None:
    with (
        simulated_device(sound(1.0), features=FrontEnd(), front_end=b"12345678") as simulation,
        pytest.raises(BundleError, match=r"front end 3132333435363738.*this ear was made with 678f6231"),
        FeatureSource(connection(simulation), RATE, TAKES),
    ):
        pass
