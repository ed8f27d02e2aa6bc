"""The bytes of the head in use, whatever is sent: begun anew, out of order, of another ear, of content that is none.

test_c_banks.py holds the scores to one head or the other; here it is the bank's own bytes, and what a mixed head needs
to get in.
"""

from __future__ import annotations

import ctypes
import functools
import random
import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_bridge import protocol as p
from firmware_bridge.heads import DeviceHead
from tests.firmware_bridge.c_library import built
from tests.firmware_bridge.test_c_banks import BANK, WITHOUT_CHECKSUM, WITHOUT_MAP, Banks, Changes, heads
from tests.firmware_bridge.test_heads import DIM

SHIM = """
#include "soundkeep/sk_head.h"
const void *in_use(const sk_head *head);
const void *in_use(const sk_head *head) { return head->bank[head->active]; }
"""


@functools.lru_cache(maxsize=1)
def probe() -> Any:
    loaded = built(SHIM)
    loaded.in_use.restype = ctypes.c_void_p
    return loaded


class Bytes(Banks):
    def in_use(self) -> bytes:
        return ctypes.string_at(probe().in_use(self._head), BANK)

    def send(self, head: DeviceHead, data: bytes | None = None, *, crc: int | None = None, order: int = 0) -> int:
        """Begin, all chunks in the order that ``order`` draws, some twice, commit. Return the commit's status."""
        data = head.data if data is None else data
        assert self.begin(head, crc=crc) == p.STATUS_DONE
        places = [at for at in range(0, len(data), 64) for _ in range(1 + (order + at // 64) % 2)]
        random.Random(order).shuffle(places)
        for at in places:
            assert self.chunk(head.version, at, data[at : at + 64]) == p.STATUS_DONE
        return self.commit(head.version)


def test_only_a_commit_and_a_flip_change_the_bytes_in_use() -> None:
    old, new = heads()
    for order in range(50):
        banks = Bytes()
        before = banks.in_use()
        assert before[: len(old.data)] == old.data
        assert banks.send(new, order=order) == p.STATUS_DONE
        assert banks.in_use() == before and banks.version == 1
        assert banks.flip() and not banks.flip()
        assert banks.in_use()[: len(new.data)] == new.data and banks.version == 2
        assert banks.commit(2) == p.STATUS_DONE, "a late copy of the commit"
        assert not banks.flip()


def test_an_update_that_begins_anew_forgets_what_came_before() -> None:
    _, new = heads()
    for cut in range(0, len(new.data), 64):
        banks = Bytes()
        banks.begin(new)
        for at in range(0, cut, 64):
            banks.chunk(2, at, new.data[at : at + 64])
        banks.begin(new)
        assert banks.commit(2) == p.STATUS_INCOMPLETE and not banks.flip()
        for at in range(cut, len(new.data), 64):
            banks.chunk(2, at, new.data[at : at + 64])
        assert (banks.commit(2) == p.STATUS_DONE) == (cut == 0) == banks.flip()


def test_what_does_not_fit_is_refused_and_an_update_under_way_goes_on() -> None:
    _, new = heads()
    banks = Bytes()
    before = banks.in_use()
    assert banks.begin(new) == p.STATUS_DONE
    for at in range(0, len(new.data), 64):
        assert banks.chunk(2, at, new.data[at : at + 64]) == p.STATUS_DONE
    refused = [
        (replace(new, ear=b"otherear"), p.STATUS_OTHER_EAR),
        (replace(new, dim=DIM + 1), p.STATUS_OTHER_EAR),
        (replace(new, data=new.data + bytes(BANK)), p.STATUS_TOO_LARGE),
        (replace(new, n_rivals=33), p.STATUS_TOO_LARGE),
        (replace(new, labels=("x",) * 65), p.STATUS_TOO_LARGE),
        (replace(new, version=0), p.STATUS_MALFORMED),
        (replace(new, data=new.data[:-4]), p.STATUS_MALFORMED),
    ]
    for head, status in refused:
        assert banks.begin(head) == status
        assert banks.in_use() == before
    for offset, n in ((1, 64), (64, 63), (0, 0), (2**32 - 64, 64), (len(new.data) // 64 * 64, 128), (BANK, 64)):
        assert banks.chunk(2, offset, bytes(n)) == p.STATUS_MALFORMED
    assert banks.chunk(3, 0, bytes(64)) == banks.commit(3) == p.STATUS_NO_BEGIN
    assert banks.commit(2) == p.STATUS_DONE and banks.flip()
    assert banks.in_use()[: len(new.data)] == new.data


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_content_of_any_kind_never_touches_the_bytes_in_use(data: st.DataObject) -> None:
    """Bytes put over any places of a good head, announced with the checksum they have."""
    _, new = heads()
    spoilt = bytearray(new.data)
    patches = st.lists(st.tuples(st.integers(0, len(spoilt) - 1), st.binary(max_size=8)), max_size=5)
    for place, value in data.draw(patches):
        fits = value[: len(spoilt) - place]
        spoilt[place : place + len(fits)] = fits
    banks = Bytes()
    before = banks.in_use()
    status = banks.send(new, bytes(spoilt), crc=zlib.crc32(spoilt))
    assert banks.in_use() == before
    if status == p.STATUS_DONE:
        assert banks.flip() and banks.in_use()[: len(spoilt)] == spoilt
        numbers = np.frombuffer(banks.scores(), dtype=np.float32)
        assert len(numbers) == new.n_classes
    else:
        assert not banks.flip() and banks.in_use() == before


def half(banks: Bytes) -> tuple[int, bytes]:
    """A head of version 2 is in use and one of version 4 is half sent, over version 1's bank; both have one shape."""
    _, new = heads()
    data = bytearray(new.data)
    for number in range(64 // 4, len(data) // 4):
        if number % 2 and data[4 * number + 3] & 0x7F:
            data[4 * number + 3] ^= 0x80
    data[4:8] = (4).to_bytes(4, "little")
    after = replace(new, version=4, data=bytes(data))
    third = replace(new, version=3, data=new.data[:4] + b"\3" + new.data[5:])
    assert banks.send(third) == p.STATUS_DONE and banks.flip()
    assert banks.send(new) == p.STATUS_DONE and banks.flip()
    banks.begin(after)
    for at in range(0, len(data) // 2 // 64 * 64, 64):
        banks.chunk(4, at, after.data[at : at + 64])
    return banks.commit(4), after.data


NEITHER = WITHOUT_MAP + WITHOUT_CHECKSUM


@pytest.mark.parametrize(
    ("changes", "mixed"), [((), False), (WITHOUT_MAP, False), (WITHOUT_CHECKSUM, False), (NEITHER, True)]
)
def test_a_mixed_head_needs_both_checks_out(changes: Changes, mixed: bool) -> None:
    """Half of the new head over what an earlier one left in the bank: the map of what arrived stops it, and so does the
    checksum; with neither it is used."""
    banks = Bytes(changes)
    status, wanted = half(banks)
    assert (status == p.STATUS_DONE) == banks.flip() == mixed
    n = len(wanted)
    if mixed:
        assert banks.in_use()[:n] not in (wanted, heads()[1].data) and banks.version == 4
    else:
        assert status == (p.STATUS_WRONG_CRC if changes == WITHOUT_MAP else p.STATUS_INCOMPLETE)
        assert banks.in_use()[:n] == heads()[1].data


def test_without_the_checksum_chunks_of_another_head_are_taken() -> None:
    """All grains arrived, one of them of other content: only the checksum sees it."""
    _, new = heads()
    mixed = new.data[:128] + bytes(64) + new.data[192:]
    assert Bytes().send(new, mixed) == p.STATUS_WRONG_CRC
    banks = Bytes(WITHOUT_CHECKSUM)
    assert banks.send(new, mixed) == p.STATUS_DONE and banks.flip()
    assert banks.in_use()[: len(mixed)] == mixed != new.data
