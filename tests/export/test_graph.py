"""The exported file suits old runtimes, says nothing of its maker, and computes what the network computes."""

from __future__ import annotations

import getpass
import os
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from edge.errors import BundleError
from edge.onnx_guard import check_onnx
from export.graph import INPUT, OUTPUT, to_onnx
from export.material import edge_case_windows, synthesised_windows
from export.parity import EDGE_TOLERANCE, TOLERANCE, agreement, check_parity
from tests.export.small_student import DIM, small_student

LENGTH = 16_000


@pytest.fixture(scope="module")
def student() -> nn.Module:
    return small_student()


@pytest.fixture(scope="module")
def exported(student: nn.Module) -> bytes:
    return to_onnx(student, LENGTH)


@pytest.fixture(scope="module")
def windows() -> np.ndarray:
    rng = np.random.default_rng(1)
    return synthesised_windows(12, rng, sample_rate=16_000, window_length=LENGTH, hop_length=4_000)


def test_the_file_is_opset_17_of_plain_operators(exported: bytes) -> None:
    model = onnx.load_from_string(exported)
    summary = check_onnx(exported)
    assert summary.opsets == {"": 17} and summary.ir_version == 8
    assert [
        (v.name, [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim]) for v in model.graph.input
    ] == [(INPUT, ["n", LENGTH])]
    assert [d.dim_param or d.dim_value for d in model.graph.output[0].type.tensor_type.shape.dim] == ["n", DIM]
    assert "Constant" not in {node.op_type for node in model.graph.node}


def test_the_file_is_the_same_twice_and_names_no_machine(student: nn.Module, exported: bytes) -> None:
    assert to_onnx(student, LENGTH) == exported
    for word in (os.getcwd(), str(Path.home()), os.sep + "site-packages", f"/{getpass.getuser()}/"):
        assert word.encode() not in exported


class Twins(nn.Module):
    """Two equal layers, which the tracer stores once, and one row of tokens, whose width it does not see."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(10, 10), nn.Linear(10, 10)
        self.second.load_state_dict(self.first.state_dict())

    def forward(self, waveform: Tensor) -> Tensor:
        tokens = self.second(self.first(waveform.reshape(-1, 10, 10)))
        return tokens[:, 0]


def test_equal_layers_are_constants_both_and_the_output_says_its_size() -> None:
    twins = Twins()
    exported = to_onnx(twins, 100)
    check_parity(twins, exported, np.random.default_rng(0).uniform(-1, 1, (9, 100)).astype(np.float32))
    graph = onnx.load_from_string(exported).graph
    constants = {t.name for t in graph.initializer}
    products = [node for node in graph.node if node.op_type == "MatMul"]
    assert len(products) == 2 and all(node.input[1] in constants for node in products)
    assert "Identity" not in {node.op_type for node in graph.node}
    assert graph.output[0].type.tensor_type.shape.dim[1].dim_value == 10


def test_parity_on_sound_and_at_its_edges(student: nn.Module, exported: bytes, windows: np.ndarray) -> None:
    report = check_parity(student, exported, windows)
    assert report.n_windows == 12
    assert report.max_difference <= TOLERANCE and report.max_batch_difference <= TOLERANCE
    assert report.max_edge_difference <= EDGE_TOLERANCE
    assert report.largest_value > 0.1, "a network that answers nothing is in parity with everything"


def test_parity_finds_a_changed_weight(student: nn.Module, exported: bytes, windows: np.ndarray) -> None:
    model = onnx.load_from_string(exported)
    weights = next(t for t in model.graph.initializer if t.name == "project.weight")
    weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights) * np.float32(1.001), weights.name))
    with pytest.raises(BundleError, match="the export changed the computation"):
        check_parity(student, model.SerializeToString(), windows)


class Floored(nn.Module):
    """Divides by a mean power plus a floor far below one bit of audio."""

    def forward(self, waveform: Tensor) -> Tensor:
        blocks = waveform.reshape(-1, 10, 10).pow(2).mean(dim=2)
        return torch.log(blocks / (blocks.mean(dim=1, keepdim=True) + 1e-9) + 1e-6)


def test_a_tiny_floor_survives_the_export() -> None:
    onnx_bytes = to_onnx(Floored(), 100)
    silence = np.zeros((1, 100), np.float32)
    assert np.isfinite(onnxruntime.InferenceSession(onnx_bytes).run([OUTPUT], {INPUT: silence})[0]).all()
    check_parity(Floored(), onnx_bytes, np.random.default_rng(0).uniform(-1, 1, (3, 100)).astype(np.float32))


def test_parity_finds_a_floor_that_was_lost() -> None:
    class Lost(nn.Module):
        def forward(self, waveform: Tensor) -> Tensor:
            blocks = waveform.reshape(-1, 10, 10).pow(2).mean(dim=2)
            return torch.log(blocks / blocks.mean(dim=1, keepdim=True) + 1e-6)

    with pytest.raises(BundleError, match="not finite"):
        check_parity(Floored(), to_onnx(Lost(), 100), edge_case_windows(100)[1:2])


def test_parity_finds_a_batch_that_is_not_free() -> None:
    class OneOnly(nn.Module):
        def forward(self, waveform: Tensor) -> Tensor:
            return waveform.reshape(waveform.shape[0], 10, 10).mean(dim=2)

    with pytest.raises(BundleError, match="takes one window only"):
        check_parity(OneOnly(), to_onnx(OneOnly(), 100), edge_case_windows(100))


class NegativeFloorDivision(nn.Module):
    """Rounds a length up by dividing its negative: the tracer writes a division that rounds towards zero."""

    def forward(self, waveform: Tensor) -> Tensor:
        third = -(-waveform.shape[1] // 3)
        return waveform[:, :third].mean(dim=1, keepdim=True)


def test_parity_finds_what_the_tracer_gets_wrong() -> None:
    onnx_bytes = to_onnx(NegativeFloorDivision(), 100)
    windows = np.random.default_rng(0).uniform(-1, 1, (3, 100)).astype(np.float32)
    with pytest.raises(BundleError, match="the export changed the computation"):
        check_parity(NegativeFloorDivision(), onnx_bytes, windows)


def test_agreement_is_one_for_the_same_and_less_for_others() -> None:
    rng = np.random.default_rng(3)
    a = rng.standard_normal((20, 8)).astype(np.float32)
    same = agreement(a, 3.0 * a)
    assert same.min_cosine == pytest.approx(1.0) and same.n_windows == 20
    other = agreement(a, rng.standard_normal((20, 8)).astype(np.float32))
    assert other.min_cosine < other.p5_cosine < other.mean_cosine < 0.9
