"""Packets: whatever the pieces in which bytes come, the same packets go out, and a wrong byte is noticed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import DeviceError
from edge.microphone_packets import HEADER, MAX_PAYLOAD_BYTES, Kind, OpenedDevice, Packet, PacketReader, encode

PACKETS = st.lists(
    st.builds(
        Packet,
        st.just(Kind.AUDIO),
        st.just(0),
        st.integers(0, 50).map(lambda n: bytes(range(4)) * n),
        st.integers(0, 2**32 - 1),
        st.integers(0, 9),
    ),
    max_size=6,
).map(lambda packets: [Packet(p.kind, i, p.payload, p.n_lost, p.n_overflows) for i, p in enumerate(packets)])


@given(PACKETS, st.lists(st.integers(1, 60), min_size=1, max_size=5))
def test_what_was_encoded_comes_out_in_any_pieces(packets: list[Packet], sizes: list[int]) -> None:
    data = b"".join(map(encode, packets))
    reader, found, place = PacketReader(), [], 0
    while place < len(data):
        size = sizes[place % len(sizes)]
        found += reader.feed(data[place : place + size])
        place += size
    assert found == packets


@pytest.mark.parametrize(
    "data",
    [
        b"x" * HEADER.size,
        HEADER.pack(b"SKm1", 9, 0, 0, 0, 0),
        HEADER.pack(b"SKm1", Kind.AUDIO, 1, 0, 0, 0),
        HEADER.pack(b"SKm1", Kind.AUDIO, 0, 0, 0, 3),
        HEADER.pack(b"SKm1", Kind.REFUSED, 0, 0, 0, MAX_PAYLOAD_BYTES + 1),
    ],
    ids=["magic", "kind", "sequence", "half a sample", "too long"],
)
def test_bytes_that_are_no_packet_are_refused(data: bytes) -> None:
    with pytest.raises(DeviceError, match="no packet"):
        PacketReader().feed(data)


def test_a_packet_knows_its_content() -> None:
    device = OpenedDevice("Zäher USB-Mic [ALSA]", 44_100, 2)
    assert OpenedDevice.decode(device.encode()) == device
    assert Packet(Kind.REFUSED, 0, "kein Gerät".encode()).text() == "kein Gerät"
    assert encode(Packet(Kind.AUDIO, 2**32 + 5, b"", 2**40)) == HEADER.pack(b"SKm1", 3, 5, 2**32 - 1, 0, 0)
