"""Teachers that cost nothing: ONNX graphs with the inputs and outputs of the real ones and random weights inside."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

SOUND_DIM, SCORES, SPEECH_DIM = 12, 5, 96


def _save(
    path: Path, nodes: list[onnx.NodeProto], ins: object, outs: list[object], constants: dict[str, object]
) -> Path:
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, path.stem, [ins], outs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


def _float(name: str, *shape: str | int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _normal(seed: int, *shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def write_sound_teacher(folder: Path, *, nan: bool = False) -> Path:
    """Waveform (n, 15600) to an embedding (n, 12) and scores (n, 5) of the loudness in 60 pieces of time."""
    projection = _normal(1, 60, SOUND_DIM)
    nodes = [
        helper.make_node("Reshape", ["waveform", "pieces"], ["cut"]),
        helper.make_node("ReduceL1", ["cut"], ["loudness"], axes=[2], keepdims=0),
        helper.make_node("MatMul", ["loudness", "projection"], ["embedding"]),
        helper.make_node("MatMul", ["loudness", "score_projection"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["scores"]),
    ]
    outs: list[object] = [_float("embedding", "n", SOUND_DIM), _float("scores", "n", SCORES)]
    return _save(
        folder / "sound.onnx",
        nodes,
        _float("waveform", "n", 15600),
        outs,
        {
            "pieces": np.array([-1, 60, 260], np.int64),
            "projection": projection * np.float32(np.nan if nan else 0.01),
            "score_projection": _normal(2, 60, SCORES) * np.float32(0.01),
        },
    )


def write_melspectrogram(folder: Path) -> Path:
    """Samples (n, 16000) to (n, 1, 97, 32): 97 frames of 32 loudnesses."""
    nodes = [
        helper.make_node("Slice", ["input", "from", "to", "axis"], ["first"]),
        helper.make_node("Reshape", ["first", "frames"], ["cut"]),
        helper.make_node("ReduceL1", ["cut"], ["loudness"], axes=[3], keepdims=0),
        helper.make_node("Mul", ["loudness", "scale"], ["scaled"]),
        helper.make_node("Unsqueeze", ["scaled", "axis"], ["output"]),
    ]
    return _save(
        folder / "melspectrogram.onnx",
        nodes,
        _float("input", "n", "samples"),
        [_float("output", "n", 1, 97, 32)],
        {
            "from": np.array([0], np.int64),
            "to": np.array([15520], np.int64),
            "axis": np.array([1], np.int64),
            "frames": np.array([-1, 97, 32, 5], np.int64),
            "scale": np.float32(1e-4),
        },
    )


def write_speech_embedding(folder: Path) -> Path:
    """Frames (n, 76, 32, 1) to (n, 1, 1, 96)."""
    nodes = [
        helper.make_node("Reshape", ["input_1", "halves"], ["cut"]),
        helper.make_node("ReduceMean", ["cut"], ["means"], axes=[2], keepdims=0),
        helper.make_node("Reshape", ["means", "row"], ["flat"]),
        helper.make_node("MatMul", ["flat", "projection"], ["embedded"]),
        helper.make_node("Reshape", ["embedded", "shape"], ["conv2d_19"]),
    ]
    return _save(
        folder / "speech.onnx",
        nodes,
        _float("input_1", "n", 76, 32, 1),
        [_float("conv2d_19", "n", 1, 1, SPEECH_DIM)],
        {
            "halves": np.array([-1, 2, 38, 32], np.int64),
            "row": np.array([-1, 64], np.int64),
            "projection": _normal(3, 64, SPEECH_DIM),
            "shape": np.array([-1, 1, 1, SPEECH_DIM], np.int64),
        },
    )


def write_teachers(folder: Path) -> list[Path]:
    """Write all three files; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    return [write_sound_teacher(folder), write_melspectrogram(folder), write_speech_embedding(folder)]
