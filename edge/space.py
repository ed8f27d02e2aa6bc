"""Where numbers live: the grid, the lift, and the identity of embedding and feature spaces.

Two embeddings, statistics or memories may meet only when they belong to the same space. A space is named by the SHA-256
of its canonical description, so the name can be stored, sent and compared.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from edge.errors import ConfigurationError

INT16_MAX = 32767


def canonical_json(value: Mapping[str, Any]) -> bytes:
    """Return the one byte string that stands for ``value``: sorted keys, no spaces, ASCII, no floats needed."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode("ascii")


def l2_normalize(embeddings: NDArray[np.float32]) -> NDArray[np.float64]:
    """Scale each row to unit Euclidean length; an all-zero row stays zero.

    embeddings: (n, d) float32. Returns (n, d) float64.
    """
    x = embeddings.astype(np.float64)
    norm = np.sqrt(np.einsum("ij,ij->i", x, x))
    return np.asarray(x / np.where(norm > 0.0, norm, 1.0)[:, None])


@dataclass(frozen=True)
class Grid:
    """Rounding to integers: ``q = round(x * 2**fraction_bits)``, clipped to int16.

    On the grid every product and every sum of features is an integer, and float64 holds integers up to 2^53 exactly:
    that is what makes the order of learning irrelevant to the bit.
    """

    fraction_bits: int = 14

    def __post_init__(self) -> None:
        if not 1 <= self.fraction_bits <= 14:
            raise ConfigurationError(
                f"grid fraction_bits is {self.fraction_bits}; wanted 1 to 14 (a unit must fit int16)"
            )

    @property
    def scale(self) -> float:
        return float(2**self.fraction_bits)

    def quantize(self, x: NDArray[np.floating[Any]]) -> tuple[NDArray[np.int16], int]:
        """Round to the grid (ties to even). x: (n, d). Returns (n, d) int16 and the number of clipped entries."""
        scaled = np.rint(np.asarray(x, dtype=np.float64) * self.scale)
        n_clipped = int(np.count_nonzero(np.abs(scaled) > INT16_MAX))
        return np.clip(scaled, -INT16_MAX, INT16_MAX).astype(np.int16), n_clipped


@dataclass(frozen=True)
class EmbeddingSpace:
    """Identity of a record's vectors. Lengths are samples at ``sample_rate`` (Hz)."""

    backbone_sha256: str
    sample_rate: int
    window_length: int
    hop_length: int
    dim: int
    grid: Grid = field(default_factory=Grid)

    @functools.cached_property
    def sha256(self) -> str:
        return hashlib.sha256(canonical_json(asdict(self))).hexdigest()


@functools.lru_cache(maxsize=4)
def _signs(seed: int, dim_in: int, dim_out: int) -> NDArray[np.float64]:
    """Return the fixed (dim_in, dim_out) matrix of +-1, from SHA-256 in counter mode: the same bits everywhere."""
    n_bytes = (dim_in * dim_out + 7) // 8
    blocks = (hashlib.sha256(f"soundkeep lift {seed} {i}".encode()).digest() for i in range((n_bytes + 31) // 32))
    bits = np.unpackbits(np.frombuffer(b"".join(blocks), dtype=np.uint8))[: dim_in * dim_out]
    return (bits.astype(np.float64) * 2.0 - 1.0).reshape(dim_in, dim_out)


@dataclass(frozen=True)
class Lift:
    """Random expansion in integers: multiply by a fixed +-1 matrix, ReLU, shift right, clip to int16.

    Every intermediate is an integer below 2^53, so x86 and ARM give the same bits.
    Source of the idea: McDonnell et al. 2023 (RanPAC), with an integer matrix instead of a Gaussian one.
    """

    dim: int
    shift: int = 3
    seed: int = 0

    def apply(self, embeddings: NDArray[np.int16]) -> tuple[NDArray[np.int16], int]:
        """embeddings: (n, d) int16. Returns (n, dim) int16 and the number of clipped entries."""
        product = embeddings.astype(np.float64) @ _signs(self.seed, embeddings.shape[1], self.dim)
        lifted = np.maximum(product, 0.0).astype(np.int64) >> self.shift
        n_clipped = int(np.count_nonzero(lifted > INT16_MAX))
        return np.minimum(lifted, INT16_MAX).astype(np.int16), n_clipped


@dataclass(frozen=True)
class FeatureSpace:
    """Identity of statistics: an embedding space and an optional lift.

    storable: whether statistics of this space may be written to a file; those of a training run may not.
    """

    storable: ClassVar[bool] = True

    embedding: EmbeddingSpace
    lift: Lift | None = None

    @property
    def dim(self) -> int:
        return self.embedding.dim if self.lift is None else self.lift.dim

    @functools.cached_property
    def sha256(self) -> str:
        lift = None if self.lift is None else asdict(self.lift)
        return hashlib.sha256(canonical_json({"embedding": self.embedding.sha256, "lift": lift})).hexdigest()

    def features(self, embeddings: NDArray[np.int16]) -> tuple[NDArray[np.int16], int]:
        """Turn stored embeddings (n, d) int16 into features (n, dim) int16; second value: clipped entries."""
        return (embeddings, 0) if self.lift is None else self.lift.apply(embeddings)
