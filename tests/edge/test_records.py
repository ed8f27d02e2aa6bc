"""Laws of records: one spelling of a label, and a name that follows from the content alone."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import LabelError, MisuseError
from edge.records import BACKGROUND, Record, normalize_label, provenance_bytes
from tests.edge.examples import OTHER_SPACE, SPACE, example


@given(st.text(max_size=60))
def test_a_normalised_label_is_its_own_normal_form(text: str) -> None:
    try:
        label = normalize_label(text)
    except LabelError:
        return
    assert normalize_label(label) == label
    assert label == unicodedata.normalize("NFC", label) == label.strip()
    assert 1 <= len(label.encode("utf-8")) <= 200


@pytest.mark.parametrize("text", ["Tür\u0308", "  door bell ", "../../etc/passwd", "犬", "🔔", "a" * 200, "é" * 100])
def test_ordinary_and_odd_names_are_labels(text: str) -> None:
    assert normalize_label(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        (" \t\n", "is empty"),
        ("a" * 201, "201 bytes"),
        ("é" * 101, "202 bytes"),
        ("x" * 10_000, "10000 bytes"),
        ("a\nb", "U+000A"),
        ("a\x00b", "U+0000"),
        ("a\x1b[31m", "U+001B"),
        ("\ud800", "U+D800"),
        ("a\u2028b", "U+2028"),
        (BACKGROUND, "reserved"),
        (f" {BACKGROUND} ", "reserved"),
    ],
)
def test_an_unusable_label_is_refused_in_one_sentence(text: str, says: str) -> None:
    with pytest.raises(LabelError, match=says.replace("+", r"\+")) as refusal:
        normalize_label(text)
    assert len(str(refusal.value)) < 300 and "\n" not in str(refusal.value)


def test_two_spellings_of_one_name_are_one_label() -> None:
    assert normalize_label("Tu\u0308r") == normalize_label("T\u00fcr")


def test_the_id_follows_from_space_label_and_embeddings() -> None:
    record = example("door", 1)
    assert record.id == example("door", 1).id and record == example("door", 1)
    different = [example("door", 2), example("bell", 1), example("door", 1, space=OTHER_SPACE), record.relabel("bell")]
    assert record.id not in {other.id for other in different}
    assert record.relabel("bell").relabel("door").id == record.id
    flat = Record(SPACE.sha256, "door", record.embeddings.reshape(1, -1))
    assert flat.id != record.id, "the shape is part of the content"


def test_the_id_is_the_same_for_any_memory_layout() -> None:
    x = example("door", 1).embeddings
    for same in (np.asfortranarray(x), x.astype(">i2").astype(np.int16), np.repeat(x, 2, axis=0)[::2]):
        assert Record(SPACE.sha256, "door", same).id == example("door", 1).id


def test_the_id_is_fixed_for_all_versions() -> None:
    record = Record("0" * 64, "door bell", np.arange(-4, 4, dtype=np.int16).reshape(2, 4))
    assert record.id == "e41f13dd41b069bacc7a394e905401068bb0b7db7ed647a45238220cd9831685"


def test_a_record_is_a_value() -> None:
    x = np.ones((1, 8), dtype=np.int16)
    record = Record(SPACE.sha256, "door", x)
    before = record.id
    x[:] = 7
    assert record.embeddings[0, 0] == 1 and record.id == before
    with pytest.raises(ValueError, match="read-only"):
        record.embeddings[0, 0] = 5


@pytest.mark.parametrize(
    "embeddings",
    [
        np.zeros((0, 8), dtype=np.int16),
        np.zeros((2, 0), dtype=np.int16),
        np.zeros(8, dtype=np.int16),
        np.zeros((2, 8), dtype=np.int32),
        np.zeros((2, 8), dtype=np.float32),
    ],
)
def test_embeddings_of_another_kind_are_refused(embeddings: np.ndarray) -> None:
    with pytest.raises(MisuseError, match="wanted int16"):
        Record(SPACE.sha256, "door", embeddings)


def test_a_record_takes_only_normalised_labels_and_true_space_names() -> None:
    x = np.ones((1, 8), dtype=np.int16)
    assert Record(SPACE.sha256, BACKGROUND, x).label == BACKGROUND
    with pytest.raises(LabelError, match="not normalised"):
        Record(SPACE.sha256, " door", x)
    with pytest.raises(MisuseError, match="64 lower-case hex"):
        Record("door", "door", x)


@pytest.mark.parametrize("origin", [{"a": float("nan")}, {"a": object()}, {"a": b"bytes"}, {"a": "x" * (1 << 19)}])
def test_provenance_is_plain_json_of_bounded_size(origin: dict[str, object]) -> None:
    with pytest.raises(MisuseError, match="provenance"):
        provenance_bytes(origin)
