"""Every statement of real unit vectors passes; every poisoned one is refused by the check that names its fault."""

from __future__ import annotations

import hashlib
import io
import json
import struct
import wave
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from edge.records import BACKGROUND, Record
from edge.space import EmbeddingSpace, FeatureSpace, canonical_json, l2_normalize
from edge.statistics import SufficientStatistics
from edge.sync.state_message import encode_state
from tests.simulators.fleet_device import SPACE, embeddings, sound, statement, statistics_of
from trainer.server import validation
from trainer.server.limits import ServerSettings
from trainer.server.validation import Rejected, check_embeddings, check_statement, check_statistics, wav_fault

SETTINGS = ServerSettings(max_upload_bytes=1 << 20, max_windows=1000, max_header_bytes=1 << 12)
KNOWN = {SPACE.sha256}
RECORDS = tuple(sound(label, seed, n_windows=4) for seed, label in enumerate(("bell", "bell", "dog", BACKGROUND)))
IDS = [record.id for record in RECORDS]


def refused(data: bytes) -> str:
    with pytest.raises(Rejected) as caught:
        check_statement(data, KNOWN, SETTINGS)
    assert str(caught.value).startswith(caught.value.check + ": ")
    return caught.value.check


@given(
    d=st.integers(1, 24),
    counts=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    seed=st.integers(0, 2**32),
    alike=st.booleans(),
    sparse=st.booleans(),
)
def test_real_embeddings_always_pass(d: int, counts: list[int], seed: int, alike: bool, sparse: bool) -> None:
    space = replace(SPACE, dim=d)
    rng = np.random.default_rng(seed)
    records = []
    for i, n in enumerate(counts):
        x = rng.standard_normal((n, d))
        if alike:
            x[:] = x[:1] + 1e-5 * x
        if sparse:
            x[:, 1:] *= rng.random(d - 1) < 0.2
        records.append(
            Record(space.sha256, f"label {i % 3}", space.grid.quantize(l2_normalize(x.astype(np.float32)))[0])
        )
    data = encode_state(1, [record.id for record in records], statistics_of(records, space))
    message = check_statement(data, {space.sha256}, SETTINGS)
    assert message.statistics == statistics_of(records, space)


def test_an_empty_statement_passes() -> None:
    assert check_statement(statement(1, []), KNOWN, SETTINGS).record_ids == ()


def poisoned(change: Callable[[dict[str, Any]], None]) -> bytes:
    s = statistics_of(RECORDS)
    parts: dict[str, Any] = {
        "labels": s.labels, "counts": s.counts.copy(), "sums": s.sums.copy(), "gram": s.gram.copy()
    }  # fmt: skip
    change(parts)
    return encode_state(1, IDS, SufficientStatistics(s.space, **parts))


def scaled(factor: float) -> Callable[[dict[str, Any]], None]:
    def change(parts: dict[str, Any]) -> None:
        parts["gram"] *= factor
        parts["sums"] *= factor

    return change


def non_psd(parts: dict[str, Any]) -> None:
    """The right trace, but directions whose energy is taken from others that had not so much."""
    gram = parts["gram"]
    diagonal = np.diagonal(gram).copy()
    i, j = int(np.argmin(diagonal)), int(np.argmax(diagonal))
    moved = np.rint(diagonal[i] * 0.9)
    gram[i, i] -= moved
    gram[j, j] += moved


def negative_diagonal(parts: dict[str, Any]) -> None:
    gram = parts["gram"]
    gram[0, 0], gram[1, 1] = -5.0, gram[1, 1] + gram[0, 0] + 5.0


def long_sum(parts: dict[str, Any]) -> None:
    parts["counts"][0], parts["counts"][1] = parts["counts"][1], 1.0
    parts["counts"][2] = 16.0 - parts["counts"][0] - 1.0


def more_windows(parts: dict[str, Any]) -> None:
    parts["counts"] += 1.0


POISONS: dict[str, tuple[Callable[[dict[str, Any]], None], set[str]]] = {
    "trace of twice the windows": (scaled(2.0), {"trace", "form"}),
    "halved": (lambda parts: parts.update(gram=np.rint(parts["gram"] / 2)), {"trace", "form"}),
    "one entry of the diagonal larger": (
        lambda parts: parts["gram"].__setitem__((0, 0), parts["gram"][0, 0] + 16 * 2**18), {"trace"},
    ),
    "counts that do not fit": (more_windows, {"trace"}),
    "not positive semi-definite": (non_psd, {"scatter", "form"}),
    "negative diagonal": (negative_diagonal, {"form"}),
    "class sum too long": (long_sum, {"class sum", "form"}),
    "huge": (lambda parts: parts["gram"].__imul__(2.0**20), {"trace", "form"}),
    "too many windows": (lambda parts: parts["counts"].__imul__(1000.0), {"windows"}),
    "unknown spelling": (lambda parts: parts.update(labels=(BACKGROUND, "bell ", "dog")), {"labels", "form"}),
    "surrogate in a label": (lambda parts: parts.update(labels=(BACKGROUND, "bell", "d\ud800")), {"labels"}),
}  # fmt: skip


@pytest.mark.parametrize("name", POISONS)
def test_poison_is_refused_with_its_reason(name: str) -> None:
    change, checks = POISONS[name]
    assert refused(poisoned(change)) in checks


def forged(change: Callable[[bytearray, int], None]) -> bytes:
    """Alter the int64 numbers of a statement in place and make both hashes right again. change: body, their start."""
    data = statement(1, RECORDS)
    n_header = struct.unpack_from("<I", data, 12)[0]
    start = 16 + n_header + 8 + 32 * len(IDS)
    stats = bytearray(data[start:-64])
    n_inner = struct.unpack_from("<I", stats, 24)[0]
    change(stats, 28 + n_inner)
    inner = bytes(stats) + hashlib.sha256(stats).digest()
    body = data[:start] + inner
    return body + hashlib.sha256(body).digest()


@pytest.mark.parametrize(
    "number", [float("nan"), float("inf"), -float("inf"), 1e300, -1e300], ids=["nan", "inf", "-inf", "huge", "-huge"]
)
@pytest.mark.parametrize("where", range(0, 63, 5))
def test_numbers_that_are_not_finite_cannot_be_said(number: float, where: int) -> None:
    """The numbers are int64: the bits of a float that is not finite are an integer above 2^53, and are refused."""

    def write(stats: bytearray, at: int) -> None:
        struct.pack_into("<d", stats, at + 8 * where, number)

    assert refused(forged(write)) == "form"


def test_a_class_without_windows_is_refused() -> None:
    assert refused(forged(lambda stats, at: struct.pack_into("<q", stats, at, 0))) == "form"
    assert refused(forged(lambda stats, at: struct.pack_into("<q", stats, at, -3))) == "form"


def test_cut_and_altered_statements_are_refused() -> None:
    data = statement(1, RECORDS)
    for end in range(0, len(data), 7):
        assert refused(data[:end]) == "form"
    for at in range(0, len(data), 11):
        assert refused(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]) == "form"
    assert refused(data + b"\0" * SETTINGS.max_upload_bytes) == "size"


def test_unknown_spaces_are_refused_before_anything_large_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "decode_state", lambda data: pytest.fail("it was read"))
    other = replace(SPACE, backbone_sha256="0" * 64)
    assert refused(statement(1, [sound("bell", 1, space=other)], other)) == "space"


def test_labels_of_a_megabyte_are_refused_before_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = tuple(sorted(f"label {i}" for i in range(1000)))
    many = SufficientStatistics(
        FeatureSpace(SPACE), labels, np.ones(1000), np.zeros((1000, 8)), np.eye(8) * np.rint(1000 * 2**28 / 8)
    )
    data = encode_state(1, IDS, many)
    monkeypatch.setattr(validation, "decode_state", lambda data: pytest.fail("it was read"))
    assert refused(data) == "labels"


def test_records_without_windows_are_refused() -> None:
    assert refused(encode_state(1, [f"{i:064x}" for i in range(99)], statistics_of(RECORDS))) == "records"
    assert refused(encode_state(1, [], statistics_of(RECORDS))) == "records"


def test_wrong_dimensions_and_deep_headers_are_refused() -> None:
    stats = statistics_of(RECORDS).to_bytes()
    wide = replace(SPACE, dim=9)
    for space, known in ((wide, {wide.sha256}), (SPACE, KNOWN)):
        header = canonical_json({"revision": 1, "space": json.loads(canonical_json(_described(space)))})
        body = b"SKSTATE\0" + struct.pack("<II", 1, len(header)) + header + struct.pack("<Q", 0)
        body += stats if space is wide else stats[:24] + struct.pack("<I", 4000) + b"[" * 4000
        if space is SPACE:
            body += hashlib.sha256(body[16 + len(header) + 8 :]).digest()
        with pytest.raises(Rejected, match="form"):
            check_statement(body + hashlib.sha256(body).digest(), known, SETTINGS)


def _described(space: EmbeddingSpace) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(space)


def test_without_the_scatter_check_an_impossible_matrix_would_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "check_scatter", lambda statistics: None)
    s = statistics_of(RECORDS)
    gram = s.gram.copy()  # two features correlated as strongly as the cheap check allows, but not with the others
    bound = np.floor(np.sqrt(np.outer(np.diagonal(gram), np.diagonal(gram))) * 0.999)
    for i, j in ((0, 1), (1, 2), (0, 2)):
        gram[i, j] = gram[j, i] = -bound[i, j]
    data = encode_state(1, IDS, replace(s, gram=gram))
    assert check_statement(data, KNOWN, SETTINGS)
    monkeypatch.undo()
    assert refused(data) == "scatter"


@given(st.integers(1, 600), st.integers(0, 2**32))
def test_the_tolerance_of_the_trace_is_what_rounding_needs(d: int, seed: int) -> None:
    """Rows built to lose or gain as much as rounding can stay within the bound; one more in each entry does not."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((3, d))
    rows = np.rint(x / np.linalg.norm(x, axis=1, keepdims=True) * 2**14)
    gram = rows.T @ rows
    validation.check_trace(gram, 3, 2.0**14)
    if d > 1:
        uniform = np.full((3, d), np.rint(2**14 / np.sqrt(d)) + 2)
        with pytest.raises(Rejected, match="trace"):
            validation.check_trace(uniform.T @ uniform, 3, 2.0**14)


def test_embeddings_are_unit_vectors_of_a_known_space() -> None:
    good = sound("bell", 1)
    long = Record(SPACE.sha256, "bell", (good.embeddings // 2).astype(np.int16))
    _, records, reasons = check_embeddings(embeddings([good, long]), KNOWN)
    assert [record.id for record in records] == [good.id] and list(reasons) == [long.id]
    with pytest.raises(Rejected, match="space"):
        check_embeddings(embeddings([good]), set())
    with pytest.raises(Rejected, match="form"):
        check_embeddings(embeddings([good])[:-1], KNOWN)


def wav(n: int = 100, *, rate: int = 16000, channels: int = 1, width: int = 2) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(channels)
        writer.setsampwidth(width)
        writer.setframerate(rate)
        writer.writeframes(bytes(n * channels * width))
    return file.getvalue()


def test_clips_are_wav_files_of_the_space() -> None:
    assert wav_fault(wav(), 16000, 1000) is None
    faults = (wav(rate=8000), wav(channels=2), wav(width=1), wav(0), wav()[:-2], wav()[:20], b"RIFF", b"x", wav(1000))
    for bad in faults:
        assert (wav_fault(bad, 16000, 1000) or "").startswith("rejected: ")


def test_statistics_in_memory_are_judged_as_well() -> None:
    """The packed form cannot say these; the check does not rely on it."""
    s = statistics_of(RECORDS)

    def check(**changes: Any) -> str:
        with pytest.raises(Rejected) as caught:
            check_statistics(replace(s, **changes), n_records=4, max_windows=1000)
        return caught.value.check

    gram = s.gram.copy()
    gram[0, 1] += 1
    assert check(gram=gram) == "symmetric"
    assert check(gram=s.gram + 0.5) == "numbers"
    assert check(sums=np.full_like(s.sums, np.nan)) == "numbers"
    assert check(gram=s.gram - np.diag(np.full(8, 1e12))) == "diagonal"
