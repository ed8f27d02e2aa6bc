"""An ONNX graph becomes a network of the steps that there are kernels for; any other node is refused by name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edge.errors import BundleError
from export.c.network import Add, Conv, Network, Pool, Shape, Step
from export.c.read_front_end import Graph, attribute, read_front_end

OTHER_PRECISIONS = ("QuantizeLinear", "DequantizeLinear", "Cast")
KNOWN = "Conv, BatchNormalization, Relu, Add, Slice, ReduceMean, ReduceMax, Concat, Gemm"


def read_network(onnx_bytes: bytes, input_name: str, output_name: str, window_length: int) -> Network:
    """Read a backbone. Raises BundleError with a sentence that names the node that stands in the way."""
    return _Reader(onnx.load_from_string(onnx_bytes), input_name, output_name, window_length).network


class _Reader:
    def __init__(self, model: onnx.ModelProto, input_name: str, output_name: str, window_length: int) -> None:
        self._graph = Graph(model)
        self._front_end, done = read_front_end(self._graph, input_name, window_length)
        self._steps: dict[str, Step] = {}
        """By output, in order."""
        self._shapes: dict[str, Shape] = {}
        self._same: dict[str, str] = {}
        """Tensors that became another name of one: what a norm or a Relu puts out."""
        self._slices: dict[str, tuple[str, int, int]] = {}
        self._pools: dict[str, Pool] = {}
        fe = self._front_end
        self._shapes[fe.output] = (fe.n_bands, fe.n_frames, 1)
        for node in self._graph.nodes:
            if node.output[0] not in done:
                self._read(node)
        output = self._same.get(output_name, output_name)
        if output not in self._steps or self._shapes[output][:2] != (1, 1):
            raise BundleError(f"the backbone's output {output_name!r} is no vector that a matrix product makes")
        self.network = Network(self._front_end, tuple(self._steps.values()), self._shapes, output)

    def _read(self, node: onnx.NodeProto) -> None:
        readers = {
            "BatchNormalization": self._norm,
            "Conv": self._conv,
            "Relu": self._relu,
            "Add": self._add,
            "Slice": self._slice,
            "ReduceMean": self._pool,
            "ReduceMax": self._pool,
            "Concat": self._concat,
            "Gemm": self._gemm,
        }
        reader = readers.get(node.op_type)
        if node.op_type in OTHER_PRECISIONS:
            raise BundleError(
                f"this bundle is in float16 or int8 already ({node.op_type} {node.name!r}); give the one in float32 "
                "that it was made of: the C code gets whole numbers of its own (--precision int8)"
            )
        if reader is None:
            raise _refused(node, f"there is no kernel for {node.op_type}; wanted {KNOWN}")
        reader(node)

    def _tensor(self, node: onnx.NodeProto, index: int = 0) -> str:
        name: str = self._same.get(node.input[index], node.input[index])
        if name not in self._shapes:
            raise _refused(node, f"its input {node.input[index]!r} is no map that an earlier step made")
        return name

    def _constant(self, node: onnx.NodeProto, index: int) -> NDArray[Any]:
        if node.input[index] not in self._graph.constants:
            raise _refused(node, f"{node.input[index]!r} is no constant")
        return self._graph.constants[node.input[index]]

    def _conv(self, node: onnx.NodeProto) -> None:
        weights = self._constant(node, 1)
        if weights.ndim != 4 or attribute(node, "group", 1) != [1] or set(attribute(node, "dilations", 1)) != {1}:
            raise _refused(node, "it is grouped, dilated or not of two axes")
        rows, columns, channels = self._shapes[name := self._tensor(node)]
        if weights.shape[1] != channels:
            raise _refused(node, f"it takes {weights.shape[1]} channels and gets {channels}")
        stride, pads = attribute(node, "strides", (1, 1)), attribute(node, "pads", (0, 0, 0, 0))
        if any(pad >= size for pad, size in zip(pads, weights.shape[2:] * 2, strict=True)):
            raise _refused(node, f"it is padded by {pads}, as far as its kernel reaches or further")
        out_rows = (rows + pads[0] + pads[2] - weights.shape[2]) // stride[0] + 1
        out_columns = (columns + pads[1] + pads[3] - weights.shape[3]) // stride[1] + 1
        bias = self._constant(node, 2) if len(node.input) > 2 else np.zeros(len(weights))
        self._append(
            Conv(
                _plain(node),
                name,
                node.output[0],
                np.asarray(weights, dtype=np.float32),
                np.asarray(bias, dtype=np.float32),
                (stride[0], stride[1]),
                (pads[0], pads[1]),
            ),
            (out_rows, out_columns, len(weights)),
        )

    def _gemm(self, node: onnx.NodeProto) -> None:
        name = self._tensor(node)
        matrix = self._constant(node, 1)
        matrix = matrix if attribute(node, "transB", 0) == [1] else matrix.T
        if attribute(node, "transA", 0) != [0] or self._shapes[name] != (1, 1, matrix.shape[1]):
            raise _refused(node, f"it multiplies a map of shape {self._shapes[name]} with {matrix.shape}")
        factors = {a.name: a.f for a in node.attribute if a.name in ("alpha", "beta")}
        bias = self._constant(node, 2) if len(node.input) > 2 else np.zeros(len(matrix))
        self._append(
            Conv(
                _plain(node),
                name,
                node.output[0],
                np.asarray(matrix * factors.get("alpha", 1.0), dtype=np.float32)[:, :, None, None],
                np.asarray(np.broadcast_to(bias, len(matrix)) * factors.get("beta", 1.0), dtype=np.float32),
            ),
            (1, 1, len(matrix)),
        )

    def _norm(self, node: onnx.NodeProto) -> None:
        """Fold into what comes before: a product's weights, or the front end's scale and shift."""
        epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
        gain, bias, mean, variance = (self._constant(node, i).astype(np.float64) for i in range(1, 5))
        factor = gain / np.sqrt(variance + epsilon)
        shift = bias - mean * factor
        name = self._tensor(node)
        before = self._steps.get(name)
        if name == self._front_end.output and not self._steps and len(factor) == 1:
            self._front_end = replace(self._front_end, scale=float(factor[0]), shift=float(shift[0]))
        elif isinstance(before, Conv) and not before.relu and self._used_once(node.input[0]):
            self._steps[name] = replace(
                before,
                weights=np.asarray(before.weights * factor[:, None, None, None], dtype=np.float32),
                bias=np.asarray(before.bias * factor + shift, dtype=np.float32),
            )
        else:
            raise _refused(node, "it follows no convolution or matrix product that it could be folded into")
        self._same[node.output[0]] = name

    def _relu(self, node: onnx.NodeProto) -> None:
        name = self._tensor(node)
        before = self._steps.get(name)
        if not isinstance(before, (Conv, Add)) or not self._used_once(node.input[0]):
            raise _refused(node, "it follows no convolution or sum whose output nobody else takes")
        self._steps[name] = replace(before, relu=True)
        self._same[node.output[0]] = name

    def _add(self, node: onnx.NodeProto) -> None:
        a, b = self._tensor(node, 0), self._tensor(node, 1)
        if self._shapes[a] != self._shapes[b]:
            raise _refused(node, f"it adds maps of shapes {self._shapes[a]} and {self._shapes[b]}")
        self._append(Add(_plain(node), a, b, node.output[0]), self._shapes[a])

    def _slice(self, node: onnx.NodeProto) -> None:
        name = self._tensor(node)
        starts, ends, axes = (self._constant(node, i).reshape(-1) for i in (1, 2, 3))
        steps = self._constant(node, 4).reshape(-1) if len(node.input) > 4 else np.ones(1)
        if list(axes) != [3] or list(steps) != [1]:
            raise _refused(node, "it cuts along another axis than time, or in steps")
        n = self._shapes[name][1]
        begin, end, _ = slice(int(starts[0]), int(ends[0])).indices(n)
        self._slices[node.output[0]] = (name, begin, end)

    def _pool(self, node: onnx.NodeProto) -> None:
        if node.input[0] in self._slices:
            name, begin, end = self._slices[node.input[0]]
        else:
            name = self._tensor(node)
            begin, end = 0, self._shapes[name][1]
        if sorted(attribute(node, "axes", ())) != [2, 3] or attribute(node, "keepdims", 1) != [0] or end <= begin:
            raise _refused(node, "it does not take the mean or maximum of whole rows and columns")
        kind = "mean" if node.op_type == "ReduceMean" else "max"
        self._pools[node.output[0]] = Pool(_plain(node), name, node.output[0], kind, begin, end, 0)

    def _concat(self, node: onnx.NodeProto) -> None:
        if attribute(node, "axis", 0) != [1] or any(name not in self._pools for name in node.input):
            raise _refused(node, "it joins something else than means and maxima of maps")
        offset = 0
        for name in node.input:
            pool = self._pools[name]
            self._steps[name] = replace(pool, output=node.output[0], offset=offset)
            offset += self._shapes[pool.input][2]
        self._shapes[node.output[0]] = (1, 1, offset)

    def _append(self, step: Conv | Add, shape: Shape) -> None:
        self._steps[step.output] = step
        self._shapes[step.output] = shape

    def _used_once(self, tensor: str) -> bool:
        return len(self._graph.users(tensor)) == 1 and tensor not in self._graph.outputs


def _plain(node: onnx.NodeProto) -> str:
    return str(node.name).strip("/") or str(node.output[0])


def _refused(node: onnx.NodeProto, why: str) -> BundleError:
    return BundleError(
        f"node {node.name or node.output[0]!r} ({node.op_type}) cannot become C: {why}; "
        "train a student of soundkeep's own, or keep this ear on the host"
    )
