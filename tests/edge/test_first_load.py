"""A foreign backbone is tried in a child that may die; this process does not."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge.bundle import Bundle
from edge.errors import BundleError
from edge.first_load import is_shipped, prove_in_child
from tests.simulators.small_backbone import onnx_model, write_small_bundle


def hungry_backbone() -> bytes:
    """A model of a few dozen bytes that fills 32 GiB."""
    value = numpy_helper.from_array(np.array([1.0], np.float32), "one")
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["big"], value=value),
        helper.make_node("ReduceSum", ["big"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["waveform", "sum"], ["embedding"]),
    ]
    shape = {"shape": np.array([2**33], np.int64)}
    return onnx_model(nodes, {"waveform": ["n", 100]}, {"embedding": ["n", 100]}, shape)


def endless_backbone() -> bytes:
    """A model whose loop runs for 2^62 rounds."""
    scalar = [
        helper.make_tensor_value_info(name, kind, [])
        for name, kind in (("i", TensorProto.INT64), ("go", TensorProto.BOOL), ("go_on", TensorProto.BOOL))
    ]
    state = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "x_next")]
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Sin", ["x"], ["x_next"])],
        "body",
        [scalar[0], scalar[1], state[0]],
        [scalar[2], state[1]],
    )
    nodes = [helper.make_node("Loop", ["rounds", "yes", "waveform"], ["embedding"], body=body)]
    constants = {"rounds": np.array(2**62, np.int64), "yes": np.array(True)}
    return onnx_model(nodes, {"waveform": ["n", 100]}, {"embedding": ["n", 100]}, constants)


def write(path: Path, onnx: bytes) -> Bundle:
    return write_small_bundle(path, onnx=onnx, window_length=100, hop_length=50, dim=100)


def test_a_good_backbone_is_measured(small_bundle: Bundle) -> None:
    first = prove_in_child(small_bundle)
    assert 2**20 < first.peak_bytes < 2**30
    assert first.load_ms > 0.0 and first.window_ms > 0.0
    assert not is_shipped(small_bundle)


def test_a_model_that_asks_for_32_gib_costs_the_parent_nothing(tmp_path: Path) -> None:
    bundle = write(tmp_path / "hungry", hungry_backbone())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BundleError) as caught:
        prove_in_child(bundle)
    assert "\n" not in str(caught.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    assert children < 4 * 1024**2


def test_a_model_without_end_is_stopped(tmp_path: Path) -> None:
    bundle = write(tmp_path / "endless", endless_backbone())
    with pytest.raises(BundleError, match="did not load and run one window within 3 s"):
        prove_in_child(bundle, timeout_s=3.0)


def test_a_child_without_room_to_live_is_reported(small_bundle: Bundle) -> None:
    with pytest.raises(BundleError, match=r"needs more memory|broke the process"):
        prove_in_child(small_bundle, max_address_bytes=64 * 2**20)


def test_a_child_that_dies_without_a_word_is_reported(small_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "false")
    with pytest.raises(BundleError, match=r"broke the process that tried it \(exit 1\)"):
        prove_in_child(small_bundle)


def test_the_childs_own_sentence_comes_back(tmp_path: Path) -> None:
    bundle = write_small_bundle(tmp_path / "b", dim=65)
    with pytest.raises(BundleError, match="wanted 65 float32"):
        prove_in_child(bundle)
