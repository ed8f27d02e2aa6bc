"""What an older ear heard, in the words of a newer one: one matrix that a bundle carries for its parent's space.

Where the sound itself is kept, a device embeds it again. Where only embeddings or bare sums are left, they go through
this map. Its numbers are whole multiples of 2^-20 and embeddings are integers, so every product and sum is exact: a
mapped embedding has the same bits on every machine, alone or among others.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edge.errors import BundleError, MisuseError, SpaceMismatchError
from edge.memory_file import parse_space
from edge.npy import read_float32, write_float32
from edge.scatter import within_scatter
from edge.space import INT16_MAX, EmbeddingSpace, FeatureSpace, canonical_json
from edge.statistics import BLOCK_ROWS, EXACT_LIMIT, SufficientStatistics
from edge.symmetric import Array

if TYPE_CHECKING:
    from edge.bundle import Bundle

LINEAR_MAP = "linear_map.npy"
FRACTION = 2.0**20
MAX_MAP_BYTES = 1 << 28


@dataclass(frozen=True, eq=False)
class LinearMap:
    """y = x M + b between unit embeddings. matrix: (d_old, d_new) float32. offset: (d_new,) float32.

    Raises MisuseError for other shapes, and for numbers so large that sums would not be exact.
    """

    matrix: NDArray[np.float32]
    offset: NDArray[np.float32]

    def __post_init__(self) -> None:
        matrix, offset = self.matrix, self.offset
        if matrix.ndim != 2 or offset.shape != matrix.shape[1:] or {matrix.dtype, offset.dtype} != {np.dtype("f4")}:
            raise MisuseError(
                f"a linear map of {matrix.dtype} {matrix.shape} and {offset.dtype} {offset.shape}; wanted float32 of "
                "(d_old, d_new) and (d_new,)"
            )
        whole, added = self._whole
        largest = INT16_MAX * np.sum(np.abs(whole), axis=0) + 2.0**14 * np.abs(added)
        if not np.all(largest < EXACT_LIMIT):
            raise MisuseError(f"a linear map whose sums reach {np.max(largest):.2g}; wanted finite and less than 2^53")

    @classmethod
    def identity(cls, dim: int) -> LinearMap:
        """The map that leaves everything as it is."""
        return cls(np.eye(dim, dtype=np.float32), np.zeros(dim, dtype=np.float32))

    @property
    def dims(self) -> tuple[int, int]:
        """Numbers of an embedding before and after."""
        return self.matrix.shape[0], self.matrix.shape[1]

    def embeddings(self, x: NDArray[np.int16], old: EmbeddingSpace, new: EmbeddingSpace) -> NDArray[np.int16]:
        """Map embeddings one by one, to unit length and onto the new grid; a row of zeros stays zeros.

        x: (n, d_old) int16 on the grid of ``old``. Returns (n, d_new) int16 on the grid of ``new``; the bits of a row
        depend on that row alone. Raises SpaceMismatchError for spaces of other sizes.
        """
        self._require(old, new)
        if x.dtype != np.int16 or x.ndim != 2 or x.shape[1] != old.dim:
            raise MisuseError(f"embeddings are {x.dtype} of shape {x.shape}; wanted int16 (n, {old.dim})")
        matrix, offset = self._whole
        mapped = np.empty((len(x), new.dim), dtype=np.int16)
        for start in range(0, len(x), BLOCK_ROWS):
            rows = x[start : start + BLOCK_ROWS].astype(np.float64)
            y = rows @ matrix + old.grid.scale * offset
            squares = np.zeros(len(rows))
            for column in y.T:  # one order of summation, whatever the number of rows
                squares += column * column
            length = np.sqrt(squares)
            unit = y / np.where(length > 0.0, length, 1.0)[:, None]
            unit[~np.any(rows, axis=1)] = 0.0
            mapped[start : start + BLOCK_ROWS] = new.grid.quantize(unit)[0]
        return mapped

    def statistics(self, stats: SufficientStatistics, new: FeatureSpace) -> SufficientStatistics:
        """Map bare sums, of which no embedding is left: a prior, or what a device knows.

        With embeddings u = x / 2^b of unit length, class sums s, class means m = s / n, scatter W within classes:

            n' = n,   s' = c (M's + n b),   W' = e M'W M,   G' = W' + sum over classes of s's'' / n'

        Exact for y = xM + b; but embeddings are scaled to unit length one by one, and sums cannot be. In place of that
        c makes the mean square length 1 over all windows (trace(G') = 2^2b N), a class sum that is then longer than n'
        unit embeddings is cut to that length, and e makes the trace right again. Rounded to whole numbers; then the
        least whole number is added to the diagonal with which W' is positive semi-definite.

        Raises SpaceMismatchError for spaces of other sizes or with a lift.
        """
        if stats.space.lift is not None or new.lift is not None:
            raise SpaceMismatchError("statistics of lifted features cannot be mapped; map those of the embeddings")
        self._require(stats.space.embedding, new.embedding)
        if stats.n_samples == 0:
            return SufficientStatistics.zero(new)
        unit, wanted = new.embedding.grid.scale, stats.n_samples * new.embedding.grid.scale**2
        matrix, offset = (part / FRACTION for part in self._whole)
        counts = stats.counts[:, None]
        scale = unit / stats.space.embedding.grid.scale
        sums = scale * (stats.sums @ matrix) + unit * counts * offset
        within = scale**2 * (matrix.T @ within_scatter(stats) @ matrix)
        within = (within + within.T) / 2.0
        spread, between = float(np.trace(within)), float(np.sum(sums**2 / counts))
        if spread + between > 0.0:
            sums *= np.sqrt(wanted / (spread + between))
        length = np.sqrt(np.sum(sums**2, axis=1, keepdims=True))
        longest = unit * counts
        alone = spread <= 0.0  # each class is one embedding, again and again: then its length is known
        sums *= np.where((length > longest) | (alone & (length > 0.0)), longest / np.maximum(length, 1.0), 1.0)
        sums = np.trunc(sums)
        left = wanted - float(np.sum(sums**2 / counts))
        within *= max(0.0, left) / spread if spread > 0.0 else 0.0
        gram = np.rint(within + (sums / counts).T @ sums)
        gram = np.triu(gram) + np.triu(gram, 1).T
        gram[np.diag_indices_from(gram)] += _missing(gram, sums, stats.counts)
        return SufficientStatistics(new, stats.labels, stats.counts, sums, gram)

    def to_bytes(self) -> bytes:
        """Return the .npy bytes of (d_old + 1, d_new) float32: the matrix, and the offset as its last row."""
        return write_float32(np.vstack([self.matrix, self.offset]))

    @functools.cached_property
    def _whole(self) -> tuple[Array, Array]:
        """Matrix and offset in units of 2^-20, whole numbers in float64."""
        return np.rint(self.matrix.astype(np.float64) * FRACTION), np.rint(self.offset.astype(np.float64) * FRACTION)

    def _require(self, old: EmbeddingSpace, new: EmbeddingSpace) -> None:
        if self.dims != (old.dim, new.dim):
            raise SpaceMismatchError(
                f"a map from {self.dims[0]} to {self.dims[1]} numbers cannot lead from a space of {old.dim} to one of "
                f"{new.dim}; use the map of the bundle that the embeddings go to"
            )


@dataclass(frozen=True, eq=False)
class ParentMap:
    """The map that leads from ``space``, that of the bundle ``bundle_sha256``, to the space of the bundle it is in.

    held_out_cosine, held_out_error: mean cosine of mapped to true embeddings of windows that the map was not fitted on,
    and the mean length of the difference.
    """

    map: LinearMap
    space: EmbeddingSpace
    bundle_sha256: str
    held_out_cosine: float
    held_out_error: float
    n_windows: int
    n_held_out: int

    def described(self) -> dict[str, Any]:
        """What ``extra["parent"]`` of the manifest says."""
        return {
            "space": self.space.sha256,
            "description": asdict(self.space),
            "bundle": self.bundle_sha256,
            "held_out_cosine": self.held_out_cosine,
            "held_out_error": self.held_out_error,
            "n_windows": self.n_windows,
            "n_held_out": self.n_held_out,
        }


def parent_map(bundle: Bundle) -> ParentMap | None:
    """Return the map that ``bundle`` carries for the space of its parent, verified, or None when it carries none.

    Raises BundleError when map, description of the parent and the bundle do not fit each other.
    """
    name = bundle.manifest.file("linear_map")
    if name is None:
        return None
    described = bundle.manifest.extra.get("parent")
    try:
        if not isinstance(described, Mapping):
            raise ValueError("the manifest does not say of which space")
        space = parse_space(canonical_json(described["description"]))
        if space.sha256 != described["space"]:
            raise ValueError("the parent's space does not match its description")
        figures = [described[key] for key in ("held_out_cosine", "held_out_error")]
        counts = [described[key] for key in ("n_windows", "n_held_out")]
        if not all(type(f) in (int, float) for f in figures) or not all(type(n) is int and n >= 0 for n in counts):
            raise ValueError("its figures are no numbers")
        if not isinstance(described["bundle"], str):
            raise ValueError("the parent has no name")
        if bundle.manifest.files[name].size > MAX_MAP_BYTES:
            raise ValueError(f"it has more than {MAX_MAP_BYTES} bytes")
        rows = read_float32(name, bundle.read(name), bundle.manifest.dim)
        if len(rows) != space.dim + 1:
            raise ValueError(f"it has {len(rows)} rows; wanted {space.dim + 1}")
        linear = LinearMap(np.ascontiguousarray(rows[:-1], np.float32), np.ascontiguousarray(rows[-1], np.float32))
    except (KeyError, TypeError, ValueError, RecursionError, MisuseError) as error:
        raise BundleError(f"the linear map of bundle {bundle.name} cannot be used: {error}; fetch it again") from error
    return ParentMap(linear, space, described["bundle"], float(figures[0]), float(figures[1]), counts[0], counts[1])


def _missing(gram: Array, sums: Array, counts: Array) -> float:
    """The least whole number on the diagonal with which the scatter within classes has no negative eigenvalue."""
    within = gram - (sums / counts[:, None]).T @ sums
    lowest = float(np.linalg.eigvalsh((within + within.T) / 2.0)[0])
    rounding = 2.0**-50 * float(np.max(np.abs(gram))) * len(gram)
    return float(np.ceil(max(0.0, -lowest + rounding if lowest < rounding else 0.0)))
