"""Learning on the device: the recursion in float32 beside the edge's exact read-out of the same examples."""

from __future__ import annotations

import ctypes
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge.bundle import default_bundle_path, open_bundle
from edge.embedder import Embedder
from edge.heads import fit_ridge
from edge.space import EmbeddingSpace, FeatureSpace
from edge.statistics import SufficientStatistics
from export.c.emulated import BUILD, CC, QEMU, WINDOWS_AT, call, emulator, link
from export.c.host import FLAGS
from tests.export.c.written import real_windows
from tests.faults import repetitions
from tests.firmware_bridge.c_library import C, built

Array = NDArray[np.float64]
NONE = 255
SHIM = """
#include "soundkeep/sk_update.h"
uint32_t size_of_update(void);
const float *weights_of(sk_update *u, const float *x, float *scores);
uint32_t size_of_update(void) { return (uint32_t)sizeof(sk_update); }
const float *weights_of(sk_update *u, const float *x, float *scores)
{
    sk_update_scores(u, x, scores);
    return u->weights;
}
"""


def library() -> Any:
    loaded = built(SHIM)
    loaded.weights_of.restype = ctypes.POINTER(ctypes.c_float)
    return loaded


def storage_numbers(dim: int, k: int) -> int:
    return dim * (dim + 1) // 2 + 2 * dim * k + dim


class OnDevice:
    def __init__(self, dim: int, k: int, ridge: float, *, n: int | None = None) -> None:
        self.dim, self.k = dim, k
        self._update = ctypes.create_string_buffer(library().size_of_update())
        self._storage = np.full(storage_numbers(dim, k) if n is None else n, np.nan, dtype=np.float32)
        given = self._storage.ctypes.data_as(ctypes.c_void_p)
        self.failed = library().sk_update_init(self._update, given, len(self._storage), dim, k, ctypes.c_float(ridge))

    def learn(self, grid: NDArray[np.int16], index: int) -> int:
        x = (grid / np.float32(16384.0)).astype(np.float32)
        return int(library().sk_update_learn(self._update, x.ctypes.data_as(ctypes.c_void_p), index))

    def learn_numbers(self, x: NDArray[np.float32], index: int) -> int:
        return int(library().sk_update_learn(self._update, x.ctypes.data_as(ctypes.c_void_p), index))

    def reset(self) -> None:
        library().sk_update_reset(self._update)

    def weights(self) -> Array:
        x, scores = np.zeros(self.dim, dtype=np.float32), np.zeros(self.k, dtype=np.float32)
        found = library().weights_of(
            self._update, x.ctypes.data_as(ctypes.c_void_p), scores.ctypes.data_as(ctypes.c_void_p)
        )
        return np.ctypeslib.as_array(found, shape=(self.dim, self.k)).astype(np.float64)

    def scores(self, grid: NDArray[np.int16]) -> Array:
        x = (grid / np.float32(16384.0)).astype(np.float32)
        scores = np.zeros(self.k, dtype=np.float32)
        library().sk_update_scores(
            self._update, x.ctypes.data_as(ctypes.c_void_p), scores.ctypes.data_as(ctypes.c_void_p)
        )
        return scores.astype(np.float64)


def on_grid(x: Array) -> NDArray[np.int16]:
    return np.rint(x / np.linalg.norm(x, axis=-1, keepdims=True) * 16384.0).astype(np.int16)


def examples(n: int, dim: int, k: int, seed: int = 0) -> tuple[NDArray[np.int16], NDArray[np.int64]]:
    """Embeddings as ears give them: a common mean, a spectrum that falls off, clusters. Class k is none of them."""
    rng = np.random.default_rng(seed)
    directions = np.linalg.qr(rng.standard_normal((dim, dim)))[0]
    spread = directions * (1.0 + np.arange(dim)) ** -0.7
    kinds = 2.0 * rng.standard_normal((k + 1, dim)) @ spread.T
    labels = rng.integers(0, k + 1, n)
    x = 1.5 * directions[:, 0] + kinds[labels] + rng.standard_normal((n, dim)) @ spread.T
    return on_grid(x), labels


def exact(grid: NDArray[np.int16], labels: NDArray[np.int64], k: int, ridge: float) -> Array:
    """What the edge solves from its integer sums, in the device's units."""
    space = EmbeddingSpace("ab" * 32, sample_rate=16000, window_length=16000, hop_length=4000, dim=grid.shape[1])
    features = FeatureSpace(space)
    known = labels < k
    names = [f"{i:03}" for i in labels[known]]
    taught = SufficientStatistics.from_samples(features, grid[known], names)
    others = SufficientStatistics.from_samples(features, grid[~known], ["none"] * int((~known).sum()))
    head = fit_ridge(taught, ridge=ridge, prior=others if others.n_samples else None)
    weights = np.zeros((grid.shape[1], k))
    weights[:, [int(name) for name in head.labels]] = head.weights
    return weights * 16384.0


def error(found: Array, wanted: Array) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def learnt(grid: NDArray[np.int16], labels: NDArray[np.int64], k: int, ridge: float) -> Array:
    device = OnDevice(grid.shape[1], k, ridge)
    assert device.failed == 0
    for x, label in zip(grid, labels, strict=True):
        assert device.learn(x, NONE if label == k else int(label)) == 0
    return device.weights()


@pytest.mark.parametrize("ridge", [0.25, 1.0, 16.0, 4096.0])
@pytest.mark.parametrize("dim", [96, 128])
def test_after_a_thousand_updates_the_weights_are_the_exact_ones_within_1e_4(dim: int, ridge: float) -> None:
    grid, labels = examples(1000, dim, 8)
    assert error(learnt(grid, labels, 8, ridge), exact(grid, labels, 8, ridge)) <= 1e-4


def test_the_inverse_carried_along_loses_what_the_triangle_keeps() -> None:
    """The recursion that textbooks give (Sherman and Morrison, on the inverse), in float32, under a small ridge."""
    dim, k, ridge = 128, 8, 2.0**-10
    grid, labels = examples(1000, dim, k)
    inverse = (np.eye(dim) * dim / ridge).astype(np.float32)
    weights = np.zeros((dim, k), dtype=np.float32)
    for row, label in zip((grid / 16384.0).astype(np.float32), labels, strict=True):
        gain = inverse @ row
        gain = gain / np.float32(1.0 + row @ gain)
        target = (np.arange(k) == label).astype(np.float32)
        weights += np.outer(gain, target - row @ weights)
        inverse -= np.outer(gain, row @ inverse)
    wanted = exact(grid, labels, k, ridge)
    assert error(weights.astype(np.float64), wanted) > 1e-4 >= 10 * error(learnt(grid, labels, k, ridge), wanted)


@pytest.mark.faults
@pytest.mark.parametrize("ridge", [2.0**-10, 1.0])
def test_embeddings_of_real_sounds_are_learnt_within_1e_4(shared_data: Path, ridge: float) -> None:
    """The ear of the bundle, projected to 128 numbers; classes by chance, which asks more of the weights."""
    n, dim, k = repetitions(200, 1000), 128, 8
    windows = real_windows(shared_data, n).astype(np.float32) / np.float32(32768.0)
    grid, refused = Embedder(open_bundle(default_bundle_path())).quantized(windows)
    rng = np.random.default_rng(0)
    projection = np.linalg.qr(rng.standard_normal((grid.shape[1], dim)))[0]
    projected, labels = on_grid(grid @ projection), rng.integers(0, k + 1, len(grid))
    assert refused == 0
    assert error(learnt(projected, labels, k, ridge), exact(projected, labels, k, ridge)) <= 1e-4


SIZES = (st.integers(1, 20), st.integers(1, 5), st.integers(0, 60))


@given(*SIZES, st.sampled_from([0.25, 1.0, 64.0]), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_it_is_the_ridge_of_the_edge_whatever_the_sizes(dim: int, k: int, n: int, ridge: float, seed: int) -> None:
    grid, labels = examples(n, dim, k, seed)
    found = learnt(grid, labels, k, ridge)
    if n == 0 or (labels == k).all():
        assert not found.any()
    else:
        assert np.abs(found - exact(grid, labels, k, ridge)).max() <= 1e-4 * max(1.0, np.abs(found).max())


def test_the_order_of_examples_makes_no_difference_but_rounding() -> None:
    grid, labels = examples(300, 64, 4)
    order = np.random.default_rng(1).permutation(300)
    assert error(learnt(grid[order], labels[order], 4, 4.0), learnt(grid, labels, 4, 4.0)) <= 1e-5


def test_scores_are_near_one_for_what_was_taught_and_near_nought_else() -> None:
    grid, labels = examples(200, 64, 3)
    device = OnDevice(64, 3, 1.0)
    assert not device.scores(grid[0]).any()
    for x, label in zip(grid, labels, strict=True):
        device.learn(x, NONE if label == 3 else int(label))
    new, kinds = grid[:120], labels[:120]
    scores = np.stack([device.scores(x) for x in new])
    taught = kinds < 3
    assert (scores[taught].argmax(axis=1) == kinds[taught]).mean() > 0.95
    assert scores[taught].max(axis=1).mean() > 0.7 and scores[~taught].max(axis=1).mean() < 0.3
    device.reset()
    assert not device.scores(grid[0]).any() and not device.weights().any()


def test_what_cannot_be_learnt_changes_nothing() -> None:
    grid, labels = examples(20, 16, 2)
    device = OnDevice(16, 2, 1.0)
    for x, label in zip(grid, labels, strict=True):
        device.learn(x, NONE if label == 2 else int(label))
    before = device.weights()
    assert device.learn(grid[0], 2) == -1 and device.learn(grid[0], 254) == -1
    for bad in (np.nan, np.inf, -np.inf, 17.0):
        x = np.zeros(16, dtype=np.float32)
        x[7] = bad
        assert device.learn_numbers(x, 0) == -1
    assert np.array_equal(device.weights(), before)
    for dim, k, ridge in ((0, 1, 1.0), (129, 1, 1.0), (8, 0, 1.0), (8, 65, 1.0), (8, 1, 1e-40), (8, 1, np.nan)):
        assert OnDevice(dim, k, ridge, n=40_000).failed == -1
    assert OnDevice(16, 2, 1.0, n=storage_numbers(16, 2) - 1).failed == -1


def test_the_same_example_over_and_over_is_known_ever_better() -> None:
    grid, _ = examples(1, 8, 1)
    device = OnDevice(8, 1, 1.0)
    for _ in range(20_000):
        device.learn(grid[0], 0)
    assert device.scores(grid[0])[0] == pytest.approx(1.0, abs=1e-3)


@pytest.mark.skipif(not emulator(), reason="needs arm-none-eabi-gcc and qemu-system-arm")
def test_the_board_learns_the_same_bits(tmp_path: Path) -> None:
    """QEMU's Cortex-M4F, the same thousand examples; what an update costs, counted."""
    dim, k, ridge = 128, 8, 1.0
    grid, labels = examples(1000, dim, k)
    objects = []
    for name in ("sk_update", "sk_math"):
        objects.append(tmp_path / f"{name}.o")
        call([CC, *FLAGS, *BUILD, f"-I{C / 'include'}", "-c", f"{C / 'src' / name}.c", "-o", str(objects[-1])])
    link(tmp_path / "update.elf", objects, C / "include", [], "8K", program="update.c")
    rows = np.zeros(1000, dtype=np.dtype([("x", "<f4", (dim,)), ("index", "<u4")]))
    rows["x"], rows["index"] = (grid / 16384.0).astype(np.float32), np.where(labels == k, NONE, labels)
    given = tmp_path / "given"
    given.write_bytes(struct.pack("<IIIf", 1000, dim, k, ridge) + rows.tobytes())
    board = [QEMU, "-M", "mps2-an386", "-display", "none", "-monitor", "none", "-serial", "none"]
    board += ["-kernel", str(tmp_path / "update.elf"), "-semihosting-config", "enable=on,target=native"]
    board += ["-device", f"loader,file={given},addr={WINDOWS_AT:#x},force-raw=on", "-icount", "shift=0"]
    call(board, cwd=tmp_path)
    results = (tmp_path / "results").read_bytes()
    counts = np.frombuffer(results, dtype="<u4", count=1001)
    weights = np.frombuffer(results, dtype="<f4", count=dim * k, offset=4 * 1001).reshape(dim, k)
    assert np.array_equal(weights.astype(np.float64), learnt(grid, labels, k, ridge))
    assert counts[:1000].max() < 300_000 and counts[1000] < 2_000_000
    assert np.frombuffer(results[-4:], dtype="<u4")[0] < 1024
    print(f"{counts[:1000].mean():.0f} instructions an update, {counts[1000]} to solve, stack {results[-4:]!r}")
