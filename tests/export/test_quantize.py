"""int8 that saturates nowhere, with the front end in float."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from edge.errors import BundleError
from edge.onnx_guard import check_onnx
from export.graph import INPUT, to_onnx
from export.material import synthesised_windows
from export.parity import agreement
from export.quantize import MAX_WEIGHT, QuantizeSettings, int8_weights, quantize_int8
from export.regions import front_end
from tests.export.small_student import small_student
from tests.export.small_transformer import SmallTransformer, with_large_channels

INT16_MAX = 32_767


@pytest.fixture(scope="module")
def exported() -> bytes:
    return to_onnx(small_student(), 16_000)


@pytest.fixture(scope="module")
def windows() -> np.ndarray:
    rng = np.random.default_rng(1)
    return synthesised_windows(48, rng, sample_rate=16_000, window_length=16_000, hop_length=4_000)


@pytest.fixture(scope="module")
def quantized(exported: bytes, windows: np.ndarray) -> bytes:
    return quantize_int8(exported, windows[:24])


def embed(onnx_bytes: bytes, windows: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(onnx_bytes)
    return np.concatenate([session.run(None, {INPUT: row[None]})[0] for row in windows])


def worst_pair_sum(onnx_bytes: bytes) -> int:
    """Return the largest sum of two neighbouring products of a byte of activation and a weight, in any order."""
    return max(255 * int(2 * np.abs(w.astype(np.int32)).max()) for w in int8_weights(onnx_bytes))


def test_no_pair_of_products_leaves_int16(quantized: bytes) -> None:
    weights = list(int8_weights(quantized))
    assert len(weights) >= 12
    assert max(int(np.abs(w.astype(np.int32)).max()) for w in weights) <= MAX_WEIGHT
    assert worst_pair_sum(quantized) <= INT16_MAX


def test_with_full_range_weights_pairs_would_saturate(exported: bytes, windows: np.ndarray) -> None:
    """The mechanism switched off."""
    full = quantize_int8(exported, windows[:8], QuantizeSettings(calibration="minmax", reduce_range=False))
    assert worst_pair_sum(full) > INT16_MAX


def test_each_output_channel_has_its_own_scale(quantized: bytes) -> None:
    model = onnx.load_from_string(quantized)
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    scales = [
        constants[n.input[1]]
        for n in model.graph.node
        if n.op_type == "DequantizeLinear" and n.input[0] in constants and constants[n.input[0]].ndim > 1
    ]
    assert len(scales) >= 12 and all(s.ndim == 1 and s.size > 1 for s in scales)


def test_the_front_end_stays_as_it_was(exported: bytes, quantized: bytes) -> None:
    before, after = onnx.load_from_string(exported), onnx.load_from_string(quantized)
    names = front_end(before)
    assert {n.op_type for n in before.graph.node if n.name in names} >= {"Conv", "MatMul", "Log"}
    first = {n.name: (n.op_type, list(n.input), list(n.output)) for n in before.graph.node if n.name in names}
    second = {n.name: (n.op_type, list(n.input), list(n.output)) for n in after.graph.node if n.name in names}
    assert first == second
    constants = {t.name: t for t in after.graph.initializer}
    for tensor in before.graph.initializer:
        if any(tensor.name in node_input for _, node_input, _ in first.values()):
            assert numpy_helper.to_array(constants[tensor.name]).tobytes() == numpy_helper.to_array(tensor).tobytes()


def test_int8_is_near_float_on_sound_it_was_not_calibrated_on(
    exported: bytes, quantized: bytes, windows: np.ndarray
) -> None:
    report = agreement(embed(exported, windows[24:]), embed(quantized, windows[24:]))
    assert report.mean_cosine > 0.995 and report.min_cosine > 0.97


def test_the_kernels_answer_as_the_arithmetic_says(quantized: bytes, windows: np.ndarray) -> None:
    """Fused int8 kernels against the same graph run operator by operator in float: a saturating kernel would differ."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    plain = onnxruntime.InferenceSession(quantized, options)
    wanted = np.concatenate([plain.run(None, {INPUT: row[None]})[0] for row in windows])
    assert agreement(embed(quantized, windows), wanted).min_cosine > 0.999


def test_the_file_is_plain_opset_17(quantized: bytes) -> None:
    summary = check_onnx(quantized)
    assert summary.opsets == {"": 17} and summary.ir_version == 8


def test_no_windows_no_static_ranges(exported: bytes) -> None:
    with pytest.raises(BundleError, match="windows of sound to calibrate on"):
        quantize_int8(exported, np.empty((0, 16_000), np.float32))


# ---- transformers ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def transformer() -> bytes:
    return to_onnx(with_large_channels(SmallTransformer()), 16_000)


@pytest.fixture(scope="module")
def dynamic(transformer: bytes) -> bytes:
    return quantize_int8(transformer, np.empty((0, 16_000), np.float32))


def kinds(onnx_bytes: bytes) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load_from_string(onnx_bytes).graph.node)


def test_a_transformer_takes_its_ranges_from_each_window(transformer: bytes, dynamic: bytes) -> None:
    chosen = QuantizeSettings().for_graph(onnx.load_from_string(transformer))
    assert (chosen.operators, chosen.activations) == (("MatMul",), "dynamic")
    assert QuantizeSettings().for_graph(onnx.load_from_string(to_onnx(small_student(), 16_000))).activations == "static"
    summary = check_onnx(dynamic)
    assert summary.opsets == {"": 17} and summary.ir_version == 8
    assert kinds(dynamic)["MatMulInteger"] == 4 * 2, "qkv, proj, fc1, fc2 of two blocks"


def test_products_of_two_activations_stay_float(transformer: bytes, dynamic: bytes, windows: np.ndarray) -> None:
    static = quantize_int8(transformer, windows[:8], QuantizeSettings(activations="static"))
    for quantized in (dynamic, static):
        graph = onnx.load_from_string(quantized).graph
        made_by = {node.output[0]: node.op_type for node in graph.node}
        softmaxes = {node.output[0] for node in graph.node if node.op_type == "Softmax"}
        attention = [n for n in graph.node if n.op_type == "MatMul" and softmaxes.intersection(n.input)]
        assert len(attention) == 2
        assert not any(made_by.get(name) == "DequantizeLinear" for node in attention for name in node.input)


def test_dynamic_weights_leave_room_for_pairs_too(dynamic: bytes) -> None:
    assert len(list(int8_weights(dynamic))) == 8
    assert max(int(np.abs(w.astype(np.int32)).max()) for w in int8_weights(dynamic)) <= MAX_WEIGHT
    assert worst_pair_sum(dynamic) <= INT16_MAX


def test_dynamic_ranges_are_nearer_where_few_channels_are_large(
    transformer: bytes, dynamic: bytes, windows: np.ndarray
) -> None:
    wanted = embed(transformer, windows[24:])
    static = quantize_int8(transformer, windows[:24], QuantizeSettings(activations="static"))
    near = agreement(wanted, embed(dynamic, windows[24:]))
    assert near.min_cosine > 0.999
    assert near.min_cosine > agreement(wanted, embed(static, windows[24:])).min_cosine


def test_operators_can_be_chosen(transformer: bytes, windows: np.ndarray) -> None:
    both = quantize_int8(transformer, windows[:8], QuantizeSettings(operators=("Conv", "MatMul")))
    assert len(list(int8_weights(both))) == 8 + 1


def test_a_network_without_products_has_no_int8() -> None:
    class Mean(torch.nn.Module):
        def forward(self, waveform: torch.Tensor) -> torch.Tensor:
            return waveform.reshape(-1, 10, 10).mean(dim=2)

    with pytest.raises(BundleError, match="no convolution or matrix product"):
        quantize_int8(to_onnx(Mean(), 100), np.zeros((1, 100), np.float32))
