"""A trained network becomes one ONNX file that old runtimes read: opset 17, IR 8, front end inside, nothing beside."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import onnx
import torch
from onnx import helper, numpy_helper

from edge.errors import BundleError

OPSET = 17
IR_VERSION = 8
INPUT, OUTPUT = "waveform", "embedding"


def to_onnx(model: torch.nn.Module, window_length: int) -> bytes:
    """Trace ``model`` (waveform (n, window_length) float32 -> embedding (n, dim) float32) into an ONNX file.

    The trace sees one window, so that every shape but the batch is a constant; that the batch is free all the same is
    for ``export.parity`` to prove. The file holds no trace of the machine that made it.

    The TorchScript tracer is used because it writes opset 17 and keeps every number: the newer exporter's optimiser
    (torch 2.13, onnxscript 0.7) takes any addend below 1e-8 for zero, and with it the floor that keeps silence finite.
    """
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        path = Path(scratch) / "traced.onnx"
        dim = int(model.eval()(torch.zeros(1, window_length)).shape[1])
        torch.onnx.export(
            model,
            (torch.zeros(1, window_length),),
            path,
            input_names=[INPUT],
            output_names=[OUTPUT],
            opset_version=OPSET,
            dynamo=False,
        )
        traced = onnx.load(path)
    return _plain(traced, window_length, dim)


def _plain(traced: onnx.ModelProto, window_length: int, dim: int) -> bytes:
    """Rebuild the model from what computes: no notes, no constant nodes, a free batch axis, a fixed IR version."""
    constants = {
        node.output[0]: helper.get_attribute_value(node.attribute[0])
        for node in traced.graph.node
        if node.op_type == "Constant"
    }
    tensors = {t.name: t for t in traced.graph.initializer} | constants
    nodes = [node for node in _without_identities(traced.graph) if node.op_type != "Constant"]
    for node in nodes:
        if node.domain not in ("", "ai.onnx"):
            raise BundleError(f"the network needs {node.op_type} of domain {node.domain!r}; use plain operators")
        node.ClearField("doc_string")
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "backbone",
        [helper.make_tensor_value_info(INPUT, onnx.TensorProto.FLOAT, ["n", window_length])],
        [helper.make_tensor_value_info(OUTPUT, onnx.TensorProto.FLOAT, ["n", dim])],
        [numpy_helper.from_array(numpy_helper.to_array(t), name) for name, t in tensors.items() if name in used],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    model.producer_name = "soundkeep-export"
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def _without_identities(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The nodes in order, each asking for what an identity stood for.

    The tracer stores equal constants once and names the others by an identity, which would hide that they are constants
    from whoever makes the network smaller.
    """
    outputs = {value.name for value in graph.output}
    same: dict[str, str] = {}
    nodes = []
    for node in graph.node:
        inputs = [same.get(name, name) for name in node.input]
        if node.op_type == "Identity" and node.output[0] not in outputs:
            same[node.output[0]] = inputs[0]
            continue
        node.input[:] = inputs
        nodes.append(node)
    return nodes
