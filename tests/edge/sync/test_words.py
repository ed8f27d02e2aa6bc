"""What both ends speak: every message comes back as it was sent, and nothing that was altered is accepted."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import SyncError
from edge.space import EmbeddingSpace, FeatureSpace
from edge.statistics import SufficientStatistics
from edge.sync.clip_pack import PackedClip, decode_clips, encode_clips
from edge.sync.keys import DeviceKey, device_id, signature_holds
from edge.sync.signing import NONCE, SEQUENCE, SIGNATURE, parse_headers, sign_request
from edge.sync.state_message import decode_state, encode_state
from tests.faults import repetitions

SPACE = FeatureSpace(EmbeddingSpace("ab" * 32, 16_000, 16_000, 4_000, 6))
KEY = DeviceKey.generate()
hashes = st.binary(min_size=32, max_size=32).map(bytes.hex)


def statistics(n: int, seed: int) -> SufficientStatistics:
    rng = np.random.default_rng(seed)
    features = rng.integers(-(2**14), 2**14, (n, 6)).astype(np.int16)
    return SufficientStatistics.from_samples(SPACE, features, [f"c{i % 3}" for i in range(n)])


@given(ids=st.sets(hashes, max_size=8), revision=st.integers(1, 2**53), n=st.integers(0, 9), seed=st.integers(0, 99))
def test_a_statement_comes_back(ids: set[str], revision: int, n: int, seed: int) -> None:
    known = statistics(n, seed)
    message = decode_state(encode_state(revision, ids, known))
    assert message.statistics == known
    assert message.record_ids == tuple(sorted(ids))
    assert message.revision == revision


def test_the_same_knowledge_is_the_same_bytes() -> None:
    one, two = "11" * 32, "22" * 32
    assert encode_state(7, [two, one, two], statistics(5, 1)) == encode_state(7, [one, two], statistics(5, 1))


@pytest.mark.faults
def test_no_mutation_of_a_statement_is_accepted() -> None:
    data = encode_state(3, ["11" * 32, "22" * 32], statistics(5, 1))
    rng = np.random.default_rng(0)
    for _ in range(repetitions(200, 5000)):
        mutated = bytearray(data)
        mutated[rng.integers(len(data))] ^= 1 << rng.integers(8)
        with pytest.raises(SyncError):
            decode_state(bytes(mutated))
    for end in range(len(data)):
        with pytest.raises(SyncError):
            decode_state(data[:end])


@pytest.mark.faults
def test_a_forged_statement_with_a_right_hash_breaks_nothing() -> None:
    """Whoever alters a statement can hash it anew: what is read then is refused in a sentence or has the right form."""
    body = encode_state(3, ["11" * 32, "22" * 32], statistics(5, 1))[:-32]
    rng = np.random.default_rng(1)
    for _ in range(repetitions(300, 5000)):
        forged = bytearray(body)
        for _ in range(int(rng.integers(1, 4))):
            forged[rng.integers(len(body))] = rng.integers(256)
        try:
            message = decode_state(bytes(forged) + hashlib.sha256(forged).digest())
        except SyncError:
            continue
        assert list(message.record_ids) == sorted(set(message.record_ids))
        assert message.statistics.gram.shape == (message.space.dim, message.space.dim)


def test_record_ids_out_of_order_are_refused() -> None:
    one, two = "11" * 32, "22" * 32
    body = encode_state(1, [one, two], statistics(2, 0))[:-32]
    swapped = body.replace(bytes.fromhex(one + two), bytes.fromhex(two + one))
    with pytest.raises(SyncError, match="ascending"):
        decode_state(swapped + hashlib.sha256(swapped).digest())


@given(wavs=st.dictionaries(hashes, st.binary(max_size=40), max_size=6))
def test_clips_come_back(wavs: dict[str, bytes]) -> None:
    clips = [PackedClip.of(content, wav) for content, wav in wavs.items()]
    assert decode_clips(encode_clips(reversed(clips))) == sorted(clips, key=lambda clip: clip.content_sha256)


def test_a_clip_may_come_without_its_bytes() -> None:
    clip = PackedClip.of("11" * 32, b"RIFF")
    (seen,) = decode_clips(encode_clips([clip.known_already()]))
    assert seen.wav == b""
    assert seen.wav_sha256 == clip.wav_sha256


@pytest.mark.faults
def test_no_mutation_of_a_pack_is_accepted() -> None:
    data = encode_clips([PackedClip.of("11" * 32, b"a" * 50), PackedClip.of("22" * 32, b"b" * 9)])
    rng = np.random.default_rng(2)
    for _ in range(repetitions(200, 5000)):
        mutated = bytearray(data)
        mutated[rng.integers(len(data))] ^= 1 << rng.integers(8)
        with pytest.raises(SyncError):
            decode_clips(bytes(mutated))
    for end in range(len(data)):
        with pytest.raises(SyncError):
            decode_clips(data[:end])


def signed(**changes: object) -> bool:
    """Whether a request signed for POST /v1/poll?a=1 with body b still holds when something of it is changed."""
    headers = sign_request(KEY, "POST", "/v1/poll?a=1", b"b", sequence=5, nonce=b"n" * 16)
    parts = {"public": KEY.public_bytes, "method": "POST", "target": "/v1/poll?a=1", "body": b"b"}
    parts.update({name: value for name, value in changes.items() if name in parts})
    headers.update({name: str(value) for name, value in changes.items() if name not in parts})
    seen = parse_headers(headers)
    return seen.holds(parts["public"], parts["method"], parts["target"], parts["body"])  # type: ignore[arg-type]


def test_a_signature_covers_every_part_of_a_request() -> None:
    assert signed()
    assert not signed(method="PUT")
    assert not signed(target="/v1/poll?a=2")
    assert not signed(body=b"c")
    assert not signed(public=DeviceKey.generate().public_bytes)
    assert not signed(**{SEQUENCE: 6})
    assert not signed(**{NONCE: "00" * 16})


@pytest.mark.parametrize(
    "name, value",
    [(SEQUENCE, "0"), (SEQUENCE, "-1"), (SEQUENCE, "9" * 17), (NONCE, "zz"), (SIGNATURE, "!"), (NONCE, "")],
)
def test_malformed_headers_are_named(name: str, value: str) -> None:
    headers = sign_request(KEY, "GET", "/", b"", sequence=1, nonce=b"n" * 16)
    with pytest.raises(SyncError, match=name):
        parse_headers({**headers, name: value})


def test_a_key_is_kept_for_its_owner_alone(tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "key"
    KEY.save(path)
    assert path.stat().st_mode & 0o077 == 0
    again = DeviceKey.load(path)
    assert again.device_id == KEY.device_id == device_id(KEY.public_bytes)
    assert signature_holds(KEY.public_bytes, again.sign(b"x"), b"x")
    assert not signature_holds(KEY.public_bytes, again.sign(b"x"), b"y")
    path.write_bytes(b"nothing")
    with pytest.raises(SyncError, match="enrol"):
        DeviceKey.load(path)
