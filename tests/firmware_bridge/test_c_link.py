"""The device's side of the link, built on this machine: what it sends, what it does, what it counts."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from firmware_bridge import protocol as p
from firmware_bridge.adpcm import decode_block
from firmware_bridge.message import Message
from firmware_bridge.packet import Decoder, Packet, encode_packet
from tests.firmware_bridge.c_library import built

SESSION = 0x1234_5678
SHIM = """
#include "soundkeep/sk_link.h"
#include <stdlib.h>
#include <string.h>
typedef struct device { sk_link link; sk_head head; float storage[4096]; uint8_t out[8192]; uint32_t n_labels; } device;
device *opened(uint32_t n_out, uint8_t with_head);
void closed(device *d);
void received(device *d, const uint8_t *data, uint32_t n);
void heard(device *d, const int16_t *pcm, uint32_t n, uint32_t block);
uint32_t taken(device *d, uint8_t *data, uint32_t n);
uint32_t counted(const device *d, int which);
void placed(device *d, uint32_t sample);
static void label(void *user, const char *name, uint32_t n, float score, uint8_t begins)
{
    (void)name; (void)n; (void)score; (void)begins;
    ((device *)user)->n_labels++;
}
device *opened(uint32_t n_out, uint8_t with_head)
{
    static const uint8_t ear[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    static const sk_about about = {0x12345678u, 16000u, "t\\xc3\\xbcr", ear, NULL, 320u,
                                   SK_FORMAT_PCM16 | SK_FORMAT_ADPCM};
    device *d = calloc(1, sizeof *d);
    if (sk_head_init(&d->head, d->storage, sizeof d->storage, ear, 16) != 0)
        return NULL;
    sk_link_init(&d->link, &about, d->out, n_out, with_head ? &d->head : NULL);
    d->link.heard = label;
    d->link.user = d;
    return d;
}
void closed(device *d) { free(d); }
void received(device *d, const uint8_t *data, uint32_t n)
{
    while (n--)
        sk_link_receive(&d->link, *data++);
}
void heard(device *d, const int16_t *pcm, uint32_t n, uint32_t block)
{
    for (; n; n -= block, pcm += block) {
        if (block > n)
            block = n;
        sk_link_sound(&d->link, pcm, block);
    }
}
uint32_t taken(device *d, uint8_t *data, uint32_t n) { return sk_ring_get(&d->link.out, data, n); }
void placed(device *d, uint32_t sample) { d->link.sample = sample; }
uint32_t counted(const device *d, int which)
{
    const uint32_t all[] = {d->link.n_dropped, d->link.n_unsent, d->link.n_refused, d->link.n_copies, d->link.n_unknown,
                            d->n_labels, d->link.sample};
    return all[which];
}
"""
N_DROPPED, N_UNSENT, N_REFUSED, N_COPIES, N_UNKNOWN, N_LABELS, SAMPLE = range(7)


def library() -> Any:
    loaded = built(SHIM)
    loaded.opened.restype = ctypes.c_void_p
    for name in ("taken", "counted"):
        getattr(loaded, name).restype = ctypes.c_uint32
    return loaded


class DeviceLink:
    def __init__(self, n_out: int = 8192, *, head: bool = True) -> None:
        self._library = library()
        self._device = ctypes.c_void_p(self._library.opened(n_out, int(head)))
        self._decoder = Decoder()

    def __del__(self) -> None:
        self._library.closed(self._device)

    def receive(self, data: bytes) -> None:
        self._library.received(self._device, data, len(data))

    def say(self, *messages: Message, seq: int = 0) -> None:
        self.receive(b"".join(encode_packet(m.TYPE, seq + i, m.encode()) for i, m in enumerate(messages)))

    def hear(self, pcm: NDArray[np.int16], block: int = 320) -> None:
        self._library.heard(self._device, pcm.ctypes.data_as(ctypes.c_void_p), len(pcm), block)

    def take(self, most: int = 1 << 20) -> list[Packet]:
        room = ctypes.create_string_buffer(most)
        n = self._library.taken(self._device, room, most)
        return self._decoder.feed(room.raw[:n])

    def count(self, which: int) -> int:
        return int(self._library.counted(self._device, which))

    def place(self, sample: int) -> None:
        self._library.placed(self._device, ctypes.c_uint32(sample))


def greeted(format: int = 0, **about: Any) -> DeviceLink:
    device = DeviceLink(**about)
    device.say(p.HostHello(p.PROTOCOL_VERSION, 1))
    if format:
        device.say(p.Start(SESSION, format))
    device.take()
    return device


@given(st.lists(st.tuples(st.integers(1, 1500), st.integers(0, 4000)), max_size=30), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_what_finds_no_room_is_counted_and_everything_else_is_to_the_bit(
    steps: list[tuple[int, int]], seed: int
) -> None:
    """Sound comes and bytes go in any rhythm: a block is whole at its place, or it is counted."""
    device = greeted(p.PCM16, n_out=4096)
    sound = np.random.default_rng(seed).integers(-32768, 32768, sum(n for n, _ in steps)).astype(np.int16)
    place, blocks, n_blocks = 0, [], 0
    for n, taken in steps:
        device.hear(np.ascontiguousarray(sound[place : place + n]))
        place, n_blocks = place + n, n_blocks + -(-n // 320)
        blocks += device.take(taken)
    blocks += device.take()
    heard = [p.Pcm.decode(b.payload) for b in blocks]
    assert len(heard) + device.count(N_DROPPED) == n_blocks
    assert [b.sample for b in heard] == sorted({b.sample for b in heard})
    for b in heard:
        assert b.data == sound[b.sample : b.sample + len(b.data) // 2].tobytes()
    assert device.count(SAMPLE) == place


def test_answers_find_room_when_sound_does_not() -> None:
    device = greeted(p.PCM16, n_out=4096)
    device.hear(np.ones(16_000, dtype=np.int16))
    assert device.count(N_DROPPED) > 40
    device.say(p.StatusQuery(), p.TimeQuery(7), p.HostLabel(SESSION, 1.0, 1, b"door"))
    kinds = [packet.type for packet in device.take()]
    assert kinds[-3:] == [p.Status.TYPE, p.TimeAnswer.TYPE, p.Ack.TYPE] and device.count(N_UNSENT) == 0
    for _ in range(200):
        device.say(p.Probe(bytes(900)))
    assert device.count(N_UNSENT) == 200 - len(device.take()) > 0, "and what is too much is counted"


def test_the_counter_wraps() -> None:
    device = greeted(p.ADPCM)
    device.place(2**32 - 480)
    device.hear(np.arange(960, dtype=np.int16))
    blocks = [p.Adpcm.decode(packet.payload) for packet in device.take()]
    assert [b.sample for b in blocks] == [2**32 - 480, 2**32 - 160, 160]
    assert all(len(decode_block(b.data)) == 320 for b in blocks)


def test_a_command_is_done_once_for_each_host() -> None:
    device = greeted()
    for _ in range(5):
        device.say(p.HostLabel(SESSION, 1.0, 1, b"door"), seq=3)
    assert (device.count(N_LABELS), device.count(N_COPIES)) == (1, 4)
    assert [p.Ack.decode(a.payload) for a in device.take()] == [p.Ack(SESSION, 3, p.STATUS_DONE)] * 5
    for seq in range(4, 40):
        device.say(p.HostLabel(SESSION, 1.0, 1, b"door"), seq=seq)
    device.say(p.HostLabel(SESSION, 1.0, 1, b"door"), seq=3)
    assert device.count(N_LABELS) == 38, "of the last 32 a copy is known: eight times what may be under way"
    device.say(p.HostHello(p.PROTOCOL_VERSION, 2), p.HostHello(p.PROTOCOL_VERSION, 2))
    device.say(p.HostLabel(SESSION, 1.0, 1, b"door"), seq=3)
    device.say(p.HostHello(p.PROTOCOL_VERSION, 2), p.HostHello(p.PROTOCOL_VERSION, 0))
    device.say(p.HostLabel(SESSION, 1.0, 1, b"door"), seq=3)
    assert device.count(N_LABELS) == 39, "a late copy of a greeting is no new host"


def test_without_a_head_heads_are_refused_by_name() -> None:
    device = greeted(head=False)
    device.say(p.HeadBegin(SESSION, 1, 16, 1, 0, 500, 0, bytes(8)), p.Teach(SESSION, 0))
    acks = [p.Ack.decode(a.payload).status for a in device.take()]
    assert acks == [p.STATUS_UNSUPPORTED, p.STATUS_UNSUPPORTED] and device.count(N_REFUSED) == 2
    device.say(p.HostHello(p.PROTOCOL_VERSION, 3), p.HeadQuery())
    hello, state = device.take()
    assert p.DeviceHello.decode(hello.payload).abilities == 0
    assert p.DeviceHello.decode(hello.payload).name == "tür".encode()
    assert p.HeadState.decode(state.payload) == p.HeadState(0, 0, 0, 0, 0, 0)


@given(st.binary(max_size=60), st.sampled_from([1, 3, 4, 9, 11, 13, 15, 17, 18, 19, 20, 24, 99]))
@settings(max_examples=300, deadline=None)
def test_a_payload_of_any_length_is_taken_or_counted(payload: bytes, kind: int) -> None:
    device = greeted()
    device.receive(encode_packet(kind, 5, payload))
    device.receive(encode_packet(kind, 6, SESSION.to_bytes(4, "little") + payload))
    device.take()
    device.say(p.StatusQuery())
    (status,) = device.take()
    counted = p.Status.decode(status.payload)
    assert counted.n_good == 4 and (kind != 99 or counted.n_unknown == 2)
