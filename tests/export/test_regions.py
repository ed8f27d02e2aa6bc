"""The front end ends at the last logarithm of sound, and the weights lie where they are looked for."""

from __future__ import annotations

import onnx
import torch
from torch import Tensor, nn

from export.graph import to_onnx
from export.regions import front_end, heavy_operators
from tests.export.small_student import small_student
from tests.export.small_transformer import SmallTransformer


def load(model: nn.Module, length: int = 16_000) -> onnx.ModelProto:
    return onnx.load_from_string(to_onnx(model, length))


def test_a_network_without_a_logarithm_has_no_front_end() -> None:
    assert front_end(load(nn.Linear(100, 3), 100)) == set()


class WithPositions(nn.Module):
    """A logarithm of sound, a product, then a logarithm of constants that the tracer does not fold."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(100, 4)

    def forward(self, waveform: Tensor) -> Tensor:
        x = self.linear(torch.log(waveform * waveform + 1e-6))
        return x + torch.log(torch.arange(1, x.shape[1] + 1).float())


def test_a_logarithm_of_constants_is_no_front_end() -> None:
    model = load(WithPositions(), 100)
    kinds = [node.op_type for node in model.graph.node if node.name in front_end(model)]
    assert kinds == ["Mul", "Add", "Log"]


def test_front_ends_hold_the_spectrum_and_no_block() -> None:
    for network in (small_student(), SmallTransformer()):
        names = front_end(load(network))
        assert any("log_mel" in name for name in names) and not any("blocks" in name for name in names)


def test_the_heavy_operators_of_each_kind_of_network() -> None:
    assert heavy_operators(load(small_student())) == ("Conv",)
    assert heavy_operators(load(small_student()), share=0.0) == ("Conv", "Gemm")
    assert heavy_operators(load(SmallTransformer())) == ("MatMul",)
    assert heavy_operators(load(SmallTransformer()), share=0.0) == ("MatMul", "Conv")
