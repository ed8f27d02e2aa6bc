"""Matrices of float32 as .npy bytes, read without trusting their header (and never unpickled)."""

from __future__ import annotations

import io

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from edge.errors import BundleError


def write_float32(matrix: NDArray[np.float32]) -> bytes:
    """Return the .npy bytes of a (n, d) matrix: little-endian float32, C order, format 1.0."""
    stream = io.BytesIO()
    npy_format.write_array(stream, np.ascontiguousarray(matrix, dtype="<f4"), version=(1, 0), allow_pickle=False)
    return stream.getvalue()


def read_float32(name: str, data: bytes, n_columns: int) -> NDArray[np.float32]:
    """Read what ``write_float32`` wrote: (n, n_columns), finite. Raises BundleError for anything else."""
    stream = io.BytesIO(data)
    try:
        version = npy_format.read_magic(stream)
        shape, fortran_order, dtype = npy_format.read_array_header_1_0(stream)
    except ValueError as e:
        raise BundleError(f"{name} is no .npy file of format 1.0: {e}") from e
    body = data[stream.tell() :]
    if version != (1, 0) or fortran_order or dtype != np.dtype("<f4") or len(shape) != 2 or shape[1] != n_columns:
        raise BundleError(
            f"{name} holds {dtype} of shape {shape}; wanted little-endian float32 of shape (n, {n_columns})"
        )
    if len(body) != 4 * shape[0] * shape[1]:
        raise BundleError(f"{name} holds {len(body)} bytes of numbers; its header promises {4 * shape[0] * shape[1]}")
    matrix = np.frombuffer(body, dtype="<f4").reshape(shape)
    if not np.isfinite(matrix).all():
        raise BundleError(f"{name} holds numbers that are not finite")
    return matrix
