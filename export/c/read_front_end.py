"""The front end of a graph, recognised: a windowed Fourier transform written as a convolution, bands, level, logarithm.

In the graph it is a product with a matrix of cosines and sines. In C it is a fast Fourier transform, which is the same
sum in a fraction of the steps; so it must be known to be one. What is not recognised is refused, by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edge.errors import BundleError
from export.c.network import FrontEnd

KERNEL_TOLERANCE = 1e-5


class Graph:
    """An ONNX graph to walk along. Raises BundleError where it is not what is asked for."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.nodes = list(model.graph.node)
        self.constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        self.outputs = {value.name for value in model.graph.output}
        self._users: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.input):
                self._users.setdefault(name, []).append(node)

    def users(self, tensor: str) -> list[onnx.NodeProto]:
        return self._users.get(tensor, [])

    def only_user(self, tensor: str, *kinds: str) -> onnx.NodeProto:
        """The one node that takes ``tensor``, which must be of one of these kinds."""
        users = self.users(tensor)
        if len(users) != 1 or users[0].op_type not in kinds:
            found = " and ".join(f"{n.op_type} {n.name!r}" for n in users) or "nothing"
            raise _Unknown(f"{tensor!r} goes to {found}, where {' or '.join(kinds)} alone was expected")
        return users[0]

    def constant(self, node: onnx.NodeProto, index: int) -> NDArray[Any]:
        name = node.input[index]
        if name not in self.constants:
            raise _Unknown(f"{node.op_type} {node.name!r} takes {name!r} that is no constant")
        return self.constants[name]

    def other_constant(self, node: onnx.NodeProto, tensor: str) -> float:
        """The single number that a node adds to ``tensor``."""
        (index,) = [i for i, name in enumerate(node.input) if name != tensor] or [-1]
        value = self.constant(node, index)
        if value.size != 1:
            raise _Unknown(f"{node.op_type} {node.name!r} adds {value.shape} numbers, where one was expected")
        return float(value.reshape(-1)[0])


class _Unknown(Exception):
    """What does not look like the front end."""


def attribute(node: onnx.NodeProto, name: str, default: Sequence[int] | int) -> list[int]:
    for a in node.attribute:
        if a.name == name:
            value = helper.get_attribute_value(a)
            return [int(v) for v in value] if isinstance(value, (list, tuple)) else [int(value)]
    return list(default) if isinstance(default, Sequence) else [default]


def read_front_end(graph: Graph, waveform: str, window_length: int) -> tuple[FrontEnd, list[str]]:
    """Return the front end that begins at ``waveform`` and what its nodes put out first. Raises BundleError."""
    try:
        return _read(graph, waveform, window_length)
    except _Unknown as unknown:
        raise BundleError(
            f"the front end of this backbone is not one that C code can be written for: {unknown}; wanted the log-mels "
            "of soundkeep's own ears (trainer.backbones.log_mel): train a student, or keep this ear on the host"
        ) from unknown


def _read(graph: Graph, waveform: str, window_length: int) -> tuple[FrontEnd, list[str]]:
    seen: list[onnx.NodeProto] = []

    def follow(tensor: str, *kinds: str) -> onnx.NodeProto:
        node = graph.only_user(tensor, *kinds)
        seen.append(node)
        return node

    convolution = follow(follow(waveform, "Unsqueeze").output[0], "Conv")
    kernels = graph.constant(convolution, 1)
    if kernels.ndim != 3 or len(convolution.input) > 2 or any(attribute(convolution, "pads", 0)):
        raise _Unknown(f"Conv {convolution.name!r} is padded, has a bias or more than one axis")
    if attribute(convolution, "dilations", 1) != [1]:
        raise _Unknown(f"Conv {convolution.name!r} is dilated")
    n_fft = len(kernels) - 2
    window = _window(kernels[:, 0, :], n_fft, convolution.name)
    split = follow(convolution.output[0], "Split")
    squares = [follow(half, "Mul") for half in split.output]
    if any(list(square.input) != [half, half] for square, half in zip(squares, split.output, strict=True)):
        raise _Unknown(f"{squares[0].name!r} does not square what {split.name!r} puts out")
    total = follow(squares[0].output[0], "Add")
    if set(total.input) != {square.output[0] for square in squares}:
        raise _Unknown(f"Add {total.name!r} does not add the squares of real and imaginary parts")
    fold = follow(total.output[0], "MatMul")
    filters = graph.constant(fold, 0)
    if filters.shape[1:] != (n_fft // 2 + 1,) or filters.min() < 0.0:
        raise _Unknown(f"MatMul {fold.name!r} folds with a matrix of shape {filters.shape} or of negative weights")
    power = fold.output[0]
    mean, divide = _pair(graph, power, "ReduceMean", "Div")
    seen += [mean, divide]
    level = follow(mean.output[0], "Add")
    if list(divide.input) != [power, level.output[0]] or attribute(mean, "axes", []) not in ([1, 2], [-2, -1]):
        raise _Unknown(f"Div {divide.name!r} does not divide by the window's own level")
    floored = follow(divide.output[0], "Add")
    logarithm = follow(floored.output[0], "Log")
    image = follow(logarithm.output[0], "Unsqueeze")
    front_end = FrontEnd(
        output=image.output[0],
        window_length=window_length,
        frame_hop=attribute(convolution, "strides", 1)[0],
        n_fft=n_fft,
        window=window,
        filters=np.asarray(filters, dtype=np.float32),
        level_floor=graph.other_constant(level, mean.output[0]),
        relative_floor=graph.other_constant(floored, divide.output[0]),
    )
    return front_end, [node.output[0] for node in seen]


def _window(kernels: NDArray[Any], n_fft: int, name: str) -> NDArray[Any]:
    """The window that cosines and sines (n_fft + 2, frame_length) were multiplied with."""
    frame_length = kernels.shape[1]
    if n_fft < 8 or n_fft & (n_fft - 1) or frame_length > n_fft:
        raise _Unknown(f"Conv {name!r} has {len(kernels)} rows of {frame_length}, no transform of a power of two")
    window = kernels[0].astype(np.float64)
    phase = 2.0 * np.pi * np.outer(np.arange(n_fft // 2 + 1), np.arange(frame_length)) / n_fft
    wanted = np.concatenate([np.cos(phase), -np.sin(phase)]) * window
    error = float(np.abs(kernels - wanted).max() / max(float(np.abs(window).max()), 1e-30))
    if error > KERNEL_TOLERANCE:
        raise _Unknown(f"the rows of Conv {name!r} differ by {error:.2g} from those of a Fourier transform")
    return np.asarray(kernels[0], dtype=np.float32)


def _pair(graph: Graph, tensor: str, first: str, second: str) -> tuple[onnx.NodeProto, onnx.NodeProto]:
    users = {node.op_type: node for node in graph.users(tensor)}
    if set(users) != {first, second} or len(graph.users(tensor)) != 2:
        raise _Unknown(f"{tensor!r} goes to {sorted(users)}, where {first} and {second} were expected")
    return users[first], users[second]
