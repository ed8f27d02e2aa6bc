"""A manifest has one form in bytes, carries its own hash, and refuses everything that is not exactly that."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import BundleError, ConfigurationError
from edge.manifest import MAX_MANIFEST_BYTES, DetectionDefaults, FileEntry, Manifest, parse_manifest
from edge.space import Grid, canonical_json

HASH = hashlib.sha256(b"weights").hexdigest()
names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,20}", fullmatch=True)
numbers = st.none() | st.floats(allow_nan=False, allow_infinity=False) | st.integers(-100, 100)
counts = st.none() | st.integers(0, 10_000)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    window = draw(st.integers(1, 48_000))
    files = {"backbone.onnx": FileEntry("backbone", draw(st.integers(0, 2**20)), HASH)}
    for name in draw(st.sets(names.map(str.lower), max_size=4)):
        files[f"{name}.txt"] = FileEntry("document", draw(st.integers(0, 99)), HASH)
    return Manifest(
        name=draw(names),
        version=draw(st.integers(1, 2**31)),
        licence=draw(st.sampled_from(["Apache-2.0", "CC BY-NC 4.0 — recordings"])),
        input_name="waveform",
        output_name=draw(names),
        sample_rate=draw(st.integers(1000, 192_000)),
        window_length=window,
        hop_length=draw(st.integers(1, window)),
        dim=draw(st.integers(1, 4096)),
        grid=Grid(draw(st.integers(1, 14))),
        files=files,
        detection=DetectionDefaults(ridge=draw(numbers), threshold=draw(numbers), k=draw(counts), hold_ms=draw(counts)),
        extra=draw(st.dictionaries(names, json_values, max_size=3)),
    )


def one(**changes: Any) -> Manifest:
    fields: dict[str, Any] = {
        "name": "ear",
        "version": 3,
        "licence": "Apache-2.0",
        "input_name": "waveform",
        "output_name": "embedding",
        "sample_rate": 16_000,
        "window_length": 16_000,
        "hop_length": 4_000,
        "dim": 256,
        "grid": Grid(),
        "files": {"backbone.onnx": FileEntry("backbone", 7, HASH)},
    }
    return Manifest(**{**fields, **changes})


def resealed(change: Callable[[dict[str, Any]], None]) -> bytes:
    """Return a manifest changed by ``change``, with a hash that is right again: what a clumsy author would write."""
    body = json.loads(one().to_bytes())
    del body["sha256"]
    change(body)
    return canonical_json({**body, "sha256": hashlib.sha256(canonical_json(body)).hexdigest()}) + b"\n"


@given(manifests())
def test_bytes_and_back(manifest: Manifest) -> None:
    data = manifest.to_bytes()
    again = parse_manifest(data)
    assert again == manifest
    assert again.to_bytes() == data
    assert again.sha256 == manifest.sha256
    assert again.space == manifest.space


def test_any_byte_changed_is_noticed() -> None:
    data = one(detection=DetectionDefaults(threshold=3.5, k=2)).to_bytes()
    for i in range(len(data)):
        for bit in (1, 2, 16):
            with pytest.raises(BundleError):
                parse_manifest(data[:i] + bytes([data[i] ^ bit]) + data[i + 1 :])


def test_any_truncation_is_noticed() -> None:
    data = one().to_bytes()
    for end in range(len(data)):
        with pytest.raises(BundleError):
            parse_manifest(data[:end])


def test_without_its_own_hash_a_changed_threshold_would_pass() -> None:
    """The mechanism switched off: the same flip, with the hash made right again, is accepted."""
    assert parse_manifest(resealed(lambda b: b["detection"].update(threshold=9.0))).detection.threshold == 9.0


def test_the_space_is_the_function_not_the_name() -> None:
    base = one()
    assert one(name="other", version=9, licence="MIT", detection=DetectionDefaults(k=1)).space == base.space
    other_weights = {"backbone.onnx": FileEntry("backbone", 7, hashlib.sha256(b"other").hexdigest())}
    for changes in ({"output_name": "scores"}, {"input_name": "x"}, {"files": other_weights}, {"hop_length": 2_000}):
        assert one(**changes).space.sha256 != base.space.sha256
    assert one(grid=Grid(13)).space.sha256 != base.space.sha256


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "a/b",
        "/etc/passwd",
        "..",
        ".hidden",
        "a\\b",
        "C:evil",
        "x" * 101,
        "",
        "a..b",
        "naïve",
        "a\n",
        "con nul",
    ],
)
def test_names_that_leave_the_folder_are_refused(name: str) -> None:
    entry = {"role": "document", "size": 1, "sha256": HASH}
    with pytest.raises(BundleError, match="file name"):
        parse_manifest(resealed(lambda b: b["files"].update({name: entry})))


@pytest.mark.parametrize("name", ["manifest.json", "Manifest.JSON", "BACKBONE.onnx"])
def test_names_that_clash_are_refused(name: str) -> None:
    with pytest.raises(BundleError, match="used twice"):
        parse_manifest(resealed(lambda b: b["files"].update({name: {"role": "document", "size": 1, "sha256": HASH}})))


def entry(role: str, size: Any = 1, sha256: Any = HASH) -> dict[str, Any]:
    return {"role": role, "size": size, "sha256": sha256}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda b: b.update(schema=2), "schema 2, this soundkeep reads 1"),
        (lambda b: b.update(colour="red"), "colour"),
        (lambda b: b.pop("licence"), "licence"),
        (lambda b: b.update(name="a b"), "bundle name"),
        (lambda b: b.update(name=7), "bundle name"),
        (lambda b: b.update(version=0), "version is 0"),
        (lambda b: b.update(version=True), "version is True"),
        (lambda b: b.update(licence=""), "licence"),
        (lambda b: b["input"].update(kind="spectrogram"), "'waveform' only"),
        (lambda b: b["input"].update(sample_rate=1.5), "sample_rate"),
        (lambda b: b["input"].update(window_length=0), "window_length"),
        (lambda b: b["input"].update(window_length=10**9), "window_length"),
        (lambda b: b["input"].update(hop_length=16_001), "hop_length"),
        (lambda b: b["output"].update(dim=10**6), "dim"),
        (lambda b: b["grid"].update(fraction_bits=15), "fraction_bits"),
        (lambda b: b["grid"].update(fraction_bits=14.0), "fraction_bits"),
        (lambda b: b.update(files=[]), "files is list"),
        (lambda b: b.update(files={}), "one backbone"),
        (lambda b: b.update(files={f"f{i}": entry("document") for i in range(65)}), "at most 64"),
        (lambda b: b["files"].update(x=entry("virus")), "role 'virus'"),
        (lambda b: b["files"].update(x=entry("backbone")), "no other role twice|each other role once"),
        (lambda b: b["files"].update(x=entry("canary_waveforms")), "half a canary"),
        (lambda b: b["files"].update(x=entry("document", size=-1)), "size of 'x'"),
        (lambda b: b["files"].update(x=entry("document", size=10**12)), "size of 'x'"),
        (lambda b: b["files"].update(x=entry("document", sha256="0")), "64 hexadecimal"),
        (lambda b: b["files"].update(x=entry("document", sha256=HASH.upper())), "64 hexadecimal"),
        (lambda b: b["files"].update(x={"role": "document"}), "missing or unknown keys"),
        (lambda b: b["detection"].update(volume=11), "unknown keys"),
        (lambda b: b["detection"].update(k=1.5), "detection k"),
        (lambda b: b["detection"].update(k=-1), "detection k"),
        (lambda b: b["detection"].update(ridge="big"), "detection ridge"),
        (lambda b: b["detection"].update(ridge=None), "canonical"),
        (lambda b: b.update(extra=[]), "extra is list"),
    ],
)
def test_each_wrong_field_is_named(change: Callable[[dict[str, Any]], None], sentence: str) -> None:
    with pytest.raises(BundleError, match=sentence) as caught:
        parse_manifest(resealed(change))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"schema":1,"schema":1}',
        b'{"schema":1,"extra":NaN}',
        b'{"schema":1,"extra":1e999}',
        b"[" * 100_000,
        b'{"schema":1,"extra":' + b"9" * 10_000 + b"}",
        b" " * (MAX_MANIFEST_BYTES + 1),
    ],
)
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(BundleError):
        parse_manifest(data)


def test_spaces_order_and_doubled_keys_are_refused() -> None:
    data = one().to_bytes()
    value = json.loads(data)
    pretty = json.dumps(value, indent=1).encode()
    doubled = data.replace(b'{"detection":{}', b'{"detection":{"k":9},"detection":{}')
    for other in (pretty, data.rstrip(), data + b"\n", doubled):
        with pytest.raises(BundleError):
            parse_manifest(other)


def test_settings_are_checked_when_made() -> None:
    with pytest.raises(ConfigurationError, match="detection threshold"):
        DetectionDefaults(threshold=float("nan"))
    with pytest.raises(ConfigurationError, match="detection k"):
        DetectionDefaults(k=True)
    assert DetectionDefaults(threshold=-2.0).threshold == -2.0
    with pytest.raises(BundleError, match="dim"):
        one(dim=np.int64(3))
