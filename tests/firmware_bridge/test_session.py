"""The host's side of a link without I/O: who is greeted, what is refused, what is asked again, what is counted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_bridge import protocol as p
from firmware_bridge.control import MAX_TRIES, MAX_WAITING, ControlWindow, Outcome
from firmware_bridge.errors import LinkError
from firmware_bridge.link_events import Banks, Frames, Greeted, Heard, Said, Scored, Sound
from firmware_bridge.message import Message
from firmware_bridge.packet import Decoder, encode_packet
from firmware_bridge.session import Expected, HostSession, powers_of
from firmware_bridge.simulator import SimulatedDevice, logs_of


def packet(message: Message, seq: int = 0) -> bytes:
    return encode_packet(message.TYPE, seq, message.encode())


def hello(**changes: Any) -> bytes:
    about: dict[str, Any] = {
        "version": p.PROTOCOL_VERSION, "session": 5, "sample_rate": 16_000, "formats": 7, "abilities": 1, "block": 320,
        "head_version": 0, "bank_bytes": 0, "ear": bytes(8), "front_end": bytes(8), "name": b"board",
    }  # fmt: skip
    return packet(p.DeviceHello(**{**about, **changes}))


def greeted(**changes: Any) -> HostSession:
    session = HostSession()
    (event,) = session.receive(hello(**changes), 0.0)
    assert isinstance(event, Greeted) and not event.restarted
    return session


def sound(sample: int, n: int = 4) -> bytes:
    return packet(p.Pcm(sample & 0xFFFFFFFF, np.arange(n, dtype="<i2").tobytes()))


# ---- greeting -------------------------------------------------------------------------------------------------------


def test_it_greets_every_half_second_until_it_is_answered() -> None:
    session = HostSession()
    n = sum((session.tick(0.1 * i), len(session.outgoing()))[1] for i in range(20))
    assert n == 4
    session.receive(hello(), 2.0)
    assert session.device is not None and session.device.name == "board"
    session.tick(2.1)
    kinds = {packet.type for data in session.outgoing() for packet in Decoder().feed(data)}
    assert kinds == {p.TimeQuery.TYPE, p.StatusQuery.TYPE}


def test_nothing_counts_before_the_greeting() -> None:
    session = HostSession()
    assert session.receive(sound(0), 0.0) == []


def test_another_version_is_refused_by_name_and_not_asked_again() -> None:
    session = HostSession()
    with pytest.raises(LinkError, match=r"board speaks version 9 of the protocol, this soundkeep version 1; build"):
        session.receive(hello(version=9), 0.0)
    assert session.refused and session.device is None
    session.tick(10.0)
    assert session.outgoing() == [] and session.receive(hello(), 11.0) == []


@pytest.mark.parametrize("ear", [bytes(8), b"12345678"])
def test_another_ear_is_refused_by_name(ear: bytes) -> None:
    session = HostSession(Expected(b"abcdefgh", "kitchen"))
    with pytest.raises(LinkError, match=r"was built with ear .* and the bundle in use is kitchen"):
        session.receive(hello(ear=ear), 0.0)


def test_the_ear_that_is_expected_is_taken_and_without_expectation_any_is() -> None:
    assert HostSession(Expected(b"abcdefgh", "kitchen")).receive(hello(ear=b"abcdefgh"), 0.0)
    assert HostSession().receive(hello(ear=b"12345678"), 0.0)


def test_a_rate_that_is_none_is_refused() -> None:
    with pytest.raises(LinkError, match="0 Hz"):
        HostSession().receive(hello(sample_rate=0), 0.0)


def test_the_same_session_greeting_twice_is_no_restart_and_another_one_is() -> None:
    session = greeted()
    assert session.receive(hello(), 1.0) == []
    (event,) = session.receive(hello(session=6), 2.0)
    assert isinstance(event, Greeted) and event.restarted


@pytest.mark.parametrize(
    ("data", "words"),
    [(b"", "says nothing"), (bytes(range(1, 255)) * 4 + b"\0", "baud rate"), (sound(0), "restart the device")],
)
def test_why_there_was_no_greeting(data: bytes, words: str) -> None:
    session = HostSession()
    session.receive(data, 0.0)
    assert words in session.why_no_greeting("serial:x@1")


# ---- sound ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(1, 300), st.booleans()), max_size=40), st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_the_counter_goes_on_over_losses_and_over_its_32_bits(blocks: list[tuple[int, bool]], first: int) -> None:
    session, place = greeted(), first
    for n, lost in blocks:
        if not lost:
            (event,) = session.receive(sound(place, n), 0.0)
            assert isinstance(event, Sound)
            assert (event.start - first) % 2**32 == (place - first) % 2**32 and event.start >= 0
            if session.health().n_late == 0:
                assert len(event.samples) == n
        place += n


def test_what_comes_twice_or_late_is_counted_and_left_out() -> None:
    session = greeted()
    assert len(session.receive(sound(0) + sound(4), 0.0)) == 2
    assert session.receive(sound(0) + sound(4) + sound(2), 0.0) == []
    assert session.health().n_late == 3
    assert len(session.receive(sound(8), 0.0)) == 1


@given(st.integers(-(2**31) + 400, 2**31 - 400))
def test_the_nearest_place_wins_when_the_counter_wraps(jump: int) -> None:
    session = greeted()
    session.receive(sound(0xFFFFFF00, 4), 0.0)
    events = session.receive(sound(0xFFFFFF04 + jump, 4), 0.0)
    assert len(events) == (jump >= 0)
    if events:
        assert isinstance(events[0], Sound) and events[0].start == 0xFFFFFF04 + jump


@given(st.lists(st.binary(max_size=40), max_size=20), st.data())
@settings(max_examples=60, deadline=None)
def test_any_bytes_and_any_payload_are_counted_and_cost_no_fault(junk: list[bytes], data: st.DataObject) -> None:
    """Whole packets with nonsense in them, and bytes that are no packets at all."""
    session = greeted()
    for piece in junk:
        kind = data.draw(st.integers(0, 255).filter(lambda k: k != p.DeviceHello.TYPE))
        session.receive(piece + encode_packet(kind, 0, piece), 0.0)
        session.tick(0.0)
    health = session.health()
    assert health.n_good >= 1 and health.n_good + health.n_malformed + health.n_unknown >= len(junk)


@given(st.lists(st.integers(-32768, 32767), min_size=2, max_size=8))
def test_logarithms_of_powers_read_back_as_they_were_written(logs: list[int]) -> None:
    array = np.array(logs, dtype=np.int16).clip(-12800, 12800)
    np.testing.assert_array_equal(logs_of(powers_of(array)), array)


def test_features_labels_and_sentences_come_out() -> None:
    session = greeted()
    logs = np.array([[-256, 0, 256], [-32768, 0, 0]], dtype="<i2")
    events = session.receive(
        packet(p.Features(0, 3, 2, logs.tobytes()))
        + packet(p.DeviceLabel(400, 3, -1, 0.5, b""))
        + packet(p.DeviceLabel(800, 3, 1, 4.5, "Tür".encode()))
        + packet(p.Scores(800, 3, np.array([0.5, 4.5], dtype="<f4").tobytes()))
        + packet(p.HeadState(3, 2, 0, 1, 4, 9))
        + packet(p.Log("wärmer".encode())),
        0.0,
    )
    assert isinstance(events[0], Frames) and events[0].powers.tolist() == [[0.5, 1.0, 2.0], [0.0, 1.0, 1.0]]
    assert events[1:3] == [Heard(400, 3, None, 0.5), Heard(800, 3, 1, 4.5, "Tür")]
    assert isinstance(events[3], Scored) and events[3].scores.tolist() == [0.5, 4.5]
    assert events[4:] == [Banks(3, 2, 1, 4, 9), Said("wärmer")]


# ---- control --------------------------------------------------------------------------------------------------------


class LossyPair:
    """A host's session and a simulated device with a link between them that loses what it is told to."""

    def __init__(self, loss: float, seed: int) -> None:
        self.device = SimulatedDevice(16_000, session=5)
        self.host = HostSession()
        self.rng = np.random.default_rng(seed)
        self.loss = loss
        self.outcomes: list[Outcome] = []
        self.now = 0.0
        self.host.receive(hello(), 0.0)

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until:
            events = self.host.tick(self.now)
            for data in self.host.outgoing():
                if self.rng.random() >= self.loss:
                    self.device.receive(data)
            answer = self.device.outgoing()
            if self.rng.random() >= self.loss:
                events += self.host.receive(answer, self.now)
            self.outcomes += [event for event in events if isinstance(event, Outcome)]
            self.now += 0.05


@given(st.integers(0, 2**32), st.floats(0.0, 0.4))
@settings(max_examples=30, deadline=None)
def test_a_command_is_done_once_or_known_to_have_failed_whatever_the_link_loses(seed: int, loss: float) -> None:
    pair = LossyPair(loss, seed)
    tickets = [pair.host.label(f"n{i}", 1.0, begins=True) for i in range(12)]
    pair.run(30.0)
    assert sorted(o.ticket for o in pair.outcomes) == tickets
    names = pair.device.played.labels
    assert len(names) == len(set(names)), "a copy was done again"
    done = {f"n{o.ticket - 1}" for o in pair.outcomes if o.done}
    assert done <= set(names)
    if loss == 0.0:
        assert names == [f"n{i}" for i in range(12)] and pair.host.health().n_retries == 0


def test_without_retries_one_lost_packet_is_a_lost_command() -> None:
    """Switched off."""
    window = ControlWindow(lambda seq, kind, payload: payload, max_tries=1)
    ticket = window.ask(1, b"x")
    assert window.due(0.0) == ([b"x"], [])
    assert window.due(5.0) == ([], [Outcome(ticket, None)])


def test_without_memory_of_what_was_done_a_lost_acknowledgement_does_it_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Switched off: the device forgets every command at once, and no acknowledgement gets through."""
    for remembered, wanted in ((32, ["bell"]), (0, ["bell", "bell"])):
        monkeypatch.setattr("firmware_bridge.simulator.MAX_REMEMBERED", remembered)
        device, host = SimulatedDevice(16_000, session=5), greeted()
        host.label("bell", 1.0, begins=True)
        for now in (0.0, 0.5):
            host.tick(now)
            for data in host.outgoing():
                device.receive(data)
        assert device.played.labels == wanted


def test_four_are_under_way_at_a_time_and_waiting_is_bounded() -> None:
    window = ControlWindow(lambda seq, kind, payload: bytes([seq]))
    for _ in range(MAX_WAITING):
        window.ask(1, b"")
    with pytest.raises(LinkError, match="wait for the device already"):
        window.ask(1, b"")
    assert window.due(0.0)[0] == [b"\0", b"\1", b"\2", b"\3"] and window.due(0.1)[0] == []
    assert window.acknowledged(2, 0) == Outcome(3, 0)
    assert window.due(0.1)[0] == [b"\4"]
    assert window.acknowledged(2, 0) is None and window.n_late_acks == 1


def test_a_device_that_never_acknowledges_is_given_up_after_three_retries() -> None:
    window = ControlWindow(lambda seq, kind, payload: b"x")
    ticket, n_sent, lost = window.ask(1, b""), 0, []
    for i in range(100):
        packets, gone = window.due(0.1 * i)
        n_sent, lost = n_sent + len(packets), lost + gone
    assert n_sent == MAX_TRIES and lost == [Outcome(ticket, None)]


def test_a_device_that_refuses_to_send_is_heard_of() -> None:
    session = greeted()
    session.stream("adpcm")
    session.tick(0.1)
    events = session.receive(packet(p.Ack(5, 0, p.STATUS_UNSUPPORTED)), 0.1)
    assert events[1] == Said("board refuses to send adpcm (9)")


def test_a_refusal_comes_back_with_its_number_and_a_restart_fails_what_was_asked() -> None:
    session = greeted()
    ticket = session.label("bell", 1.0, begins=True)
    session.tick(0.1)
    session.outgoing()
    assert session.receive(packet(p.Ack(4, 0, 0)), 0.1) == [], "an acknowledgement of another session"
    (outcome,) = session.receive(packet(p.Ack(5, 0, p.STATUS_UNSUPPORTED)), 0.1)
    assert outcome == Outcome(ticket, p.STATUS_UNSUPPORTED) and not outcome.done
    other = session.label("hum", 1.0, begins=True)
    events = session.receive(hello(session=6), 0.2)
    assert events[0] == Outcome(other, None) and isinstance(events[1], Greeted)
