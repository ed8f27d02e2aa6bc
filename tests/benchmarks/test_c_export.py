"""The benchmark of the C library, on a small ear and without the generator."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.c_export import cut, ours, run_onnx
from edge.embedder import Embedder
from export.c.emulated import emulator
from tests.export.c.written import made_windows, small_bundle, written


def test_the_model_in_two_parts_is_the_model() -> None:
    bundle, windows = small_bundle(), made_windows(2)
    fe = written().network.front_end
    before, behind = cut(bundle.onnx_bytes(), fe.output, fe.n_bands, fe.n_frames)
    features = run_onnx(before, windows)
    assert features.shape == (2, 1, fe.n_bands, fe.n_frames)
    assert np.allclose(run_onnx(behind, features), Embedder(bundle).embed(windows), atol=1e-5)


@pytest.mark.skipif(not emulator(), reason="needs arm-none-eabi-gcc and qemu-system-arm")
def test_rows_of_both_precisions(tmp_path: Path) -> None:
    made = written()
    int8, float32 = ours(made.bundle, made.network, made_windows(1), tmp_path)
    assert int8["RAM"] == int8["buffers"] + int8["sound"] + int8["stack"] < float32["RAM"]
    assert 0 < int8["of_network_M"] < int8["instructions_M"]
    assert float32["difference"] < 1e-4 < int8["difference"] < 0.5
