"""int8 with float front end: weights per channel in seven bits, so that no int8 kernel saturates.

x86 without VNNI multiplies unsigned by signed bytes and adds neighbouring products in int16 (``vpmaddubsw``), which
saturates at 32,767. Activations of eight bits times two weights of at most 64: 255 * 64 * 2 = 32,640 fits. The result
is then the same on AVX2, AVX-512, VNNI and ARM up to rounding. Source: ONNX Runtime's guide to ``reduce_range``.

Convolutions get the ranges of their activations beforehand, from sound (QDQ form). A transformer's matrix products take
theirs from each window as it comes (``DynamicQuantizeLinear``): its residual stream has a few large channels, and a
range that holds them for all sound wastes the bytes of most. Products of two activations (attention) stay float.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from edge.errors import BundleError
from export.graph import INPUT, IR_VERSION, OPSET
from export.regions import front_end, heavy_operators, products_of_activations

MAX_WEIGHT = 64
Calibration = Literal["minmax", "percentile", "entropy"]
Activations = Literal["static", "dynamic"]


@dataclass(frozen=True)
class QuantizeSettings:
    """operators: which kinds become int8; empty: those that hold the weights, without convolutions when matrices hold
    more. activations: when ranges are taken; None: static if there are convolutions among the operators, else dynamic.
    calibration: how static ranges are chosen.

    Measured on a student of 1.6 M weights (Conv): mean cosine to float 0.9994; its last matrix in int8 too costs 0.0007
    of it, saves 0.8 of 3.4 MB and no time. On a random transformer, four blocks 192 wide (MatMul), whose norms enlarge
    a few channels twentyfold: worst cosine of 64 windows 0.9997 with dynamic ranges, 0.9973 with static ones; without
    large channels 0.9999 and 0.9998. Dynamic ranges took 1.5, static ones 1.8 to 2.1, float32 2.6 ms a window (VNNI).
    """

    operators: tuple[str, ...] = ()
    activations: Activations | None = None
    calibration: Calibration = "percentile"
    reduce_range: bool = True

    def for_graph(self, model: onnx.ModelProto) -> QuantizeSettings:
        """Fill in what the graph decides. Raises BundleError when no operator is left to quantise."""
        operators = self.operators or heavy_operators(model)
        if not operators:
            raise BundleError("the network has no convolution or matrix product to make int8; export it as float32")
        if not self.operators and operators[0] != "Conv":
            operators = tuple(kind for kind in operators if kind != "Conv")
        activations = self.activations or ("static" if "Conv" in operators else "dynamic")
        return replace(self, operators=operators, activations=activations)


def quantize_int8(
    onnx_bytes: bytes, windows: NDArray[np.float32], settings: QuantizeSettings = QuantizeSettings()
) -> bytes:
    """Return the model with its network in int8 and everything up to the last logarithm as it was.

    windows: (n, window_length) float32, real or synthesised sound from which static ranges are taken; the calibrator
    holds every activation of them in memory.
    """
    model = onnx.load_from_string(onnx_bytes)
    excluded = sorted(front_end(model) | products_of_activations(model))
    chosen = settings.for_graph(model)
    if chosen.activations == "static" and len(windows) == 0:
        raise BundleError("int8 with static ranges needs windows of sound to calibrate on; got none")
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "float32.onnx", Path(folder) / "int8.onnx"
        source.write_bytes(onnx_bytes)
        with _quiet():
            if chosen.activations == "static":
                _quantize_static(source, target, excluded, windows, chosen)
            else:
                _quantize_dynamic(source, target, excluded, chosen)
        quantized = onnx.load(str(target))
    if any(node.domain not in ("", "ai.onnx") for node in quantized.graph.node):
        raise BundleError("quantisation used operators outside ONNX; update onnxruntime")
    del quantized.opset_import[:]
    quantized.opset_import.append(onnx.helper.make_opsetid("", OPSET))
    quantized.ir_version = IR_VERSION
    quantized.producer_name = "soundkeep-export"
    quantized.producer_version = ""
    del quantized.metadata_props[:]
    onnx.checker.check_model(quantized, full_check=True)
    return bytes(quantized.SerializeToString(deterministic=True))


def _quantize_static(
    source: Path, target: Path, excluded: list[str], windows: NDArray[np.float32], settings: QuantizeSettings
) -> None:
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.calibrate import CalibrationMethod

    methods = {
        "minmax": CalibrationMethod.MinMax,
        "percentile": CalibrationMethod.Percentile,
        "entropy": CalibrationMethod.Entropy,
    }
    quantize_static(
        str(source),
        str(target),
        _Windows(windows),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=list(settings.operators),
        nodes_to_exclude=excluded,
        per_channel=True,
        reduce_range=settings.reduce_range,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=methods[settings.calibration],
    )


def _quantize_dynamic(source: Path, target: Path, excluded: list[str], settings: QuantizeSettings) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        str(source),
        str(target),
        op_types_to_quantize=list(settings.operators),
        nodes_to_exclude=excluded,
        per_channel=True,
        reduce_range=settings.reduce_range,
        weight_type=QuantType.QInt8,
    )


def int8_weights(onnx_bytes: bytes) -> Iterator[NDArray[np.int8]]:
    """Yield every int8 weight tensor of a quantised model (not the zero points)."""
    for tensor in onnx.load_from_string(onnx_bytes).graph.initializer:
        if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) > 1:
            yield onnx.numpy_helper.to_array(tensor)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what the calibrator prints and advises; its errors are exceptions."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)


class _Windows:
    """ONNX Runtime's reader of calibration data: one window at a time."""

    def __init__(self, windows: NDArray[np.float32]) -> None:
        self._windows = windows
        self._rows = iter(windows)

    def get_next(self) -> dict[str, Any] | None:
        row = next(self._rows, None)
        return None if row is None else {INPUT: np.ascontiguousarray(row[None], dtype=np.float32)}

    def rewind(self) -> None:
        self._rows = iter(self._windows)

    def set_range(self, start_index: int, end_index: int) -> None:
        self._rows = iter(self._windows[start_index:end_index])

    def __len__(self) -> int:
        return len(self._windows)
