"""Two banks: whatever comes in whatever order, a window is scored by the old head or by the new one, never by a mix."""

from __future__ import annotations

import ctypes
import functools
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.decision import DecisionSettings
from firmware_bridge import protocol as p
from firmware_bridge.heads import DeviceHead, device_head
from tests.firmware_bridge.c_library import built
from tests.firmware_bridge.test_heads import DIM, SHIM, taught

BANK = 4096
NAN, MINUS_ONE = b"\0\0\xc0\x7f", b"\0\0\x80\xbf"
Changes = tuple[tuple[str, str, str], ...]


@functools.lru_cache(maxsize=1)
def heads() -> tuple[DeviceHead, DeviceHead]:
    """Of one class and of three, versions 1 and 2; each with 4 rivals."""
    made = []
    for version, n in ((1, 1), (2, 3)):
        learner, _ = taught(Path(tempfile.mkdtemp()), n, n_prior=4)
        made.append(device_head(learner, DecisionSettings(), version=version))
    return made[0], made[1]


class Banks:
    def __init__(self, changes: Changes = ()) -> None:
        self._c: Any = built(SHIM, changes)
        self._head = ctypes.create_string_buffer(self._c.size_of_head())
        self._storage = np.zeros(DIM + 2 * BANK // 4, dtype=np.float32)
        given = self._storage.ctypes.data_as(ctypes.c_void_p)
        assert self._c.sk_head_init(self._head, given, self._storage.nbytes, heads()[0].ear, DIM) == 0
        assert self._c.sk_head_load(self._head, heads()[0].data, len(heads()[0].data)) == p.STATUS_DONE

    def begin(self, head: DeviceHead, *, crc: int | None = None) -> int:
        about = (head.version, head.dim, head.n_classes, head.n_rivals, len(head.data))
        checksum = ctypes.c_uint32(head.crc if crc is None else crc)
        return int(self._c.sk_head_begin(self._head, *about, checksum, head.ear))

    def chunk(self, version: int, offset: int, data: bytes) -> int:
        return int(self._c.sk_head_chunk(self._head, version, offset, data, len(data)))

    def commit(self, version: int) -> int:
        return int(self._c.sk_head_commit(self._head, version))

    def flip(self) -> bool:
        return bool(self._c.sk_head_flip(self._head))

    @property
    def version(self) -> int:
        return int(self._c.sk_head_version(self._head))

    def scores(self) -> bytes:
        x, out = np.linspace(-1.0, 1.0, DIM, dtype=np.float32), np.zeros(64, dtype=np.float32)
        self._c.sk_head_scores.restype = ctypes.c_uint8
        n = self._c.sk_head_scores(self._head, x.ctypes.data_as(ctypes.c_void_p), out.ctypes.data_as(ctypes.c_void_p))
        return out[:n].tobytes()


@functools.lru_cache(maxsize=1)
def answers() -> dict[int, bytes]:
    """Scores of each head alone."""
    banks, (_, new) = Banks(), heads()
    found = {1: banks.scores()}
    assert banks.begin(new) == banks.chunk(2, 0, new.data) == banks.commit(2) == p.STATUS_DONE
    assert banks.flip()
    found[2] = banks.scores()
    return found


def test_cut_after_any_byte_the_old_head_stays() -> None:
    """Pieces of 64 bytes; what is behind the cut never comes. All of it, committed and flipped, is the new head."""
    _, new = heads()
    for cut in range(len(new.data) + 1):
        banks = Banks()
        assert banks.begin(new) == p.STATUS_DONE
        for at in range(0, cut, 64):
            whole = new.data[at : at + 64][: cut - at]
            status = banks.chunk(2, at, whole)
            ends = len(whole) == 64 or at + len(whole) == len(new.data)
            assert status == (p.STATUS_DONE if ends else p.STATUS_MALFORMED)
            assert banks.scores() == answers()[1]
        status = banks.commit(2)
        assert (status == p.STATUS_DONE) == (cut == len(new.data)) == banks.flip()
        assert banks.scores() == answers()[2 if cut == len(new.data) else 1]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("begin"), st.integers(1, 2), st.booleans()),
        st.tuples(st.just("chunk"), st.integers(0, 40), st.integers(1, 6)),
        st.tuples(st.just("spoilt"), st.integers(0, 40), st.integers(0, 63)),
        st.tuples(st.just("all"), st.just(0), st.just(0)),
        st.tuples(st.just("commit"), st.integers(1, 2), st.just(0)),
        st.tuples(st.just("flip"), st.just(0), st.just(0)),
    ),
    max_size=25,
)


def walk(banks: Banks, steps: list[tuple[str, int, int]]) -> None:
    """Do steps; after each the scores are those of the version in use, and only a commit changes what will be."""
    old, new = heads()
    coming = new
    promised = banks.version
    for step, a, b in steps:
        if step == "begin":
            coming = old if a == 1 else new
            banks.begin(coming, crc=None if b else coming.crc ^ 1)
        elif step in ("chunk", "spoilt"):
            data = bytearray(coming.data[64 * a : 64 * (a + (b if step == "chunk" else 1))])
            if step == "spoilt" and data:
                data[b % len(data)] ^= 16
            banks.chunk(coming.version, 64 * a, bytes(data))
        elif step == "all":
            for at in range(0, len(coming.data), 64):
                banks.chunk(coming.version, at, coming.data[at : at + 64])
        elif step == "commit":
            before = banks.version
            if banks.commit(a) == p.STATUS_DONE:
                promised = a
            assert banks.version == before, "nothing changes before the window's boundary"
        else:
            banks.flip()
            assert banks.version == promised
        assert banks.scores() == answers()[banks.version]


@given(STEPS)
@settings(max_examples=300, deadline=None)
def test_in_any_order_each_window_has_one_whole_head(steps: list[tuple[str, int, int]]) -> None:
    walk(Banks(), steps)


WITHOUT_CHECKSUM = (
    ("sk_head", "if (sk_crc32(0, b, h->next_bytes) != h->next_crc)", "if (h->next_crc == 1u && h->next_bytes == 1u)"),
)
WITHOUT_MAP = (("sk_head", "if (!(h->arrived[grain / 8u] & (1u << (grain % 8u))))", "if (h->next_bytes == 1u)"),)
IN_PLACE = (("sk_head", "return (uint8_t *)h->bank[1u - h->active]", "return (uint8_t *)h->bank[h->active]"),)


def taken(changes: Changes, data: bytes) -> bool:
    """Whether ``data``, in the place of the new head and committed, gives scores that are no head's."""
    banks, (_, new) = Banks(changes), heads()
    banks.begin(new)
    for at in range(0, len(data), 64):
        banks.chunk(2, at, data[at : at + 64])
    banks.commit(2)
    banks.flip()
    return banks.scores() not in answers().values()


def test_each_check_is_needed() -> None:
    """Without one of them in the source, a head that is wrong, or not whole, is used."""
    _, new = heads()
    spoilt = new.data[:70] + bytes([new.data[70] ^ 1]) + new.data[71:]
    assert taken(WITHOUT_CHECKSUM, spoilt) and not taken((), spoilt)
    gap = new.data[:320]
    assert taken(IN_PLACE, gap) and not taken((), gap), "with one bank an update shows before it is whole"
    banks = Banks(WITHOUT_MAP)
    banks.begin(new)
    assert banks.commit(2) == p.STATUS_WRONG_CRC, "it costs a checksum over what never came"
    assert Banks().commit(2) == p.STATUS_NO_BEGIN


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (0, b"X"), (4, bytes(4)), (8, b"\0"), (10, b"\xff"), (11, b"\xff"), (12, b"\1"), (16, b"?"),
        (24, NAN), (32, b"\x09\0\0\0"), (64, NAN), (64 + 4 * DIM + 20, MINUS_ONE), (64 + 4 * DIM + 55, b"x"),
    ],
)  # fmt: skip
def test_content_that_cannot_be_used_is_refused_whole(at: int, value: bytes) -> None:
    """A checksum may be right and the head wrong: its counts, its ear, a number that is none, a name without an end."""
    _, new = heads()
    data = new.data[:at] + value + new.data[at + len(value) :]
    banks = Banks()
    assert banks.begin(new, crc=zlib.crc32(data)) == p.STATUS_DONE
    for start in range(0, len(data), 64):
        banks.chunk(2, start, data[start : start + 64])
    assert banks.commit(2) in (p.STATUS_MALFORMED, p.STATUS_OTHER_EAR, p.STATUS_TOO_LARGE)
    assert not banks.flip() and banks.scores() == answers()[1]
