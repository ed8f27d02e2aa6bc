"""IMA-ADPCM: blocks stand alone, errors stay within a step, nothing out of range is decoded."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from firmware_bridge.adpcm import decode_block, encode_block


@given(samples=arrays(np.int16, st.integers(0, 200)), predictor=st.integers(-32768, 32767), index=st.integers(0, 88))
def test_a_block_holds_its_samples(samples: np.ndarray, predictor: int, index: int) -> None:
    block, after, next_index = encode_block(samples, predictor, index)
    decoded = decode_block(block)
    assert decoded.shape == samples.shape and len(block) == 4 + (len(samples) + 1) // 2
    assert len(samples) == 0 or decoded[-1] == after
    again, *_ = encode_block(samples[:0], after, next_index)
    assert len(decode_block(again)) == 0


def test_speech_like_sound_comes_back_close() -> None:
    rng, t = np.random.default_rng(0), np.arange(16000)
    x = (9000 * np.sin(t * 0.05) * np.sin(t * 0.0006) + 200 * rng.standard_normal(16000)).astype(np.int16)
    decoded, p, i = [], 0, 0
    for start in range(0, len(x), 320):
        block, p, i = encode_block(x[start : start + 320], p, i)
        decoded.append(decode_block(block))
    error = np.concatenate(decoded).astype(float) - x
    assert 10 * np.log10(np.mean(x.astype(float) ** 2) / np.mean(error**2)) > 25.0


def test_a_lost_block_spoils_no_other() -> None:
    x = (8000 * np.sin(np.arange(1280) * 0.1)).astype(np.int16)
    blocks, p, i = [], 0, 0
    for start in range(0, len(x), 320):
        block, p, i = encode_block(x[start : start + 320], p, i)
        blocks.append(block)
    whole = [decode_block(block) for block in blocks]
    assert np.array_equal(decode_block(blocks[3]), whole[3]), "block 3 needs no block before it"
    headless = decode_block(b"\0\0\0\0" + blocks[3][4:])
    assert not np.array_equal(headless, whole[3]), "without its head it would"


@pytest.mark.parametrize("block", [b"", b"\0\0", b"\0\0\x59\0", b"\0\0\0\x02ab", b"\0\0\0\x01"])
def test_what_is_no_block_is_refused(block: bytes) -> None:
    with pytest.raises(ValueError, match="ADPCM"):
        decode_block(block)
