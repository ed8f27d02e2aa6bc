"""What is taught on the host is known on the emulated board, without flashing it: heads over its serial line."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge.decision import DecisionSettings
from edge.journal import Journal
from edge.learner import Learner
from edge.records import Record
from edge.space import FeatureSpace
from firmware_bridge import protocol as p
from firmware_bridge.address import parse_address
from firmware_bridge.connection import Connection
from firmware_bridge.errors import LinkError
from firmware_bridge.head_transfer import CHUNK_BYTES, seconds_on_the_line, send_head
from firmware_bridge.heads import DeviceHead, device_head
from firmware_bridge.link_events import Heard, Scored
from firmware_bridge.packet import encode_packet
from tests.edge.examples import teach
from tests.export.c.written import small_bundle, written
from tests.faults import repetitions
from tests.firmware_bridge.test_heads import OnDevice
from tests.simulators.emulated_board import Line, firmware, needs_board, running_board

pytestmark = needs_board
RATE, WINDOW, HOP = 16_000, 16_000, 4_000
DECISION = DecisionSettings(threshold=3.8, low_threshold=3.5)


def tone(hz: float, seconds: float) -> NDArray[np.int16]:
    t = np.arange(int(seconds * RATE)) / RATE
    return (9000.0 * np.sin(2 * np.pi * hz * t) * (1.0 + 0.3 * np.sin(2 * np.pi * 5.0 * t))).astype(np.int16)


def rustle(seconds: float) -> NDArray[np.int16]:
    return np.random.default_rng(1).integers(-6000, 6000, int(seconds * RATE)).astype(np.int16)


SOUNDS = {"bell": tone(2000.0, 3.0), "hum": tone(150.0, 3.0), "rustle": rustle(3.0)}


def learner(folder: Path) -> Learner:
    return Learner(Journal.open(folder, space=small_bundle().space), FeatureSpace(small_bundle().space))


def windows(sound: NDArray[np.int16]) -> NDArray[np.int16]:
    return np.lib.stride_tricks.sliding_window_view(sound, WINDOW)[::HOP]


def taught(taught_here: Learner, *labels: str) -> Learner:
    """Teach sounds as the device hears them."""
    space = small_bundle().space
    for label in labels:
        grid = written().build("int8").embed_pcm(windows(SOUNDS[label]))[1]
        teach(taught_here.journal, Record(space.sha256, label, grid))
    return learner_of(taught_here.journal)


def learner_of(journal: Journal) -> Learner:
    return Learner(journal, FeatureSpace(small_bundle().space))


def expected(made: DeviceHead, sound: NDArray[np.int16]) -> tuple[NDArray[np.float64], int]:
    """Scores and answer for one window by this machine's build of the same C."""
    here = OnDevice(made.ear, made.dim)
    assert here.load(made.data) == p.STATUS_DONE
    embedding = written().build("int8").embed_pcm(sound[None])[0]
    scores = here.scores(embedding)[0]
    return scores, here.decide(scores)


def hear(link: Connection, seconds: float) -> list[Scored | Heard]:
    until, found = time.monotonic() + seconds, []
    for event in link.events():
        if isinstance(event, Scored | Heard):
            found.append(event)
        if time.monotonic() > until:
            return found
    raise AssertionError("the link ended")


def test_a_sound_that_is_taught_here_is_known_there(tmp_path: Path) -> None:
    """One head, then another while it listens: each window is scored by one of them, to the bit, and says by which."""
    heard = np.concatenate([sound[: 8 * RATE // 5] for sound in SOUNDS.values()] * 20)
    one = taught(learner(tmp_path), "bell", "hum")
    first = device_head(one, DECISION, version=1)
    second = device_head(taught(one, "rustle"), DECISION, version=2)
    heads = {1: first, 2: second}
    elf = firmware(written().path)
    with (
        running_board(elf, heard, speed=1.0) as address,
        Connection(parse_address(address), max_events=100_000) as link,
    ):
        assert link.device.takes_heads and link.device.head_version == 0
        took = send_head(link, first)
        link.stream("adpcm")
        events = hear(link, 5.5)
        send_head(link, second)
        events += hear(link, 5.5)
        assert link.health().device["n_crc"] == 0
    scored = [event for event in events if isinstance(event, Scored)]
    versions = [event.head_version for event in scored]
    assert versions == sorted(versions) and set(versions) == {1, 2}
    answers: dict[int, set[int]] = {1: set(), 2: set()}
    said = {(e.sample, e.head_version): e.index for e in events if isinstance(e, Heard)}
    for event in scored:
        scores, answer = expected(heads[event.head_version], heard[event.sample - WINDOW : event.sample])
        assert np.array_equal(event.scores.astype(np.float32), scores.astype(np.float32))
        answers[event.head_version].add(answer)
        if answer >= 0:
            assert said[event.sample, event.head_version] == answer
    rustle = second.labels.index("rustle")
    assert -1 in answers[1] and {0, 1} <= answers[1] and rustle in answers[2]
    assert took < 2.0 and seconds_on_the_line(len(second.data), 921_600) < 2.0


@pytest.mark.faults
def test_an_update_that_is_cut_leaves_the_old_head_or_the_new_one(tmp_path: Path) -> None:
    """The line is cut at some byte of an update; whoever comes next finds one head whole, and may begin again."""
    old = device_head(taught(learner(tmp_path / "old"), "bell"), DECISION, version=1)
    new = device_head(taught(learner(tmp_path / "new"), "bell", "hum", "rustle"), DECISION, version=2)
    session, rng = 77, np.random.default_rng(3)
    sound = np.concatenate([SOUNDS["hum"], SOUNDS["bell"]] * 200)
    messages: list[Any] = [
        p.HeadBegin(session, 2, new.dim, new.n_classes, new.n_rivals, len(new.data), new.crc, new.ear)
    ]
    messages += [
        p.HeadChunk(session, 2, at, new.data[at : at + CHUNK_BYTES]) for at in range(0, len(new.data), CHUNK_BYTES)
    ]
    messages += [p.HeadCommit(session, 2)]
    stream = b"".join(encode_packet(m.TYPE, i, m.encode()) for i, m in enumerate(messages))
    cuts = sorted({len(stream) - 1, len(stream), *rng.integers(0, len(stream), repetitions(12, 300)).tolist()})
    n_old = n_new = 0
    with running_board(firmware(written().path), sound, speed=1.0, number=session) as address:
        for i, cut in enumerate(cuts):
            with Connection(parse_address(address)) as link:
                send_head(link, old)
            with Line(address) as line:
                line.send(p.HostHello(p.PROTOCOL_VERSION, 1000 + i))
                line.wait(p.DeviceHello)
                line.send_bytes(stream[:cut])
                line.read(0.1)
            with Line(address) as line:
                line.send_bytes(b"\0")
                line.send(p.HostHello(p.PROTOCOL_VERSION, 5000 + i))
                scores = line.wait(p.Scores)
                while scores.head_version == 1 and cut >= len(stream) - 1:
                    scores = line.wait(p.Scores)
                line.send(p.HeadQuery())
                state = line.wait(p.HeadState)
            assert (state.version, state.n_classes) in ((1, 1), (2, 3))
            made = new if scores.head_version == 2 else old
            n_old, n_new = n_old + (made is old), n_new + (made is new)
            assert (made is new) <= (cut >= len(stream) - 1), "before all of it has come nothing changes"
            wanted, _ = expected(made, sound[scores.sample - WINDOW : scores.sample])
            assert scores.data == wanted.astype("<f4").tobytes()
    assert n_old > 10 and n_new == 2, "the last zero is also the first of the next packet"


def test_heads_that_do_not_fit_are_refused_and_change_nothing(tmp_path: Path) -> None:
    good = device_head(taught(learner(tmp_path), "bell"), DECISION, version=5)
    elf = firmware(written().path, "-DBANK_BYTES=1024u")
    with running_board(elf) as address:
        with Connection(parse_address(address)) as link:
            assert link.device.bank_bytes == 1024
            send_head(link, good)
            three = device_head(taught(learner(tmp_path / "b"), "bell", "hum", "rustle"), DECISION, version=6)
            if len(three.data) > 1024:
                with pytest.raises(LinkError, match=rf"has {len(three.data)} bytes, and mps2-an386 has room for 1024"):
                    send_head(link, three)
        with Line(address) as line:
            line.send(p.HostHello(p.PROTOCOL_VERSION, 9))
            session = line.wait(p.DeviceHello).session
            about = (6, good.dim, 1, 0, len(good.data), good.crc)
            line.send(p.HeadBegin(session, *about, b"another!"), seq=1)
            assert line.wait(p.Ack).status == p.STATUS_OTHER_EAR
            line.send(p.HeadBegin(session, 6, good.dim, 1, 0, 2048, good.crc, good.ear), seq=2)
            assert line.wait(p.Ack).status == p.STATUS_TOO_LARGE
            line.send(p.HeadBegin(session, 6, good.dim + 1, 1, 0, 1024, good.crc, good.ear), seq=3)
            assert line.wait(p.Ack).status == p.STATUS_OTHER_EAR
            line.send(p.HeadCommit(session, 6), seq=4)
            assert line.wait(p.Ack).status == p.STATUS_NO_BEGIN
            line.send(p.HeadBegin(session, *about, good.ear), p.HeadCommit(session, 6), seq=5)
            assert [line.wait(p.Ack).status for _ in range(2)] == [p.STATUS_DONE, p.STATUS_INCOMPLETE]
            wrong = bytes([good.data[0] ^ 1]) + good.data[1:]
            line.send(p.HeadChunk(session, 6, 0, wrong), p.HeadCommit(session, 6), seq=7)
            assert [line.wait(p.Ack).status for _ in range(2)] == [p.STATUS_DONE, p.STATUS_WRONG_CRC]
            line.send(p.HeadQuery())
            state = line.wait(p.HeadState)
            assert (state.version, state.n_flips) == (5, 1)


def test_a_board_is_taught_by_itself_until_a_host_has_the_last_word(tmp_path: Path) -> None:
    """Windows of a rustle, taught to the board as a hum, are a hum there and then; the host's next head undoes that."""
    made = device_head(taught(learner(tmp_path), "bell", "hum"), DECISION, version=4)
    hum, sound = made.labels.index("hum"), np.tile(SOUNDS["rustle"], 100)
    with running_board(firmware(written().path, "-DTEACH"), sound, speed=1.0, number=77) as address:
        with Connection(parse_address(address)) as link:
            send_head(link, made)
        with Line(address) as line:
            line.send(p.HostHello(p.PROTOCOL_VERSION, 11))
            assert line.wait(p.DeviceHello).abilities == p.CAN_HEAD | p.CAN_TEACH
            line.wait(p.Scores)
            line.send(p.Teach(77, 2), p.Teach(77, hum), seq=1)
            assert [line.wait(p.Ack).status for _ in range(2)] == [p.STATUS_TOO_LARGE, p.STATUS_DONE]
            example = line.wait(p.Example)
            label = line.wait(p.DeviceLabel)
            assert (label.index, label.name, label.head_version) == (hum, b"hum", 4) and label.score >= 0.5
        window = sound[example.sample - WINDOW : example.sample]
        grid = written().build("int8").embed_pcm(window[None])[1][0]
        assert (example.head_version, example.index, example.n_name) == (4, hum, 3)
        assert example.data == b"hum" + grid.astype("<i2").tobytes()
        with Line(address) as line:
            line.send(p.HostHello(p.PROTOCOL_VERSION, 12))
            assert line.wait(p.Example) == example, "another host is told, too"
        with Connection(parse_address(address)) as link:
            send_head(link, replace(made, version=5, data=made.data[:4] + (5).to_bytes(4, "little") + made.data[8:]))
            while next(e for e in link.events() if isinstance(e, Scored)).head_version < 5:
                pass
            heard = [e for e in hear(link, 1.5) if isinstance(e, Heard)]
            assert all(e.index is None for e in heard), "what the host does not know is unknown again"


def test_without_memory_for_it_a_board_is_not_taught(tmp_path: Path) -> None:
    with running_board(firmware(written().path), SOUNDS["bell"], number=77) as address, Line(address) as line:
        line.send(p.HostHello(p.PROTOCOL_VERSION, 11), p.Teach(77, 0))
        assert line.wait(p.DeviceHello).abilities == p.CAN_HEAD
        assert line.wait(p.Ack).status == p.STATUS_UNSUPPORTED
