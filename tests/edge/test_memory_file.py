"""The memory file: one byte string for one set of examples, and nothing but a whole and true file is read."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import MemoryFileError, SpaceMismatchError
from edge.journal import Journal
from edge.memory_file import decode_memory, encode_memory, read_memory, write_memory
from edge.near_duplicates import near_duplicates
from edge.records import BACKGROUND, Record
from edge.space import EmbeddingSpace
from tests.edge.examples import OTHER_SPACE, SPACE, example, origins, teach

EXAMPLES = st.lists(st.tuples(st.sampled_from(["a", "b", "犬", "Tür 2"]), st.integers(0, 9)), max_size=8)


def resealed(body: bytes) -> bytes:
    return body + hashlib.sha256(body).digest()


def test_the_empty_memory_is_a_file_too() -> None:
    assert decode_memory(encode_memory(SPACE, [])) == (SPACE, [])


@given(EXAMPLES)
def test_what_is_written_is_read(examples: list[tuple[str, int]]) -> None:
    records = [example(*one) for one in examples]
    space, read = decode_memory(encode_memory(SPACE, records), expected=SPACE)
    assert space == SPACE and [r.id for r in read] == sorted({r.id for r in records})
    assert encode_memory(space, read) == encode_memory(SPACE, records)
    assert encode_memory(SPACE, reversed(records + records)) == encode_memory(SPACE, records)


def test_the_bytes_do_not_depend_on_order_device_or_history(tmp_path: Path) -> None:
    examples = [("a", 1), ("a", 2), ("b", 3), ("b", 4), ("c", 5)]
    expected = encode_memory(SPACE, [example(*one) for one in examples])
    with Journal.open(tmp_path / "straight", space=SPACE) as journal:
        teach(journal, *(example(*one) for one in examples))
        assert encode_memory(SPACE, journal.records()) == expected
    with Journal.open(tmp_path / "winding", space=SPACE, clock=lambda: 5.0) as journal:
        journal.teach([example("b", 4), example("x", 9)], provenance=[{"file": "other"}] * 2)
        teach(journal, example("d", 1), example("d", 2))
        journal.forget("x")
        journal.rename("d", "a")
        teach(journal, example("c", 5), example("e", 3))
        journal.merge_classes("e", "b")
        teach(journal, example("zzz", 1))
        journal.undo()
        teach(journal, example("secret", 8))
        journal.forget("secret", purge=True)
        journal.enable("a", False)
        write_memory(tmp_path / "winding.memory", SPACE, journal.records())
    assert (tmp_path / "winding.memory").read_bytes() == expected
    for name, part in (("one", examples[:3]), ("two", examples[2:])):
        with Journal.open(tmp_path / name, space=SPACE) as journal:
            teach(journal, *(example(*one) for one in part))
            write_memory(tmp_path / f"{name}.memory", SPACE, journal.records())
    for order in (("one", "two"), ("two", "one")):
        with Journal.open(tmp_path / "-".join(order), space=SPACE) as journal:
            for name in order:
                journal.import_records(read_memory(tmp_path / f"{name}.memory", expected=SPACE)[1])
            assert encode_memory(SPACE, journal.records()) == expected
            assert journal.import_records(decode_memory(expected)[1]).new_ids == ()


def test_the_bytes_are_fixed_for_all_versions() -> None:
    space = EmbeddingSpace("0" * 64, sample_rate=16000, window_length=4, hop_length=2, dim=3)
    records = [Record(space.sha256, "door", np.array([[1, -2, 3]], dtype=np.int16))]
    records.append(Record(space.sha256, BACKGROUND, np.array([[0, 0, 0], [-32768, 32767, 5]], dtype=np.int16)))
    assert (
        hashlib.sha256(encode_memory(space, records)).hexdigest()
        == "9d8664de18b46ca978939ceec27480e9534deacdc962a13a8f27521c2743f33c"
    )


def test_five_hundred_mutations_are_refused() -> None:
    rng = np.random.default_rng(1)
    records = [example("a", seed) for seed in range(4)]
    data = encode_memory(SPACE, records)
    for _ in range(500):
        mutated = bytearray(data)
        place = int(rng.integers(len(data)))
        kind = int(rng.integers(6))
        if kind == 0:
            mutated[place] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            del mutated[place:]
        elif kind == 2:
            mutated[place:place] = rng.bytes(int(rng.integers(1, 40)))
        elif kind == 3:
            del mutated[place : place + int(rng.integers(1, 40))]
        elif kind == 4:
            mutated += rng.bytes(int(rng.integers(1, 40)))
        else:
            mutated[place : place + 8] = rng.bytes(8)
        changed = bytes(mutated)
        resealed_change = resealed(changed[:-32]) if len(changed) > 32 else changed
        for candidate in (changed, resealed_change):
            if candidate == data:
                continue
            with pytest.raises(MemoryFileError) as refusal:
                decode_memory(candidate)
            assert "\n" not in str(refusal.value)


@given(st.binary(max_size=300))
def test_any_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(MemoryFileError):
        decode_memory(data)
    with pytest.raises(MemoryFileError):
        decode_memory(resealed(b"SKMEMORY" + struct.pack("<I", 1) + data))


def described(**changes: object) -> bytes:
    space = json.loads(
        json.dumps(
            {
                "backbone_sha256": SPACE.backbone_sha256,
                "sample_rate": 16000,
                "window_length": 16000,
                "hop_length": 4000,
                "dim": 8,
                "grid": {"fraction_bits": 14},
            }
        )
    )
    space.update(changes)
    text = json.dumps(space, sort_keys=True, separators=(",", ":")).encode()
    return resealed(b"SKMEMORY" + struct.pack("<II", 1, len(text)) + text + struct.pack("<Q", 0))


@pytest.mark.parametrize(
    "changes",
    [
        {"dim": 0},
        {"dim": "8"},
        {"dim": 8.0},
        {"dim": True},
        {"sample_rate": -1},
        {"hop_length": 1 << 40},
        {"backbone_sha256": "zz"},
        {"backbone_sha256": 5},
        {"grid": {"fraction_bits": 15}},
        {"grid": {"fraction_bits": True}},
        {"grid": {}},
        {"grid": None},
        {"extra": 1},
        {"extra": "x" * 5000},
    ],
)
def test_an_impossible_space_is_refused(changes: dict[str, object]) -> None:
    assert decode_memory(described())[0] == SPACE
    with pytest.raises(MemoryFileError, match="malformed"):
        decode_memory(described(**changes))


def test_order_duplicates_and_false_ids_are_refused_even_with_a_true_hash() -> None:
    records = sorted((example("a", seed) for seed in range(3)), key=lambda r: r.id)
    whole = encode_memory(SPACE, records)
    head = whole[: whole.index(bytes.fromhex(records[0].id)) - 8]
    pieces = []
    for record in records:
        one = encode_memory(SPACE, [record])
        pieces.append(one[len(head) + 8 : -32])
    assert resealed(head + struct.pack("<Q", 3) + b"".join(pieces)) == whole
    for wrong, says in (
        ([pieces[1], pieces[0], pieces[2]], "ascending"),
        ([pieces[0], pieces[0], pieces[1]], "there twice"),
        ([bytes(32) + pieces[0][32:], *pieces[1:]], "does not match its id"),
    ):
        with pytest.raises(MemoryFileError, match=says):
            decode_memory(resealed(head + struct.pack("<Q", 3) + b"".join(wrong)))
    for n, says in ((2, "bytes follow the last record"), (4, "only 0 are there"), (1 << 60, "only 0 are there")):
        with pytest.raises(MemoryFileError, match=says):
            decode_memory(resealed(head + struct.pack("<Q", n) + b"".join(pieces)))


def test_other_versions_and_truncation_have_their_own_sentences() -> None:
    data = encode_memory(SPACE, [example("a", 1)])
    with pytest.raises(MemoryFileError, match=r"has version 2, this soundkeep reads version 1"):
        decode_memory(resealed(data[:8] + struct.pack("<I", 2) + data[12:-32]))
    for n in range(len(data)):
        with pytest.raises(MemoryFileError, match=r"cut off|not a soundkeep memory file"):
            decode_memory(data[:n])


def test_another_space_is_refused() -> None:
    data = encode_memory(OTHER_SPACE, [example("a", 1, space=OTHER_SPACE)])
    with pytest.raises(SpaceMismatchError, match="the memory belongs to embedding space"):
        decode_memory(data, expected=SPACE)
    with pytest.raises(SpaceMismatchError, match="export one space at a time"):
        encode_memory(SPACE, [example("a", 1, space=OTHER_SPACE)])


def test_files_that_cannot_be_read_or_written(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(MemoryFileError, match="cannot read the memory file"):
            read_memory(path)
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(MemoryFileError, match="this is not a soundkeep memory file"):
        read_memory(tmp_path / "empty")
    with pytest.raises(MemoryFileError, match="cannot write the memory file"):
        write_memory(tmp_path / "none" / "file", SPACE, [])


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "memory"
    write_memory(path, SPACE, [example("a", 1)])
    before = path.read_bytes()
    with pytest.raises(SpaceMismatchError):
        write_memory(path, SPACE, [example("a", 1), example("a", 1, space=OTHER_SPACE)])
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


# ---- near-duplicates ------------------------------------------------------------------------------------------------


def test_near_duplicates_are_reported_and_equals_are_not() -> None:
    records = [example("a", seed) for seed in range(3)]
    nudged = Record(SPACE.sha256, "b", records[0].embeddings + np.int16(1))
    (pair,) = near_duplicates(records, [*records, nudged, example("c", 9)])
    assert (pair.id, pair.other_id, pair.label, pair.other_label) == (records[0].id, nudged.id, "a", "b")
    assert 0.999 < pair.similarity <= 1.0
    assert near_duplicates(records, records) == [] and near_duplicates([], records) == []
    assert near_duplicates(records, [], threshold=-1.0) == []
    same = near_duplicates(records, [records[1].relabel("other")])
    assert [(p.id, p.similarity) for p in same] == [(records[1].id, pytest.approx(1.0))]


def test_near_duplicates_stay_in_their_space_and_bear_zeros() -> None:
    zero = Record(SPACE.sha256, "a", np.zeros((2, 8), dtype=np.int16))
    assert near_duplicates([zero], [example("a", 1, space=OTHER_SPACE), zero.relabel("b")], threshold=0.5) == []


def test_a_journal_s_view_is_compared_record_by_record(tmp_path: Path) -> None:
    with Journal.open(tmp_path, space=SPACE) as journal:
        journal.teach([example("a", seed) for seed in range(4)], provenance=origins(4))
        assert len(near_duplicates([example("b", 2)], journal.records().values())) == 1
