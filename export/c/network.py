"""What a C library can compute, as values: a front end, then steps from one tensor to the next. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class FrontEnd:
    """Log-mel features of a window: scale * log(power / (mean power + level_floor) + relative_floor) + shift.

    window: (frame_length,) float32. filters: (n_bands, n_fft // 2 + 1) float32, not negative. Lengths are samples.
    """

    output: str
    window_length: int
    frame_hop: int
    n_fft: int
    window: Floats
    filters: Floats
    level_floor: float
    relative_floor: float
    scale: float = 1.0
    shift: float = 0.0

    @property
    def frame_length(self) -> int:
        return len(self.window)

    @property
    def n_bands(self) -> int:
        return len(self.filters)

    @property
    def n_frames(self) -> int:
        return (self.window_length - self.frame_length) // self.frame_hop + 1


@dataclass(frozen=True, eq=False)
class Conv:
    """Convolution with zero padding, perhaps held above zero. A matrix product is one of 1 x 1.

    weights: (outputs, inputs, rows, columns) float32. bias: (outputs,) float32. stride, pads: rows, columns; pads are
    those before the first element (what lies behind the last follows from the size of the output).
    """

    name: str
    input: str
    output: str
    weights: Floats
    bias: Floats
    stride: tuple[int, int] = (1, 1)
    pads: tuple[int, int] = (0, 0)
    relu: bool = False


@dataclass(frozen=True)
class Add:
    """Sum of two maps of one shape, perhaps held above zero."""

    name: str
    input: str
    other: str
    output: str
    relu: bool = False


@dataclass(frozen=True)
class Pool:
    """Per channel, the mean or the maximum over all rows and the columns begin to end, as channels at ``offset`` of a
    vector that several pools fill."""

    name: str
    input: str
    output: str
    kind: str
    begin: int
    end: int
    offset: int


Step = Conv | Add | Pool
Shape = tuple[int, int, int]
"""Rows (bands), columns (frames), channels."""


@dataclass(frozen=True, eq=False)
class Network:
    """shapes: of every tensor by name. output: name of the embedding, of shape (1, 1, dim)."""

    front_end: FrontEnd
    steps: tuple[Step, ...]
    shapes: dict[str, Shape]
    output: str

    @property
    def dim(self) -> int:
        return self.shapes[self.output][2]

    @property
    def n_weights(self) -> int:
        return sum(step.weights.size + step.bias.size for step in self.steps if isinstance(step, Conv))


def size_of(shape: Shape) -> int:
    return math.prod(shape)


def multiply_adds(network: Network) -> dict[str, int]:
    """Multiply-adds of a window by part: the front end's bands and FFT, and each step that multiplies."""
    fe = network.front_end
    half = fe.n_fft // 2
    butterflies = half // 2 * int(math.log2(half))
    each_frame = fe.frame_length + 4 * butterflies + 8 * half + int(np.count_nonzero(fe.filters))
    counts = {"front end": fe.n_frames * each_frame}
    for step in network.steps:
        if isinstance(step, Conv):
            rows, columns, _ = network.shapes[step.output]
            counts[step.name] = rows * columns * step.weights.size
    return counts
