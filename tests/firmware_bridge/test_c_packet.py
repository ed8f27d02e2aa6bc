"""The decoder in C on damaged streams, in C loops: it takes what was sent and nothing else, and always finds its feet.

test_c_codec.py sets it beside the one in Python packet by packet; here it meets a million packets, and any bytes.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_bridge.packet import encode_packet
from tests.faults import repetitions
from tests.firmware_bridge.c_library import built
from tests.firmware_bridge.test_c_codec import c_decoded, py_decoded

SHIM = """
#include <string.h>
#include "soundkeep/sk_bytes.h"
#include "soundkeep/sk_packet.h"
void damage(uint32_t count, uint32_t seed, uint32_t *result);
static uint32_t state;
static uint32_t draw(uint32_t n)
{
    state = state * 1664525u + 1013904223u;
    return (uint32_t)(((uint64_t)(state ^ (state >> 15)) * n) >> 32);
}
/* The payload of packet i follows from i alone, so that the receiver knows what was sent. */
static uint32_t payload_of(uint32_t i, uint8_t *out)
{
    uint32_t x = i * 2654435761u + 1u, n = 4u + (x >> 8) % 120u, k;
    sk_put32(out, i);
    for (k = 4u; k < n; k++) {
        x = x * 1664525u + 1013904223u;
        out[k] = (uint8_t)((x >> 24) % 5u ? x >> 16 : 0u);
    }
    return n;
}
static uint32_t packet_of(uint32_t i, uint8_t *out)
{
    uint8_t payload[SK_MAX_PAYLOAD];
    uint32_t n = payload_of(i, payload);
    sk_encoder e;
    sk_encode_begin(&e, out, SK_MAX_PACKET, (uint8_t)(i * 7u), (uint8_t)(i >> 9), (uint16_t)i, n);
    sk_encode_bytes(&e, payload, n);
    return sk_encode_end(&e);
}
static int was_sent(const sk_packet *p, uint32_t first, uint32_t last)
{
    uint8_t payload[SK_MAX_PAYLOAD];
    uint32_t i, n;
    if (p->n_payload < 4u)
        return 0;
    i = sk_get32(p->payload);
    if (i < first || i > last)
        return 0;
    n = payload_of(i, payload);
    return n == p->n_payload && memcmp(payload, p->payload, n) == 0 && p->type == (uint8_t)(i * 7u) &&
           p->flags == (uint8_t)(i >> 9) && p->seq == (uint16_t)i;
}
/* Rounds of a damaged packet and then a whole one. result: taken of the damaged, taken though never sent, whole ones
 * that were missed, refused (by the counters). */
void damage(uint32_t count, uint32_t seed, uint32_t *result)
{
    static sk_decoder d;
    uint8_t bytes[2u * SK_MAX_PACKET], next[SK_MAX_PACKET];
    uint32_t i, n, k, changes, place, more, m, found;
    sk_packet p;
    state = seed;
    memset(result, 0, 4u * sizeof *result);
    sk_decoder_init(&d);
    for (i = 0u; i < 2u * count; i += 2u) {
        n = packet_of(i, bytes);
        for (changes = 1u + draw(4u); changes; changes--) {
            place = draw(n);
            switch (draw(5u)) {
            case 0: bytes[place] ^= (uint8_t)(1u << draw(8u)); break;
            case 1: n = place + 1u; break;
            case 2:
                more = 1u + draw(8u);
                memmove(bytes + place + more, bytes + place, n - place);
                for (k = 0u; k < more; k++)
                    bytes[place + k] = (uint8_t)draw(256u);
                n += more;
                break;
            case 3:
                more = draw(8u) + 1u < n - place ? draw(8u) + 1u : 1u;
                if (more < n - place) {
                    memmove(bytes + place, bytes + place + more, n - place - more);
                    n -= more;
                }
                break;
            default: /* joined to a piece of an earlier packet */
                m = packet_of(i > 6u ? i - 6u : 0u, next);
                more = draw(m);
                memcpy(bytes + place, next + more, m - more);
                n = place + m - more;
            }
        }
        for (k = 0u; k < n; k++)
            if (sk_decode(&d, bytes[k], &p)) {
                result[0]++;
                result[1] += (uint32_t)!was_sent(&p, i > 6u ? i - 6u : 0u, i);
            }
        m = packet_of(i + 1u, next);
        for (k = 0u, found = 0u; k < m; k++)
            if (sk_decode(&d, next[k], &p)) {
                result[1] += (uint32_t)!was_sent(&p, i > 6u ? i - 6u : 0u, i + 1u); /* a joined one may end here */
                found |= (uint32_t)(p.seq == (uint16_t)(i + 1u));
            }
        result[2] += !found;
    }
    result[3] = d.n_crc + d.n_malformed + d.n_oversized;
}
"""
WITHOUT_CHECKSUM = (("sk_packet", "if (sk_crc32(0, d->body, n) != sk_get32(d->body + n))", "if (d->n_stuffed == 0)"),)
Changes = tuple[tuple[str, str, str], ...]


@functools.lru_cache(maxsize=2)
def library(changes: Changes = ()) -> Any:
    return built(SHIM, changes)


def damage(count: int, seed: int, changes: Changes = ()) -> tuple[int, ...]:
    """Return damaged packets taken, taken though never sent, whole ones missed, refused."""
    result = (ctypes.c_uint32 * 4)()
    library(changes).damage(count, seed, result)
    return tuple(result)


@pytest.mark.faults
def test_nothing_that_was_never_sent_is_taken_and_the_next_whole_packet_always() -> None:
    count = repetitions(20_000, 1_000_000)
    taken, wrong, missed, refused = damage(count, 5)
    assert wrong == 0 and missed == 0
    assert refused > count // 2, "the damage is damage"
    assert taken < count


def test_without_the_checksum_what_was_never_sent_is_taken() -> None:
    assert damage(20_000, 5, WITHOUT_CHECKSUM)[1] > 100


def flipped(packet: bytes, place: int, bit: int) -> bytes:
    place %= len(packet)
    return packet[:place] + bytes([packet[place] ^ 1 << bit]) + packet[place + 1 :]


PACKETS = st.builds(encode_packet, st.integers(0, 255), st.integers(0, 65_535), st.binary(max_size=300))
PIECES = st.lists(
    st.one_of(
        PACKETS,
        st.binary(max_size=40),
        st.builds(lambda packet, n: packet[:n], PACKETS, st.integers(0, 300)),
        st.builds(lambda packet, n: packet[n:], PACKETS, st.integers(0, 300)),
        st.builds(flipped, PACKETS, st.integers(0, 400), st.integers(0, 7)),
        st.builds(lambda byte, n: bytes([byte]) * n, st.integers(0, 255), st.integers(1000, 1200)),
    ),
    max_size=8,
)


@given(PIECES, st.binary(max_size=1024), st.integers(1, 1500))
@settings(max_examples=300, deadline=None)
def test_any_stream_is_judged_alike_and_the_next_packet_is_taken(
    pieces: list[bytes], payload: bytes, step: int
) -> None:
    """In pieces of any length: packets, their halves, bits turned, plain garbage, more than a packet can be."""
    last = encode_packet(77, 4321, payload)
    stream = b"".join(pieces) + last
    in_c = c_decoded([stream])
    assert in_c == py_decoded([stream]) == py_decoded([stream[i : i + step] for i in range(0, len(stream), step)])
    assert in_c[0][-1] == (77, 0, 4321, payload)
