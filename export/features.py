"""The second graph of a bundle: the same weights, from the band powers on, for a device that sends log-mel features.

The graph of a bundle is cut where its front end ends: at the first matrix that folds squared frequencies into bands.
Before the cut every number belongs to one frame of sound, so frames can be made one after the other, on a
microcontroller, and windows of them are put together later. After the cut nothing is changed: the same band powers give
the same embedding, to the bit.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edge.bundle import Bundle
from edge.embedder import Embedder, aligned, probe_window
from edge.errors import BundleError
from edge.feature_input import FeatureInput
from export.amend import amend

INPUT = "band_powers"
_FRAME_WISE = {"Unsqueeze", "Squeeze", "Reshape", "Conv", "Split", "Mul", "Add", "Pow", "MatMul", "Identity"}


@dataclass(frozen=True)
class CutGraph:
    """front: waveform -> band powers; rest: band powers -> embedding; takes: what the rest is given."""

    front: bytes
    rest: bytes
    takes: FeatureInput


def add_features(bundle: Bundle, out_dir: Path) -> Bundle:
    """Write a copy of ``bundle`` with its second graph. The ear and its space stay the same. Raises BundleError."""
    cut = cut_at_band_powers(
        bundle.onnx_bytes(), bundle.manifest.input_name, bundle.manifest.output_name, bundle.manifest.window_length
    )
    made = amend(bundle, out_dir, features=(cut.rest, cut.takes))
    _prove(made, cut)
    return made


def cut_at_band_powers(onnx_bytes: bytes, input_name: str, output_name: str, window_length: int) -> CutGraph:
    """Cut a backbone's graph in two. Raises BundleError when it has no front end that can be cut off."""
    model = onnx.load_from_string(onnx_bytes)
    graph = model.graph
    constants = {t.name: t for t in graph.initializer}
    before: set[str] = {input_name}
    convolution: onnx.NodeProto | None = None
    cut: str | None = None
    for node in graph.node:
        if not before & set(node.input):
            continue
        if node.op_type not in _FRAME_WISE or (convolution is not None and node.op_type in ("Conv", "Reshape")):
            break
        if any(name and name not in before and name not in constants for name in node.input):
            break
        before.update(node.output)
        if node.op_type == "Conv":
            convolution = node
        if node.op_type == "MatMul" and convolution is not None:
            cut = node.output[0]
            break
    if cut is None or convolution is None:
        raise BundleError(
            "this backbone has no front end that can be cut off (wanted: a convolution over the waveform, squares, and "
            "a constant matrix that folds them into bands); devices must send it PCM or ADPCM"
        )
    frame_length = int(constants[convolution.input[1]].dims[-1])
    frame_hop = _whole(convolution, "strides", 1)
    if _whole(convolution, "dilations", 1) != 1 or any(_all(convolution, "pads")):
        raise BundleError("this backbone's front end is padded or dilated; frames of it cannot be made one by one")
    front = _between(model, {input_name}, cut)
    rest = _between(model, {cut}, output_name)
    if input_name in {name for node in rest for name in node.input}:
        raise BundleError("this backbone hears the waveform beside its bands; devices must send it PCM or ADPCM")
    n_bands = _n_bands(graph, front[-1], constants)
    n_frames = (window_length - frame_length) // frame_hop + 1
    front_bytes = _model(
        model, front, {input_name: (input_name, ["n", window_length])}, (cut, ["n", n_bands, n_frames])
    )
    dim = _last_axis(graph, output_name)
    rest_bytes = _model(model, rest, {cut: (INPUT, ["n", n_bands, n_frames])}, (output_name, ["n", dim]))
    identity = hashlib.sha256(front_bytes).hexdigest()
    return CutGraph(front_bytes, rest_bytes, FeatureInput(INPUT, n_bands, n_frames, frame_length, frame_hop, identity))


def _between(model: onnx.ModelProto, given: set[str], wanted: str) -> list[onnx.NodeProto]:
    """The nodes, in order, that make ``wanted`` when ``given`` is there."""
    needed = {wanted}
    chosen = []
    for node in reversed(model.graph.node):
        if set(node.output) & needed:
            chosen.append(node)
            needed |= {name for name in node.input if name and name not in given}
    return chosen[::-1]


def _model(
    source: onnx.ModelProto,
    nodes: list[onnx.NodeProto],
    inputs: dict[str, tuple[str, list[int | str]]],
    output: tuple[str, list[int | str]],
) -> bytes:
    """Put nodes of ``source`` into a model of their own. inputs: old name -> new name and shape."""
    copies = []
    for node in nodes:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.input[:] = [inputs[name][0] if name in inputs else name for name in node.input]
        copies.append(copy)
    used = {name for node in copies for name in node.input}
    graph = helper.make_graph(
        copies,
        "backbone",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.values()],
        [helper.make_tensor_value_info(output[0], TensorProto.FLOAT, output[1])],
        [tensor for tensor in source.graph.initializer if tensor.name in used],
    )
    model = helper.make_model(graph, opset_imports=list(source.opset_import), ir_version=source.ir_version)
    model.producer_name = "soundkeep-export"
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))


def _n_bands(graph: onnx.GraphProto, fold: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> int:
    matrix = constants.get(fold.input[0])
    if matrix is None or len(matrix.dims) != 2:
        raise BundleError(
            "this backbone folds its frequencies in a way of its own (wanted: a constant matrix from the left); "
            "devices must send it PCM or ADPCM"
        )
    if np.min(numpy_helper.to_array(matrix)) < 0.0:
        raise BundleError("this backbone's bands have negative weights, so they are no powers; devices must send PCM")
    return int(matrix.dims[0])


def _last_axis(graph: onnx.GraphProto, output_name: str) -> int | str:
    for value in graph.output:
        if value.name == output_name:
            last = value.type.tensor_type.shape.dim[-1]
            return int(last.dim_value) if last.HasField("dim_value") else "d"
    return "d"


def _whole(node: onnx.NodeProto, name: str, default: int) -> int:
    values = _all(node, name)
    return values[-1] if values else default


def _all(node: onnx.NodeProto, name: str) -> list[int]:
    return [int(v) for a in node.attribute if a.name == name for v in a.ints]


def _prove(bundle: Bundle, cut: CutGraph) -> None:
    """Both ways through the bundle give the same embedding, to the bit, when the cut-off part makes the powers."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    front = onnxruntime.InferenceSession(cut.front, options, providers=["CPUExecutionProvider"])
    window = probe_window(bundle.manifest.window_length)
    (powers,) = front.run(None, {bundle.manifest.input_name: aligned(window).reshape(window.shape)})
    embedder = Embedder(bundle, takes_features=True)
    difference = float(np.abs(embedder.embed(window) - embedder.embed(powers)).max())
    if difference != 0.0:
        raise BundleError(f"the second graph differs from the first by {difference:.2g}; wanted 0: this is a bug")
