"""Ears for tests of a change of ear: good ones, and ones that are valid and bad, built of the tiny ear's graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edge.bundle import Bundle, write_bundle
from edge.space import Grid
from tests.bundles import DETECTION, DIM, HOP_LENGTH, SAMPLE_RATE, WINDOW_LENGTH, prior_of, tiny_onnx

Kind = Literal["good", "nan when loud", "fails when loud", "grows when loud", "garbage", "slow"]
LOUD = 0.5
"""Peak from which the ears that are bad "when loud" are bad."""


def ear_onnx(kind: Kind, *, seed: int) -> bytes:
    """Return the tiny ear's graph with a fault built in."""
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load_from_string(tiny_onnx(seed=seed))
    if kind == "good":
        return bytes(model.SerializeToString())
    graph = model.graph
    graph.node[-1].output[0] = "sound"

    def constant(name: str, value: Any) -> str:
        graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        graph.node.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    peak = node("ReduceMax", [node("Abs", ["waveform"], "absolute")], "peak", keepdims=1)
    if kind == "nan when loud":
        room = node("Sub", [constant("loud", np.float32([[LOUD]])), peak], "room")
        zero = node("Mul", [node("Sqrt", [room], "root"), constant("zero", np.float32([[0.0]]))], "nothing")
        node("Add", ["sound", zero], "embedding")
    elif kind == "fails when loud":
        above = node("Greater", [peak, constant("loud", np.float32([[LOUD]]))], "above")
        index = node("Cast", [above], "index", to=onnx.TensorProto.INT64)
        far = node("Mul", [index, constant("far", np.int64([[1000]]))], "far index")
        flat = node("Reshape", [far, constant("one", np.int64([1]))], "flat")
        node("Gather", ["sound", flat], "embedding", axis=0)
    elif kind == "grows when loud":
        above = node("Greater", [peak, constant("loud", np.float32([[LOUD]]))], "above")
        index = node("Cast", [above], "index", to=onnx.TensorProto.INT64)
        size = node("Mul", [index, constant("huge", np.int64([[1 << 33]]))], "extra size")
        more = node("Add", [size, constant("little", np.int64([[1]]))], "size")
        flat = node("Reshape", [more, constant("one", np.int64([1]))], "flat")
        mean = node("ReduceMean", [node("ConstantOfShape", [flat], "zeros")], "mean of zeros", keepdims=0)
        node("Add", ["sound", mean], "embedding")
    elif kind == "garbage":
        rng = np.random.default_rng(seed)
        still = node("Mul", ["sound", constant("little", np.float32([[1e-4]]))], "still")
        node("Add", [still, constant("same", rng.standard_normal((1, DIM)).astype(np.float32))], "embedding")
    elif kind == "slow":
        matrix = node("Reshape", ["waveform", constant("square", np.int64([1000, 4]))], "matrix")
        product = node("MatMul", [matrix, node("Transpose", [matrix], "across")], "product 0")
        for i in range(8):
            product = node("MatMul", [product, product], f"product {i + 1}")
            product = node("Tanh", [product], f"small {i}")
        mean = node("ReduceMean", [product], "mean of all", keepdims=0)
        node("Add", ["sound", node("Mul", [mean, constant("zero", np.float32(0.0))], "nothing")], "embedding")
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def write_ear(
    out: Path, *, version: int = 1, seed: int = 0, kind: Kind = "good", prior: bool = True, **changes: Any
) -> Bundle:
    """Write an ear with its prior and a canary of quiet sounds, as the exporter would; changes: of its arguments."""
    from edge.embedder import Embedder

    arguments: dict[str, Any] = {
        "name": "tiny",
        "version": version,
        "onnx": ear_onnx(kind, seed=seed),
        "input_name": "waveform",
        "output_name": "embedding",
        "sample_rate": SAMPLE_RATE,
        "window_length": WINDOW_LENGTH,
        "hop_length": HOP_LENGTH,
        "dim": DIM,
        "grid": Grid(),
        "licence": "Apache-2.0",
        "model_card": "# tiny\n\nA spectrum, for tests.\n",
        "detection": DETECTION,
        **changes,
    }
    bare = write_bundle(out.with_name(out.name + "-bare"), **arguments)
    if kind == "slow":
        return bare
    quiet = _quiet(4)
    canary = (quiet, Embedder(bare).embed(quiet))
    return write_bundle(out, **arguments, prior=prior_of(bare) if prior else None, canary=canary)


def _quiet(n: int) -> NDArray[np.float32]:
    return (0.1 * np.random.default_rng(3).standard_normal((n, WINDOW_LENGTH))).clip(-0.4, 0.4).astype(np.float32)
