"""float16 halves the network and nothing else, and is refused where a half would overflow."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

from edge.errors import BundleError
from edge.onnx_guard import check_onnx
from export.graph import INPUT, OUTPUT, to_onnx
from export.half import LARGEST_HALF, HalfSettings, to_float16
from export.material import edge_case_windows, synthesised_windows
from export.parity import agreement
from export.regions import front_end
from tests.export.small_student import small_student
from tests.export.small_transformer import SmallTransformer

NETWORKS = {"student": small_student, "transformer": SmallTransformer}
LENGTH = 16_000


@pytest.fixture(scope="module")
def windows() -> np.ndarray:
    rng = np.random.default_rng(1)
    return synthesised_windows(24, rng, sample_rate=16_000, window_length=LENGTH, hop_length=4_000)


@pytest.fixture(scope="module", params=NETWORKS)
def exported(request: pytest.FixtureRequest) -> bytes:
    return to_onnx(NETWORKS[request.param](), LENGTH)


@pytest.fixture(scope="module")
def halved(exported: bytes, windows: np.ndarray) -> bytes:
    return to_float16(exported, windows[:8])


def embed(onnx_bytes: bytes, windows: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(onnx_bytes)
    return np.concatenate([session.run(None, {INPUT: row[None]})[0] for row in windows])


def embed_in_halves(onnx_bytes: bytes, windows: np.ndarray) -> np.ndarray:
    """As a processor with float16 arithmetic does it: ONNX Runtime on x86 computes in float32 between the halves."""
    evaluator = ReferenceEvaluator(onnx.load_from_string(onnx_bytes))
    with np.errstate(over="ignore", invalid="ignore"):
        return np.concatenate([evaluator.run(None, {INPUT: row[None]})[0] for row in windows])


def network_bytes(onnx_bytes: bytes) -> int:
    """Bytes of the constants that the network behind the front end uses."""
    model = onnx.load_from_string(onnx_bytes)
    kept = front_end(model)
    used = {name for node in model.graph.node if node.name not in kept for name in node.input}
    return sum(numpy_helper.to_array(t).nbytes for t in model.graph.initializer if t.name in used)


def test_the_network_takes_about_half_the_bytes(exported: bytes, halved: bytes) -> None:
    assert 0.48 < network_bytes(halved) / network_bytes(exported) < 0.6
    assert len(halved) < len(exported)


def test_the_file_is_plain_opset_17_with_float32_at_both_ends(halved: bytes) -> None:
    summary = check_onnx(halved)
    assert summary.opsets == {"": 17} and summary.ir_version == 8
    graph = onnx.load_from_string(halved).graph
    assert [v.type.tensor_type.elem_type for v in (*graph.input, *graph.output)] == [TensorProto.FLOAT] * 2
    assert [graph.input[0].name, graph.output[0].name] == [INPUT, OUTPUT]
    assert graph.input[0].type.tensor_type.shape.dim[0].dim_param == "n"


def test_it_is_near_float32_on_sound_whose_range_nobody_looked_at(
    exported: bytes, halved: bytes, windows: np.ndarray
) -> None:
    report = agreement(embed(exported, windows[8:]), embed(halved, windows[8:]))
    assert report.min_cosine > 0.9999


def test_real_half_arithmetic_is_near_float32_too(exported: bytes, halved: bytes, windows: np.ndarray) -> None:
    report = agreement(embed(exported, windows[8:10]), embed_in_halves(halved, windows[8:10]))
    assert report.min_cosine > 0.999


def test_silence_and_full_scale_stay_finite(exported: bytes, halved: bytes) -> None:
    edges = edge_case_windows(LENGTH)
    assert np.isfinite(embed(halved, edges)).all()
    np.testing.assert_allclose(embed(halved, edges), embed(exported, edges), atol=0.05)


def test_several_windows_at_once_are_each_window(halved: bytes, windows: np.ndarray) -> None:
    together = onnxruntime.InferenceSession(halved).run(None, {INPUT: windows[:3]})[0]
    np.testing.assert_allclose(together, embed(halved, windows[:3]), atol=2e-3)


def types_of_nodes(onnx_bytes: bytes) -> dict[str, tuple[str, int]]:
    """Kind and element type of what each node puts out, by name."""
    graph = onnx.shape_inference.infer_shapes(onnx.load_from_string(onnx_bytes)).graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.output)}
    return {node.name: (node.op_type, types[node.output[0]]) for node in graph.node if node.output[0] in types}


def test_products_run_in_halves_and_sums_over_many_numbers_do_not(exported: bytes, halved: bytes) -> None:
    types = types_of_nodes(halved)
    kept = front_end(onnx.load_from_string(exported))
    products = [t for name, (kind, t) in types.items() if kind in {"Conv", "MatMul", "Gemm"} and name not in kept]
    sums = [t for kind, t in types.values() if kind in {"LayerNormalization", "Softmax", "ReduceMean", "ReduceMax"}]
    assert products and set(products) == {TensorProto.FLOAT16}
    assert sums and set(sums) == {TensorProto.FLOAT}


def test_the_front_end_stays_as_it_was(exported: bytes, halved: bytes) -> None:
    before, after = onnx.load_from_string(exported), onnx.load_from_string(halved)
    kept = front_end(before)
    first = {n.name: (n.op_type, list(n.input), list(n.output)) for n in before.graph.node if n.name in kept}
    second = {n.name: (n.op_type, list(n.input), list(n.output)) for n in after.graph.node if n.name in kept}
    assert first == second and len(first) > 5
    constants = {t.name: t for t in after.graph.initializer}
    for tensor in before.graph.initializer:
        if any(tensor.name in inputs for _, inputs, _ in first.values()):
            assert numpy_helper.to_array(constants[tensor.name]).tobytes() == numpy_helper.to_array(tensor).tobytes()


class Loud(nn.Module):
    """Multiplies its sound so far that a half overflows, and comes back."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(100, 50, bias=False), nn.Linear(50, 10, bias=False)
        torch.manual_seed(0)
        with torch.no_grad():
            self.up.weight.copy_(gain * torch.rand(50, 100))
            self.down.weight.copy_(torch.rand(10, 50) / gain)

    def forward(self, waveform: Tensor) -> Tensor:
        out: Tensor = self.down(self.up(waveform))
        return out


def test_numbers_near_the_end_of_a_half_are_refused_by_name() -> None:
    windows = np.random.default_rng(0).uniform(0, 1, (3, 100)).astype(np.float32)
    with pytest.raises(BundleError, match=r"/up/MatMul works on numbers of .*float16 ends at 65504.*float32 or int8"):
        to_float16(to_onnx(Loud(1e4), 100), windows)
    to_float16(to_onnx(Loud(10.0), 100), windows)


def test_the_last_product_is_looked_at_as_well() -> None:
    model = Loud(10.0)
    with torch.no_grad():
        model.down.weight.mul_(1e4)
    with pytest.raises(BundleError, match="/down/MatMul works on numbers of"):
        to_float16(to_onnx(model, 100), np.full((3, 100), 0.5, np.float32))


def test_full_scale_is_looked_at_when_the_sound_is_soft() -> None:
    soft = np.full((3, 100), 1e-3, np.float32)
    with pytest.raises(BundleError, match="works on numbers of"):
        to_float16(to_onnx(Loud(3e3), 100), soft)


def test_without_the_look_at_the_range_it_would_overflow() -> None:
    """The mechanism switched off."""
    windows = np.random.default_rng(0).uniform(0, 1, (3, 100)).astype(np.float32)
    exported = to_onnx(Loud(1e4), 100)
    blind = to_float16(exported, windows, HalfSettings(headroom=1e-9))
    assert np.isfinite(embed(exported, windows)).all()
    assert not np.isfinite(embed_in_halves(blind, windows)).any()


def test_a_weight_that_is_no_half_keeps_its_product_in_float32() -> None:
    windows = np.random.default_rng(0).uniform(0, 1e-3, (3, 100)).astype(np.float32)
    exported = to_onnx(Loud(2.0 * LARGEST_HALF), 100)
    halved = to_float16(exported, windows, HalfSettings(headroom=1e-9))
    kinds = types_of_nodes(halved)
    assert kinds["/up/MatMul"][1] == TensorProto.FLOAT and kinds["/down/MatMul"][1] == TensorProto.FLOAT16


def test_a_network_without_products_is_refused() -> None:
    class Mean(nn.Module):
        def forward(self, waveform: Tensor) -> Tensor:
            return waveform.reshape(-1, 10, 10).mean(dim=2)

    with pytest.raises(BundleError, match="no operator of kinds Conv, Gemm, MatMul"):
        to_float16(to_onnx(Mean(), 100), np.zeros((1, 100), np.float32))
