"""Packets against independent references: the cobs package, zlib, and vectors that were made in the plainest way."""

from __future__ import annotations

import json
import random
import struct
import zlib
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_bridge import generate, protocol
from firmware_bridge.packet import MAX_STUFFED, Decoder, Packet, encode_packet, stuff, unstuff
from tests.faults import repetitions

VECTORS = json.loads((Path(__file__).parent / "vectors.json").read_text())
EDGES = [n for base in (0, 254, 508, 762, 1016) for n in range(max(0, base - 2), base + 3)]


def test_everything_generated_is_what_the_table_says(capsys: pytest.CaptureFixture[str]) -> None:
    assert generate.main(["--check"]) == 0, capsys.readouterr().out


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: v["message"])
def test_the_vectors_are_written_and_read(vector: dict[str, object]) -> None:
    kind = getattr(protocol, str(vector["message"]))
    values = vector["values"]
    assert isinstance(values, dict)
    typed = {name: bytes.fromhex(value) if isinstance(value, str) else value for name, value in values.items()}
    message, packet = kind(**typed), bytes.fromhex(str(vector["packet"]))
    seq = int(str(vector["seq"]))
    assert encode_packet(kind.TYPE, seq, message.encode()) == packet
    assert Decoder().feed(packet) == [Packet(kind.TYPE, seq, message.encode())]
    assert kind.decode(message.encode()) == message and protocol.MESSAGES[kind.TYPE] is kind
    n_fixed = struct.calcsize(kind.FIXED)
    for wrong in [message.encode()[: n_fixed - 1]] * (n_fixed > 0) + [message.encode() + b"x"] * (typed == {}):
        with pytest.raises(ValueError, match="wanted"):
            kind.decode(wrong)


@given(
    data=st.binary(max_size=1100) | st.builds(lambda n, b: bytes([b]) * n, st.integers(0, 1100), st.integers(0, 255))
)
def test_stuffing_is_that_of_the_cobs_package(data: bytes) -> None:
    cobs = pytest.importorskip("cobs.cobs", reason="needs the cobs package, an independent reference")
    assert stuff(data) == cobs.encode(data) and b"\0" not in stuff(data)
    assert unstuff(stuff(data)) == data


@pytest.mark.parametrize("n", EDGES)
@pytest.mark.parametrize("end", [b"", b"\0", b"\0\0", b"\x01"])
def test_the_edges_of_full_blocks(n: int, end: bytes) -> None:
    for begin in (b"", b"\0", b"\x07\0"):
        data = begin + bytes(1 + i % 255 for i in range(n)) + end
        assert unstuff(stuff(data)) == data and len(stuff(data)) <= len(data) + 1 + len(data) // 254


@given(data=st.binary(min_size=1, max_size=600).map(lambda b: b.replace(b"\0", b"\x01")))
def test_whatever_comes_is_refused_or_undone(data: bytes) -> None:
    raw = unstuff(data)
    assert raw is None or len(raw) < len(data)


def test_limits() -> None:
    assert len(encode_packet(1, 0, bytes(1024))) - 2 <= MAX_STUFFED
    largest = max(len(stuff(bytes([b]) * 1034)) for b in (0, 1, 255))
    assert largest <= MAX_STUFFED
    with pytest.raises(ValueError, match="at most 1024"):
        encode_packet(1, 0, bytes(1025))
    with pytest.raises(ValueError, match="cannot be sent"):
        protocol.Start(2**32, 1).encode()
    with pytest.raises(ValueError, match="at most 1024"):
        protocol.Probe(bytes(1025)).encode()
    decoder = Decoder()
    assert decoder.feed(b"\x01" * 10**6) == [] and len(decoder._begun) <= MAX_STUFFED
    assert decoder.feed(b"\0") == [] and decoder.n_oversized == 1
    assert len(decoder.feed(encode_packet(9, 1, b"x"))) == 1


@given(
    payloads=st.lists(st.binary(max_size=60), max_size=6),
    cuts=st.lists(st.integers(0, 500), max_size=8),
)
def test_packets_are_found_however_the_bytes_are_cut(payloads: list[bytes], cuts: list[int]) -> None:
    line = b"".join(encode_packet(i, i, payload) for i, payload in enumerate(payloads))
    places = sorted({0, len(line), *(cut for cut in cuts if cut <= len(line))})
    decoder, found = Decoder(), []
    for start, end in pairwise(places):
        found += decoder.feed(line[start:end])
    assert [packet.payload for packet in found] == payloads and decoder.n_good == len(payloads)


def damaged(rng: random.Random, packet: bytes) -> bytes:
    """One of the things that happen to a line."""
    kind = rng.randrange(5)
    if kind == 0:
        place = rng.randrange(len(packet))
        return packet[:place] + bytes([packet[place] ^ 1 << rng.randrange(8)]) + packet[place + 1 :]
    if kind == 1:
        return packet[: rng.randrange(len(packet))]
    if kind == 2:
        return rng.randbytes(rng.randrange(1, 300)) + packet
    if kind == 3:
        return packet.replace(b"\0", b"")
    place = rng.randrange(len(packet))
    return packet[:place] + packet[place + rng.randrange(1, 5) :]


@pytest.mark.faults
@pytest.mark.timeout(3600)
def test_no_wrong_packet_is_accepted_from_a_damaged_line() -> None:
    """Fault 24. A good packet after any damage is found again: at the next zero."""
    rng, decoder, n = random.Random(24), Decoder(), repetitions(3000, 1_000_000)
    n_damaged = n_accepted = 0
    for i in range(n):
        seq, payload = i & 0xFFFF, rng.randbytes(rng.randrange(0, 80))
        packet = encode_packet(6, seq, payload)
        line = damaged(rng, packet) if rng.random() < 0.5 else packet
        n_damaged += line != packet
        for found in decoder.feed(line):
            assert found == Packet(6, seq, payload), "a packet that nobody sent"
            n_accepted += 1
        good = encode_packet(7, seq, payload)
        after = decoder.feed(good)
        assert after and after[-1] == Packet(7, seq, payload), "the next packet is found, whatever was before it"
        n_accepted += len(after) - 1
    print(f"{n} packets, {n_damaged} damaged, {n_accepted} of them accepted and right, 0 wrong")
    assert n_damaged > 0.4 * n and decoder.n_crc > 0 and decoder.n_malformed > 0


def test_without_the_checksum_wrong_packets_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    rng, wrong = random.Random(3), 0
    monkeypatch.setattr("firmware_bridge.packet.zlib", type("Blind", (), {"crc32": staticmethod(lambda data: 0)}))
    for i in range(500):
        packet = bytearray(encode_packet(6, i, rng.randbytes(40)))
        place = rng.randrange(2, len(packet) - 6)
        packet[place] ^= 1 << rng.randrange(8)
        wrong += sum(found != Packet(6, i, found.payload) or True for found in Decoder().feed(bytes(packet)))
    assert wrong > 100


def test_the_checksum_is_that_of_zlib() -> None:
    body = bytes([3, 0, 1, 0, 2, 0]) + b"ab"
    assert encode_packet(3, 1, b"ab") == b"\0" + stuff(body + zlib.crc32(body).to_bytes(4, "little")) + b"\0"
