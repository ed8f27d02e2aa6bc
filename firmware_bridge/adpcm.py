"""IMA-ADPCM: sound in a quarter of the bytes (Interactive Multimedia Association 1992).

A block starts with the predictor (int16), the step's index and whether its last half byte is unused, so that a lost
block spoils no other. The first of two samples is the low half of a byte.
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

STEPS = (
    7, 8, 9, 10, 11, 12, 13, 14, 16, 17, 19, 21, 23, 25, 28, 31, 34, 37, 41, 45, 50, 55, 60, 66, 73, 80, 88, 97, 107,
    118, 130, 143, 157, 173, 190, 209, 230, 253, 279, 307, 337, 371, 408, 449, 494, 544, 598, 658, 724, 796, 876, 963,
    1060, 1166, 1282, 1411, 1552, 1707, 1878, 2066, 2272, 2499, 2749, 3024, 3327, 3660, 4026, 4428, 4871, 5358, 5894,
    6484, 7132, 7845, 8630, 9493, 10442, 11487, 12635, 13899, 15289, 16818, 18500, 20350, 22385, 24623, 27086, 29794,
    32767,
)  # fmt: skip
TURNS = (-1, -1, -1, -1, 2, 4, 6, 8)
HEAD = struct.Struct("<hBB")


def _change(step: int, code: int) -> int:
    """By how much a code moves the predictor, in the whole-number arithmetic of the standard."""
    size = (step >> 3) + (step if code & 4 else 0) + (step >> 1 if code & 2 else 0) + (step >> 2 if code & 1 else 0)
    return -size if code & 8 else size


_CHANGES = [[_change(step, code) for code in range(16)] for step in STEPS]
_NEXT = [[min(88, max(0, i + TURNS[code & 7])) for code in range(16)] for i in range(len(STEPS))]


def encode_block(samples: NDArray[np.int16], predictor: int = 0, index: int = 0) -> tuple[bytes, int, int]:
    """Encode (n,) int16; return the block, and predictor and index for the next one."""
    head = HEAD.pack(predictor, index, len(samples) % 2)
    codes = []
    for sample in samples.tolist():
        step, left = STEPS[index], sample - predictor
        code = 8 if left < 0 else 0
        left = abs(left)
        for bit in (4, 2, 1):
            if left >= step:
                code |= bit
                left -= step
            step >>= 1
        predictor = min(32767, max(-32768, predictor + _CHANGES[index][code]))
        index = _NEXT[index][code]
        codes.append(code)
    if len(codes) % 2:
        codes.append(0)
    return head + bytes(low | high << 4 for low, high in zip(codes[::2], codes[1::2], strict=True)), predictor, index


def decode_block(block: bytes) -> NDArray[np.int16]:
    """Decode a block to (n,) int16. Raises ValueError when it is none."""
    if len(block) < HEAD.size:
        raise ValueError(f"a block of ADPCM has {len(block)} bytes; wanted {HEAD.size} at least")
    predictor, index, odd = HEAD.unpack_from(block)
    if index > 88 or odd > 1 or (odd and len(block) == HEAD.size):
        raise ValueError("a block of ADPCM whose head is out of range")
    out = []
    for byte in block[HEAD.size :]:
        for code in (byte & 15, byte >> 4):
            predictor = min(32767, max(-32768, predictor + _CHANGES[index][code]))
            index = _NEXT[index][code]
            out.append(predictor)
    return np.array(out[: len(out) - odd], dtype=np.int16)
