"""float16: half the bytes. Products run in halves, everything that adds up many numbers stays in float32.

The division is that of torch's autocast: convolutions and matrix products in float16, norms, softmax, means and the
residual stream in float32. What carries a product's result on without a sum of its own (a bias, a ReLU, a reshape)
stays in float16 too, so that nothing is cast to and fro. A half ends at 65,504; ``to_float16`` proves on sound, on
silence and at full scale that every number that becomes a half stays well below.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edge.errors import BundleError
from export.graph import INPUT, IR_VERSION, OPSET
from export.material import edge_case_windows
from export.regions import front_end

LARGEST_HALF = 65_504.0
SUFFIX = ".half"


@dataclass(frozen=True)
class HalfSettings:
    """operators: what runs in float16. followers: what does so too when its one input that is no constant is a half.

    headroom: how many times louder than the loudest number seen an unseen sound may be before a half overflows.
    max_windows: of sound that the ranges are taken on, beside the edges of sound.
    """

    operators: tuple[str, ...] = ("Conv", "Gemm", "MatMul")
    followers: tuple[str, ...] = ("Add", "Relu", "Reshape", "Transpose")
    headroom: float = 4.0
    max_windows: int = 16


def to_float16(onnx_bytes: bytes, windows: NDArray[np.float32], settings: HalfSettings = HalfSettings()) -> bytes:
    """Return the model with its products in float16; input, output, front end, norms and softmax stay float32.

    windows: (n, window_length) float32 sound. Raises BundleError when a number would leave the range of a half, with
    its operator's name, or when there is nothing to make smaller.
    """
    model = onnx.load_from_string(onnx_bytes)
    halves = _halves(model, settings)
    if not halves.nodes:
        raise BundleError(f"no operator of kinds {', '.join(settings.operators)} behind the front end; use float32")
    _check_range(model, halves.tensors, windows[: settings.max_windows], settings.headroom)
    converted = _convert(model, halves)
    onnx.checker.check_model(converted, full_check=True)
    return bytes(converted.SerializeToString(deterministic=True))


@dataclass(frozen=True)
class _Halves:
    """nodes: names of those that run in float16. tensors: what becomes a half, by the node that needs it."""

    nodes: frozenset[str]
    tensors: Mapping[str, str]


def _halves(model: onnx.ModelProto, settings: HalfSettings) -> _Halves:
    kept, types = front_end(model), _types(model)
    constants = {t.name: t for t in model.graph.initializer}
    nodes: set[str] = set()
    tensors: dict[str, str] = {}
    made: set[str] = set()
    for node in model.graph.node:
        floats = [name for name in node.input if types.get(name) == TensorProto.FLOAT]
        computed = [n for n in floats if n not in constants]
        follows = node.op_type in settings.followers and len(computed) == 1 and computed[0] in made
        runs = node.op_type in settings.operators or follows
        if node.name in kept or not runs or any(not _fits(constants[n]) for n in floats if n in constants):
            continue
        nodes.add(node.name)
        made.update(node.output)
        for name in (*floats, *node.output):
            if name not in constants:
                tensors.setdefault(name, node.name)
    return _Halves(frozenset(nodes), tensors)


def _types(model: onnx.ModelProto) -> dict[str, int]:
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.value_info, *graph.output)}
    return types | {t.name: t.data_type for t in graph.initializer}


def _fits(tensor: onnx.TensorProto) -> bool:
    values = numpy_helper.to_array(tensor)
    return bool(np.abs(values).max(initial=0.0) <= LARGEST_HALF)


def _convert(model: onnx.ModelProto, halves: _Halves) -> onnx.ModelProto:
    types = _types(model)
    constants = {t.name: t for t in model.graph.initializer}
    nodes: list[onnx.NodeProto] = []
    tensors: dict[str, onnx.TensorProto] = {}
    as_half: set[str] = set()
    as_float = {v.name for v in model.graph.input}

    def cast(source: str, target: str, to: int) -> None:
        nodes.append(helper.make_node("Cast", [source], [target], name=f"{target}/Cast", to=to))

    def half(name: str) -> str:
        """The name of a number as a half, made when it is first asked for."""
        if types.get(name) != TensorProto.FLOAT:
            return plain(name)
        if name in constants:
            values = numpy_helper.to_array(constants[name]).astype(np.float16)
            tensors[name + SUFFIX] = numpy_helper.from_array(values, name + SUFFIX)
        elif name not in as_half:
            cast(name, name + SUFFIX, TensorProto.FLOAT16)
            as_half.add(name)
        return name + SUFFIX

    def plain(name: str) -> str:
        """The name of a number as it was traced, cast back when only its half is there."""
        if name in constants:
            tensors[name] = constants[name]
        elif name in as_half and name not in as_float:
            cast(name + SUFFIX, name, TensorProto.FLOAT)
            as_float.add(name)
        return name

    for node in model.graph.node:
        changed = onnx.NodeProto()
        changed.CopyFrom(node)
        runs_in_half = node.name in halves.nodes
        inputs = [(half(n) if runs_in_half else plain(n)) if n else n for n in node.input]
        del changed.input[:]
        changed.input.extend(inputs)
        if runs_in_half:
            del changed.output[:]
            changed.output.extend(name + SUFFIX for name in node.output)
            as_half.update(node.output)
        else:
            as_float.update(node.output)
        nodes.append(changed)
    for value in model.graph.output:
        plain(value.name)
    graph = helper.make_graph(nodes, "backbone", model.graph.input, model.graph.output, list(tensors.values()))
    converted = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    converted.producer_name = "soundkeep-export"
    return converted


def _check_range(
    model: onnx.ModelProto, tensors: Mapping[str, str], windows: NDArray[np.float32], headroom: float
) -> None:
    """Run the float32 graph: processors without float16 compute in float32 and would hide what overflows elsewhere."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    outputs = {v.name for v in model.graph.output}
    names = list(tensors)
    inside = [name for name in names if name not in outputs]
    watched.graph.output.extend(helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in inside)
    session = onnxruntime.InferenceSession(watched.SerializeToString(), providers=["CPUExecutionProvider"])
    limit = LARGEST_HALF / headroom
    for window in (*windows, *edge_case_windows(model.graph.input[0].type.tensor_type.shape.dim[1].dim_value)):
        for name, values in zip(names, session.run(names, {INPUT: window[None]}), strict=True):
            largest = float(np.abs(values).max(initial=0.0))
            if not largest <= limit:
                raise BundleError(
                    f"{tensors[name]} works on numbers of {largest:.3g}; float16 ends at {LARGEST_HALF:g} and wants "
                    f"a headroom of {headroom:g}; export this network as float32 or int8"
                )
