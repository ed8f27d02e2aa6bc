"""The codec in C beside the one in Python: the same packets, the same blocks, the same verdict on damage."""

from __future__ import annotations

import ctypes
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_bridge.adpcm import decode_block, encode_block
from firmware_bridge.packet import Decoder, encode_packet
from tests.faults import repetitions
from tests.firmware_bridge.c_library import PARTS, C, built

SHIM = """
#include <stdlib.h>
#include <string.h>
#include "soundkeep/sk_adpcm.h"
#include "soundkeep/sk_packet.h"
uint32_t encoded(uint8_t *out, uint32_t room, uint8_t type, uint8_t flags, uint16_t seq, const uint8_t *p, uint32_t n);
sk_decoder *decoder(void);
void closed(sk_decoder *d);
uint32_t decoded(sk_decoder *d, const uint8_t *data, uint32_t n, uint8_t *out);
void counted(const sk_decoder *d, uint32_t *counts);
uint32_t encoded(uint8_t *out, uint32_t room, uint8_t type, uint8_t flags, uint16_t seq, const uint8_t *p, uint32_t n)
{
    sk_encoder e;
    sk_encode_begin(&e, out, room, type, flags, seq, n);
    sk_encode_bytes(&e, p, n / 2u);
    sk_encode_bytes(&e, p + n / 2u, n - n / 2u);
    return sk_encode_end(&e);
}
sk_decoder *decoder(void)
{
    sk_decoder *d = malloc(sizeof *d);
    sk_decoder_init(d);
    return d;
}
void closed(sk_decoder *d) { free(d); }
/* Packets one after the other in out: type, flags, sequence and length of 2 bytes each, payload. */
uint32_t decoded(sk_decoder *d, const uint8_t *data, uint32_t n, uint8_t *out)
{
    uint32_t i, at = 0;
    sk_packet packet;
    for (i = 0; i < n; i++)
        if (sk_decode(d, data[i], &packet)) {
            out[at] = packet.type;
            out[at + 1] = packet.flags;
            memcpy(out + at + 2, &packet.seq, 2);
            memcpy(out + at + 4, &packet.n_payload, 2);
            memcpy(out + at + 6, packet.payload, packet.n_payload);
            at += 6u + packet.n_payload;
        }
    return at;
}
void counted(const sk_decoder *d, uint32_t *counts)
{
    counts[0] = d->n_good;
    counts[1] = d->n_crc;
    counts[2] = d->n_malformed;
    counts[3] = d->n_oversized;
}
"""
Found = tuple[int, int, int, bytes]


def library() -> Any:
    loaded = built(SHIM)
    loaded.decoder.restype = ctypes.c_void_p
    return loaded


def c_encoded(kind: int, seq: int, payload: bytes, *, flags: int = 0, room: int = 1100) -> bytes:
    out = ctypes.create_string_buffer(room + 1)
    n = library().encoded(out, room, kind, flags, seq, payload, len(payload))
    assert out.raw[room:] == b"\0", "nothing beyond the room"
    return out.raw[:n]


def c_decoded(pieces: list[bytes]) -> tuple[list[Found], tuple[int, ...]]:
    c = library()
    device, found = ctypes.c_void_p(c.decoder()), []
    for piece in pieces:
        out = ctypes.create_string_buffer(2 * len(piece) + 2048)
        n, at = c.decoded(device, piece, len(piece), out), 0
        while at < n:
            kind, flags = out.raw[at], out.raw[at + 1]
            seq, length = (int.from_bytes(out.raw[at + i : at + i + 2], "little") for i in (2, 4))
            found.append((kind, flags, seq, out.raw[at + 6 : at + 6 + length]))
            at += 6 + length
    counts = (ctypes.c_uint32 * 4)()
    c.counted(device, counts)
    c.closed(device)
    return found, tuple(counts)


def py_decoded(pieces: list[bytes]) -> tuple[list[Found], tuple[int, ...]]:
    decoder = Decoder()
    found = [(e.type, e.flags, e.seq, e.payload) for piece in pieces for e in decoder.feed(piece)]
    return found, (decoder.n_good, decoder.n_crc, decoder.n_malformed, decoder.n_oversized)


def test_the_shared_vectors_are_written_and_read_alike() -> None:
    vectors = json.loads((Path(__file__).parent / "vectors.json").read_text())
    assert len(vectors) >= 25
    for vector in vectors:
        packet = bytes.fromhex(vector["packet"])
        ((kind, flags, seq, payload),) = py_decoded([packet])[0]
        assert seq == vector["seq"]
        assert c_encoded(kind, seq, payload, flags=flags) == packet
        assert c_decoded([packet])[0] == [(kind, flags, seq, payload)]


@given(st.integers(0, 255), st.integers(0, 255), st.integers(0, 65_535), st.binary(max_size=1024))
@settings(max_examples=200, deadline=None)
def test_any_packet_is_written_alike(kind: int, flags: int, seq: int, payload: bytes) -> None:
    packet = encode_packet(kind, seq, payload, flags=flags)
    assert c_encoded(kind, seq, payload, flags=flags) == packet
    assert c_decoded([packet])[0] == [(kind, flags, seq, payload)]


@pytest.mark.parametrize("n", [0, 1, 242, 243, 244, 245, 254, 255, 256, 508, 1023, 1024])
@pytest.mark.parametrize("byte", [0, 1, 255])
def test_blocks_of_254_bytes_are_cut_alike(n: int, byte: int) -> None:
    packet = encode_packet(9, 3, bytes([byte]) * n)
    assert c_encoded(9, 3, bytes([byte]) * n) == packet
    assert c_decoded([packet])[0] == py_decoded([packet])[0] == [(9, 0, 3, bytes([byte]) * n)]


def test_what_finds_no_room_is_not_written() -> None:
    packet = encode_packet(1, 2, b"some payload")
    for room in range(len(packet)):
        assert c_encoded(1, 2, b"some payload", room=room) == b""
    assert c_encoded(1, 2, b"some payload", room=len(packet)) == packet
    assert c_encoded(1, 2, bytes(1025), room=1100) == b""


def damaged(rng: np.random.Generator, n: int) -> tuple[list[bytes], set[Found]]:
    """Packets with bits turned, bytes cut out, put in, zeros set: as pieces of a stream; and all that were sent."""
    pieces, sent = [], set()
    for i in range(n):
        payload = rng.bytes(int(rng.integers(0, 120)))
        kind, seq = int(rng.integers(256)), i & 0xFFFF
        packet = bytearray(encode_packet(kind, seq, payload))
        sent.add((kind, 0, seq, payload))
        for _ in range(int(rng.integers(0, 4))):
            place, how = int(rng.integers(len(packet))), int(rng.integers(5))
            if how == 0:
                packet[place] ^= 1 << int(rng.integers(8))
            elif how == 1:
                del packet[place : place + int(rng.integers(1, 9))]
            elif how == 2:
                packet[place:place] = rng.bytes(int(rng.integers(1, 9)))
            elif how == 3:
                packet[place] = 0
            else:
                packet[place] = int(rng.integers(256))
            if not packet:
                break
        pieces.append(bytes(packet))
    return pieces, sent


@pytest.mark.faults
@pytest.mark.timeout(3600)
def test_damage_is_judged_alike_and_nothing_wrong_is_taken() -> None:
    rng = np.random.default_rng(11)
    n_taken = 0
    for _ in range(repetitions(10, 500)):
        pieces, sent = damaged(rng, 2000)
        in_c, in_python = c_decoded(pieces), py_decoded(pieces)
        assert in_c == in_python
        assert set(in_c[0]) <= sent
        n_taken += len(in_c[0])
    assert n_taken > 1000


@given(st.lists(st.integers(-32768, 32767), max_size=400), st.integers(-32768, 32767), st.integers(0, 88))
@settings(max_examples=100, deadline=None)
def test_adpcm_is_the_same_to_the_bit(samples: list[int], predictor: int, index: int) -> None:
    pcm = np.array(samples, dtype=np.int16)
    wanted, *after = encode_block(pcm, predictor, index)
    state = (ctypes.c_uint8 * 4)(*predictor.to_bytes(2, "little", signed=True), index, 0)
    out = ctypes.create_string_buffer(4 + (len(pcm) + 1) // 2)
    n = library().sk_adpcm_encode(state, pcm.ctypes.data_as(ctypes.c_void_p), len(pcm), out)
    assert out.raw[:n] == wanted
    assert (int.from_bytes(bytes(state[:2]), "little", signed=True), state[2]) == tuple(after)
    room = np.zeros(len(pcm) + 1, dtype=np.int16)
    m = library().sk_adpcm_decode(wanted, len(wanted), room.ctypes.data_as(ctypes.c_void_p), len(room))
    assert m == len(pcm) and np.array_equal(room[:m], decode_block(wanted) if len(pcm) else room[:0])


@given(st.binary(max_size=60))
@settings(max_examples=200, deadline=None)
def test_a_damaged_block_is_refused_alike(block: bytes) -> None:
    room = np.zeros(200, dtype=np.int16)
    n = library().sk_adpcm_decode(block, len(block), room.ctypes.data_as(ctypes.c_void_p), len(room))
    try:
        wanted = decode_block(block)
    except ValueError:
        assert n == -1
    else:
        assert np.array_equal(room[:n], wanted)


def test_the_link_side_compiles_without_a_warning(tmp_path: Path) -> None:
    strict = ["-std=c99", "-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-pedantic", "-Werror", f"-I{C / 'include'}"]
    for part in (*PARTS, "sk_mel"):
        command = ["cc", *strict, "-c", str(C / "src" / f"{part}.c"), "-o", str(tmp_path / "part.o")]
        assert subprocess.run(command, check=False).returncode == 0
