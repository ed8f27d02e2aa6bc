"""A backbone small enough to build in a test: log power in a few bands, its mean and maximum over the window."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edge.bundle import Bundle, write_bundle
from edge.space import Grid

SAMPLE_RATE = 16_000
WINDOW_LENGTH = 16_000
HOP_LENGTH = 4_000
N_BANDS = 32
DIM = 2 * N_BANDS


def small_backbone(window_length: int = WINDOW_LENGTH) -> bytes:
    """Return ONNX bytes: ``waveform`` (n, window_length) -> ``embedding`` (n, 64), front end in the graph."""
    frequencies = np.geomspace(100.0, 7000.0, N_BANDS)
    t = np.arange(400) / SAMPLE_RATE
    hann = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(400) / 400)
    phase = 2.0 * np.pi * frequencies[:, None] * t
    kernels = np.stack([np.cos(phase) * hann, np.sin(phase) * hann], axis=1).reshape(2 * N_BANDS, 1, 400) / 200.0
    constants = {
        "kernels": kernels.astype(np.float32),
        "pairs": np.kron(np.eye(N_BANDS), np.ones((1, 2))).astype(np.float32),
        "floor": np.array(1e-6, dtype=np.float32),
        "offset": np.array(13.8, dtype=np.float32),
        "channel": np.array([1], dtype=np.int64),
    }
    nodes = [
        helper.make_node("Unsqueeze", ["waveform", "channel"], ["x"]),
        helper.make_node("Conv", ["x", "kernels"], ["spectrum"], strides=[160]),
        helper.make_node("Mul", ["spectrum", "spectrum"], ["squares"]),
        helper.make_node("MatMul", ["pairs", "squares"], ["power"]),
        helper.make_node("Add", ["power", "floor"], ["floored"]),
        helper.make_node("Log", ["floored"], ["log"]),
        helper.make_node("Add", ["log", "offset"], ["shifted"]),
        helper.make_node("ReduceMean", ["shifted"], ["mean"], axes=[2], keepdims=0),
        helper.make_node("ReduceMax", ["shifted"], ["maximum"], axes=[2], keepdims=0),
        helper.make_node("Concat", ["mean", "maximum"], ["embedding"], axis=1),
    ]
    return onnx_model(nodes, {"waveform": ["n", window_length]}, {"embedding": ["n", DIM]}, constants)


def onnx_model(
    nodes: list[Any],
    inputs: dict[str, list[Any]],
    outputs: dict[str, list[Any]],
    constants: dict[str, np.ndarray[Any, Any]],
    opset: int = 17,
) -> bytes:
    """Return the bytes of a float model of opset 17, IR 8."""
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def write_small_bundle(out_dir: Path, **changes: Any) -> Bundle:
    """Write a bundle of ``small_backbone``; ``changes`` replace arguments of ``write_bundle``."""
    arguments: dict[str, Any] = {
        "name": "small",
        "version": 1,
        "onnx": small_backbone(),
        "input_name": "waveform",
        "output_name": "embedding",
        "sample_rate": SAMPLE_RATE,
        "window_length": WINDOW_LENGTH,
        "hop_length": HOP_LENGTH,
        "dim": DIM,
        "grid": Grid(),
        "licence": "Apache-2.0",
        "model_card": "# small\n\nA backbone for tests.\n",
    }
    return write_bundle(out_dir, **{**arguments, **changes})
