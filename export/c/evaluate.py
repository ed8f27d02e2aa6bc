"""A network computed in NumPy: it proves that the graph was read right, and gives the ranges for int8."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.c.network import Add, Conv, FrontEnd, Network, Pool

Floats = NDArray[np.float32]


def features_of(front_end: FrontEnd, windows: Floats) -> Floats:
    """windows: (n, window_length) float32. Returns (n, n_bands, n_frames, 1) float32."""
    fe = front_end
    frames = np.lib.stride_tricks.sliding_window_view(windows.astype(np.float64), fe.frame_length, axis=1)
    spectrum = np.fft.rfft(frames[:, :: fe.frame_hop] * fe.window.astype(np.float64), fe.n_fft)
    power = (np.abs(spectrum) ** 2) @ fe.filters.T.astype(np.float64)
    level = power.mean(axis=(1, 2), keepdims=True) + fe.level_floor
    logs = fe.scale * np.log(power / level + fe.relative_floor) + fe.shift
    return np.asarray(logs.transpose(0, 2, 1)[..., None], dtype=np.float32)


def evaluate(network: Network, windows: Floats) -> Mapping[str, Floats]:
    """Every tensor of the network, by name, (n, rows, columns, channels) float32, for n windows."""
    tensors: dict[str, Floats] = {network.front_end.output: features_of(network.front_end, windows)}
    for step in network.steps:
        x = tensors[step.input]
        if isinstance(step, Conv):
            y = convolve(x, step, network.shapes[step.output][:2])
        elif isinstance(step, Add):
            y = x + tensors[step.other]
        else:
            fill_pool(tensors, step, x, network.shapes[step.output][2])
            continue
        tensors[step.output] = np.maximum(y, 0.0) if step.relu else y
    return tensors


def embeddings_of(network: Network, windows: Floats) -> Floats:
    """(n, window_length) float32 -> (n, dim) float32."""
    return evaluate(network, windows)[network.output].reshape(len(windows), -1)


def convolve(x: Floats, step: Conv, out: tuple[int, ...]) -> Floats:
    """x: (n, rows, columns, inputs). Returns (n, *out, outputs), without the Relu."""
    patches = patches_of(x, step, out)
    weights = step.weights.transpose(2, 3, 1, 0).reshape(-1, step.weights.shape[0])
    return np.asarray(patches.reshape(-1, weights.shape[0]) @ weights + step.bias).reshape(len(x), *out, -1)


def patches_of(x: NDArray[Any], step: Conv, out: tuple[int, ...]) -> NDArray[Any]:
    """What each output sees: (n, *out, kernel rows, kernel columns, inputs), zeros around the map."""
    _, _, high, wide = step.weights.shape
    rows = (out[0] - 1) * step.stride[0] + high
    columns = (out[1] - 1) * step.stride[1] + wide
    top, left = step.pads
    below, right = max(0, rows - top - x.shape[1]), max(0, columns - left - x.shape[2])
    padded = np.pad(x, ((0, 0), (top, below), (left, right), (0, 0)))[:, :rows, :columns]
    seen = np.lib.stride_tricks.sliding_window_view(padded, (high, wide), axis=(1, 2))
    return np.ascontiguousarray(seen[:, :: step.stride[0], :: step.stride[1]].transpose(0, 1, 2, 4, 5, 3))


def fill_pool(tensors: dict[str, Floats], step: Pool, x: Floats, width: int) -> None:
    part = x[:, :, step.begin : step.end]
    vector = tensors.setdefault(step.output, np.zeros((len(x), 1, 1, width), dtype=np.float32))
    pooled = part.mean(axis=(1, 2)) if step.kind == "mean" else part.max(axis=(1, 2))
    vector[:, 0, 0, step.offset : step.offset + x.shape[3]] = pooled
