"""The same windows on an emulated Cortex-M4F and on this machine: the same C, the same answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from export.c.emulated import Firmware, emulator, sizes
from export.c.plan import Precision
from tests.export.c.written import made_windows, real_windows, written
from tests.faults import repetitions

pytestmark = pytest.mark.skipif(not emulator(), reason="needs arm-none-eabi-gcc and qemu-system-arm")
N_FEATURES = 64 * 98


@pytest.mark.faults
def test_int8_is_the_same_to_the_bit(shared_data: Path) -> None:
    made = written()
    pcm = real_windows(shared_data, repetitions(30, 1000))
    run = Firmware(made.path, "int8", features=True).run(pcm, n_features=N_FEATURES)
    build = made.build("int8")
    embeddings, grid = build.embed_pcm(pcm)
    assert np.array_equal(run.embeddings, embeddings) and np.array_equal(run.grid, grid)
    assert run.features is not None
    assert np.abs(run.features.astype(int) - build.features(pcm, N_FEATURES)).max() <= 1


@pytest.mark.faults
def test_float_is_the_same_within_1e_5(shared_data: Path) -> None:
    made = written()
    pcm = real_windows(shared_data, repetitions(30, 1000), seed=1)
    run = Firmware(made.path, "float32").run(pcm)
    embeddings, grid = made.build("float32").embed_pcm(pcm)
    assert np.abs(run.embeddings - embeddings).max() <= 1e-5
    assert np.abs(run.grid.astype(int) - grid).max() <= 1


@pytest.mark.parametrize("precision", ["int8", "float32"])
def test_counts_mean_what_they_say(precision: Precision) -> None:
    pcm = np.rint(made_windows(2) * 32767).astype(np.int16)
    firmware = Firmware(written().path, precision)
    run = firmware.run(pcm, count=True)
    assert np.array_equal(firmware.run(pcm, count=True).instructions, run.instructions)
    assert 2e6 < run.instructions.min() <= run.instructions.max() < 1.01 * run.instructions.min()
    assert 100 < run.stack_bytes < 1024
    weights = written().network.n_weights
    assert weights < sizes(written().path, precision).flash_bytes < 4 * weights + 40_000
