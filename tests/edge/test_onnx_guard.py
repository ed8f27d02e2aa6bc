"""The guard refuses what a bundle may not ask for, and nothing but BundleError ever leaves it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edge.errors import BundleError
from edge.onnx_guard import MAX_NODES, check_onnx
from tests.simulators.small_backbone import small_backbone


def external_tensor(location: str, *, declare: bool = True) -> TensorProto:
    tensor = TensorProto(name="weights", data_type=TensorProto.FLOAT, dims=[4])
    tensor.external_data.add(key="location", value=location)
    if declare:
        tensor.data_location = TensorProto.EXTERNAL
    return tensor


def model_of(nodes: list[Any], initializers: list[TensorProto] | None = None, **changes: Any) -> bytes:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])
    graph = helper.make_graph(nodes, "g", [x], [y], initializers or [])
    return bytes(helper.make_model(graph, **changes).SerializeToString())


def as_initializer(tensor: TensorProto) -> bytes:
    return model_of([helper.make_node("Add", ["x", "weights"], ["y"])], [tensor])


def as_attribute(tensor: TensorProto) -> bytes:
    return model_of([helper.make_node("Constant", [], ["y"], value=tensor)])


def as_sparse(tensor: TensorProto) -> bytes:
    indices = numpy_helper.from_array(np.arange(4), "indices")
    model = onnx.load_from_string(model_of([helper.make_node("Relu", ["x"], ["y"])]))
    model.graph.sparse_initializer.add(values=tensor, indices=indices, dims=[8])
    return bytes(model.SerializeToString())


def in_branch(tensor: TensorProto) -> bytes:
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])
    branch = helper.make_graph([helper.make_node("Identity", ["weights"], ["y"])], "branch", [], [out], [tensor])
    return model_of([helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch)])


def in_function(tensor: TensorProto) -> bytes:
    model = onnx.load_from_string(model_of([helper.make_node("Relu", ["x"], ["y"])]))
    constant = helper.make_node("Constant", [], ["y"], value=tensor)
    model.functions.append(helper.make_function("", "F", [], ["y"], [constant], [helper.make_opsetid("", 17)]))
    return bytes(model.SerializeToString())


@pytest.mark.parametrize("place", [as_initializer, as_attribute, as_sparse, in_branch, in_function])
@pytest.mark.parametrize("location", ["weights.bin", "../secret", "/etc/passwd"])
@pytest.mark.parametrize("declare", [True, False])
def test_weights_in_another_file_are_refused(
    place: Callable[[TensorProto], bytes], location: str, declare: bool
) -> None:
    with pytest.raises(BundleError, match="weights in another file"):
        check_onnx(place(external_tensor(location, declare=declare)))


def test_the_external_flag_alone_is_refused_even_beyond_32_bits() -> None:
    tensor = TensorProto(name="weights", data_type=TensorProto.FLOAT, dims=[1], float_data=[1.0])
    tensor.data_location = TensorProto.EXTERNAL
    data = as_initializer(tensor)
    with pytest.raises(BundleError, match="weights in another file"):
        check_onnx(data)
    raw = tensor.SerializeToString()
    wide = raw.replace(b"\x70\x01", b"\x70\x81\x80\x80\x80\x10")  # 2^32 + 1, which protobuf reads as 1
    assert wide != raw
    graph = b"\x0a\x00" + b"\x2a" + bytes([len(wide)]) + wide
    with pytest.raises(BundleError, match="weights in another file"):
        check_onnx(b"\x3a" + bytes([len(graph)]) + graph)


def test_operators_of_unknown_domains_are_refused() -> None:
    node = helper.make_node("Steal", ["x"], ["y"], domain="com.example")
    with pytest.raises(BundleError, match=r"domain 'com\.example'"):
        check_onnx(model_of([node]))
    relu = [helper.make_node("Relu", ["x"], ["y"])]
    with pytest.raises(BundleError, match=r"domain 'ai\.other'"):
        check_onnx(model_of(relu, opset_imports=[helper.make_opsetid("ai.other", 1)]))


def test_what_the_guard_counts_is_what_onnx_counts(shared_models: Path) -> None:
    for data in (small_backbone(), (shared_models / "yamnet_waveform_to_embedding.onnx").read_bytes()):
        model = onnx.load_from_string(data)
        summary = check_onnx(data)
        assert summary.n_nodes == len(model.graph.node)
        assert summary.ir_version == model.ir_version
        assert summary.opsets == {o.domain: o.version for o in model.opset_import}


def test_a_million_operators_are_refused_at_once() -> None:
    nodes = b"\x0a\x00" * 1_000_000
    length = len(nodes)
    varint = bytes([length & 127 | 128, length >> 7 & 127 | 128, length >> 14 & 127 | 128, length >> 21])
    begin = time.process_time()
    with pytest.raises(BundleError, match=f"more than {MAX_NODES} operators"):
        check_onnx(b"\x3a" + varint + nodes)
    assert time.process_time() - begin < 5.0


def test_fields_and_depth_have_an_end() -> None:
    with pytest.raises(BundleError, match="protobuf fields"):
        check_onnx(b"\x08\x01" * 1_000_001)
    nested = b""
    for _ in range(60):  # attribute 6 (graph) in node 5 in graph 1
        attribute = b"\x32" + encode(len(nested)) + nested
        node = b"\x2a" + encode(len(attribute)) + attribute
        nested = b"\x0a" + encode(len(node)) + node
    with pytest.raises(BundleError, match="deeper than"):
        check_onnx(b"\x3a" + encode(len(nested)) + nested)


def encode(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"RIFF....WAVE", b"\x80\x04\x95pickle", b"\xff" * 100])
def test_what_is_no_onnx_is_refused(data: bytes) -> None:
    with pytest.raises(BundleError):
        check_onnx(data)


def test_a_model_cut_at_any_byte_raises_nothing_else() -> None:
    whole = small_backbone()
    for end in range(0, len(whole), 37):
        try:
            check_onnx(whole[:end])
        except BundleError:
            continue


@given(st.binary(max_size=200))
def test_random_bytes_raise_nothing_else(data: bytes) -> None:
    with contextlib.suppress(BundleError):
        check_onnx(data)


def test_ten_thousand_mutations_raise_nothing_else() -> None:
    rng = np.random.default_rng(0)
    whole = np.frombuffer(as_attribute(external_tensor("a")) + small_backbone()[:400], dtype=np.uint8)
    for _ in range(10_000):
        mutant = whole.copy()
        mutant[rng.integers(0, len(mutant), 3)] = rng.integers(0, 256, 3)
        try:
            check_onnx(mutant.tobytes())
        except BundleError:
            continue


def test_the_runtime_itself_refuses_external_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Second line of defence: loaded from bytes, ONNX Runtime has no folder to read external weights from."""
    import onnxruntime

    monkeypatch.chdir(tmp_path)
    Path("weights.bin").write_bytes(np.ones(4, np.float32).tobytes())
    node = helper.make_node("Add", ["x", "weights"], ["y"])
    opset = [helper.make_opsetid("", 17)]
    data = model_of([node], [external_tensor("weights.bin")], ir_version=8, opset_imports=opset)
    with pytest.raises(Exception, match=r"model_path|external"):
        onnxruntime.InferenceSession(data)
