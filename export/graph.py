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
        torch.onnx.export(
            model.eval(),
            (torch.zeros(1, window_length),),
            path,
            input_names=[INPUT],
            output_names=[OUTPUT],
            opset_version=OPSET,
            dynamo=False,
        )
        traced = onnx.load(path)
    return _plain(traced)


def _plain(traced: onnx.ModelProto) -> bytes:
    """Rebuild the model from what computes: no notes, no constant nodes, a free batch axis, a fixed IR version."""
    constants = {
        node.output[0]: helper.get_attribute_value(node.attribute[0])
        for node in traced.graph.node
        if node.op_type == "Constant"
    }
    tensors = {t.name: t for t in traced.graph.initializer} | constants
    nodes = [node for node in traced.graph.node if node.op_type != "Constant"]
    for node in nodes:
        if node.domain not in ("", "ai.onnx"):
            raise BundleError(f"the network needs {node.op_type} of domain {node.domain!r}; use plain operators")
        node.ClearField("doc_string")
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "backbone",
        [_free_batch(value) for value in traced.graph.input],
        [_free_batch(value) for value in traced.graph.output],
        [numpy_helper.from_array(numpy_helper.to_array(t), name) for name, t in tensors.items() if name in used],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    model.producer_name = "soundkeep-export"
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def _free_batch(value: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    lengths = [d.dim_value for d in value.type.tensor_type.shape.dim]
    return helper.make_tensor_value_info(value.name, value.type.tensor_type.elem_type, ["n", *lengths[1:]])
