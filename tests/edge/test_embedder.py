"""An embedding is a function of its window alone, to the bit; and a backbone that does not fit is refused."""

from __future__ import annotations

import dataclasses
import platform
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import helper

from edge.backbone_import import import_backbone
from edge.bundle import Bundle
from edge.embedder import PROVIDERS, Embedder, aligned, available_providers, check_canary, probe_window, runtime_version
from edge.errors import AudioError, BundleError, ConfigurationError
from edge.space import l2_normalize
from tests.simulators.small_backbone import (
    DIM,
    SAMPLE_RATE,
    WINDOW_LENGTH,
    onnx_model,
    small_backbone,
    write_small_bundle,
)

sums_reorder = pytest.mark.skipif(
    platform.machine() not in {"x86_64", "AMD64"}, reason="needs the vector kernels of an x86-64 processor"
)
YAMNET_SPEC = Path(__file__).parent.parent.parent / "docs" / "examples" / "yamnet.toml"


@pytest.fixture(scope="module")
def yamnet(shared_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    out = tmp_path_factory.mktemp("yamnet") / "yamnet"
    return import_backbone(shared_models / "yamnet_waveform_to_embedding.onnx", YAMNET_SPEC, out)[0]


def noise(n: int, length: int, seed: int = 0) -> NDArray[np.float32]:
    return (0.1 * np.random.default_rng(seed).standard_normal((n, length))).astype(np.float32)


def shifted(windows: NDArray[np.float32], offset: int) -> NDArray[np.float32]:
    """Return a copy of the windows that starts ``offset`` samples after a 64-byte boundary."""
    buffer = np.empty(windows.size + 64, dtype=np.float32)
    begin = (-buffer.ctypes.data % 64) // 4 + offset
    copy = buffer[begin : begin + windows.size].reshape(windows.shape)
    copy[:] = windows
    return copy


def assert_function_of_window(bundle: Bundle) -> None:
    windows = noise(12, bundle.space.window_length)
    alone = np.concatenate([Embedder(bundle).embed(windows[i : i + 1]) for i in range(3)])
    for threads in (1, 2, 3, 7):
        embedder = Embedder(bundle, threads=threads)
        together = embedder.embed(windows)
        assert together.tobytes()[: alone.nbytes] == alone.tobytes()
        for batch in (1, 2, 5):
            parts = [embedder.embed(windows[i : i + batch]) for i in range(0, 12, batch)]
            assert np.concatenate(parts).tobytes() == together.tobytes()
        order = np.random.default_rng(threads).permutation(12)
        assert embedder.embed(windows[order]).tobytes() == together[order].tobytes()
        for offset in (1, 3, 15):
            assert embedder.embed(shifted(windows, offset)).tobytes() == together.tobytes()


def test_batch_threads_order_and_address_change_no_bit(small_bundle: Bundle) -> None:
    assert_function_of_window(small_bundle)


def test_batch_threads_order_and_address_change_no_bit_of_yamnet(yamnet: Bundle) -> None:
    assert_function_of_window(yamnet)


def raw_session(onnx: bytes, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(onnx, options)


@sums_reorder
def test_threads_inside_an_operator_would_change_bits() -> None:
    """Why ``threads`` counts windows at a time: given to ONNX Runtime itself, it changes the embedding."""
    onnx, windows = small_backbone(), noise(64, WINDOW_LENGTH)
    one, four = raw_session(onnx, 1), raw_session(onnx, 4)
    differs = [
        one.run(None, {"waveform": w[None]})[0].tobytes() != four.run(None, {"waveform": w[None]})[0].tobytes()
        for w in windows
    ]
    assert any(differs)


def mean_backbone(length: int) -> bytes:
    nodes = [helper.make_node("ReduceMean", ["waveform"], ["embedding"], axes=[1], keepdims=1)]
    return onnx_model(nodes, {"waveform": ["n", length]}, {"embedding": ["n", 1]}, {})


@sums_reorder
def test_the_address_of_the_input_would_change_bits(tmp_path: Path) -> None:
    """Why the input is copied to a 64-byte boundary: a plain mean depends on where its input lies."""
    length = 16_001
    onnx, window = mean_backbone(length), noise(1, length)
    session = raw_session(onnx, 1)
    raw = {session.run(None, {"waveform": shifted(window, o)})[0].tobytes() for o in range(16)}
    bundle = write_small_bundle(tmp_path / "mean", onnx=onnx, window_length=length, dim=1)
    ours = {Embedder(bundle).embed(shifted(window, o)).tobytes() for o in range(16)}
    assert len(raw) > 1
    assert len(ours) == 1


@pytest.mark.parametrize("length", [1, 7, 16_000])
def test_aligned_copies_to_a_boundary(length: int) -> None:
    window = noise(1, length)[0]
    copy = aligned(window)
    assert copy.ctypes.data % 64 == 0
    assert copy.tobytes() == window.tobytes()
    assert not np.shares_memory(copy, window)


def test_no_windows_give_no_embeddings(small_bundle: Bundle) -> None:
    embeddings = Embedder(small_bundle, threads=2).embed(np.empty((0, WINDOW_LENGTH), np.float32))
    assert embeddings.shape == (0, DIM) and embeddings.dtype == np.float32


def test_quantized_is_unit_length_on_the_grid(small_bundle: Bundle) -> None:
    embedder = Embedder(small_bundle)
    windows = noise(4, WINDOW_LENGTH)
    quantized, n_clipped = embedder.quantized(windows)
    assert quantized.dtype == np.int16 and n_clipped == 0
    wanted = np.rint(l2_normalize(embedder.embed(windows)) * 2**14)
    np.testing.assert_array_equal(quantized, wanted)
    np.testing.assert_allclose(np.linalg.norm(quantized / 2**14, axis=1), 1.0, atol=1e-3)


def test_windows_of_another_length_are_refused(small_bundle: Bundle) -> None:
    embedder = Embedder(small_bundle)
    for shape in ((2, WINDOW_LENGTH - 1), (WINDOW_LENGTH,), (1, 1, WINDOW_LENGTH)):
        with pytest.raises(AudioError, match=rf"wanted \(n, {WINDOW_LENGTH}\)"):
            embedder.embed(np.zeros(shape, np.float32))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite_are_refused(small_bundle: Bundle, bad: float) -> None:
    windows = noise(2, WINDOW_LENGTH)
    windows[1, 77] = bad
    with pytest.raises(AudioError, match="not finite"):
        Embedder(small_bundle).embed(windows)


@pytest.mark.parametrize("shape", [[WINDOW_LENGTH], ["n", WINDOW_LENGTH], [1, 1, WINDOW_LENGTH], ["n", 1, "length"]])
def test_axes_of_length_one_around_the_samples_are_added(tmp_path: Path, shape: list[Any]) -> None:
    axes = {"axes": np.array([WINDOW_LENGTH // 100, 100], dtype=np.int64)}
    nodes = [
        helper.make_node("Reshape", ["waveform", "axes"], ["rows"]),
        helper.make_node("ReduceMean", ["rows"], ["embedding"], axes=[0], keepdims=1),
    ]
    onnx = onnx_model(nodes, {"waveform": shape}, {"embedding": [1, 100]}, axes)
    windows = noise(2, WINDOW_LENGTH)
    embeddings = Embedder(write_small_bundle(tmp_path / "b", onnx=onnx, dim=100)).embed(windows)
    np.testing.assert_allclose(embeddings, windows.reshape(2, -1, 100).mean(axis=1), atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"dim": 65}, "wanted 65 float32"),
        ({"window_length": 8_000, "hop_length": 2_000}, "failed on a window of 8000 samples"),
        ({"input_name": "sound"}, "the manifest names 'sound'"),
        ({"output_name": "scores"}, "the manifest names 'scores'"),
    ],
)
def test_a_manifest_that_does_not_fit_the_graph_is_refused(
    tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    bundle = write_small_bundle(tmp_path / "b", **changes)
    with pytest.raises(BundleError, match=sentence):
        Embedder(bundle)


def test_output_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Log", ["waveform"], ["log"]),
        helper.make_node("ReduceMean", ["log"], ["embedding"], axes=[1], keepdims=1),
    ]
    onnx = onnx_model(nodes, {"waveform": ["n", WINDOW_LENGTH]}, {"embedding": ["n", 1]}, {})
    bundle = write_small_bundle(tmp_path / "b", onnx=onnx, dim=1)
    with pytest.raises(BundleError, match="not finite"):
        Embedder(bundle)


def test_a_graph_with_state_is_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("Add", ["waveform", "state"], ["embedding"])]
    shape = ["n", 100]
    onnx = onnx_model(nodes, {"waveform": shape, "state": shape}, {"embedding": shape}, {})
    bundle = write_small_bundle(tmp_path / "b", onnx=onnx, dim=100, window_length=100, hop_length=50)
    with pytest.raises(BundleError, match="alone, without state"):
        Embedder(bundle)


def test_a_model_the_runtime_does_not_know_is_refused_in_one_sentence(tmp_path: Path) -> None:
    model = small_backbone().replace(b"ReduceMax", b"ReduceMox")
    with pytest.raises(BundleError, match="does not load in ONNX Runtime") as caught:
        Embedder(write_small_bundle(tmp_path / "b", onnx=model))
    assert "\n" not in str(caught.value)


def test_unknown_and_absent_providers_are_named(small_bundle: Bundle) -> None:
    with pytest.raises(ConfigurationError, match="wanted one of cpu"):
        Embedder(small_bundle, provider="abacus")
    absent = sorted(PROVIDERS.keys() - set(available_providers()))
    assert "cpu" not in absent
    with pytest.raises(ConfigurationError, match=f"provider '{absent[0]}' is not in the installed ONNX Runtime"):
        Embedder(small_bundle, provider=absent[0])
    with pytest.raises(ConfigurationError, match="threads is 0"):
        Embedder(small_bundle, threads=0)


def test_the_canary_measures_the_distance_from_export(tmp_path: Path, small_bundle: Bundle) -> None:
    assert check_canary(small_bundle, Embedder(small_bundle)) is None
    windows = noise(3, WINDOW_LENGTH)
    embeddings = Embedder(small_bundle).embed(windows)
    same = write_small_bundle(tmp_path / "same", canary=(windows, embeddings))
    report = check_canary(same, Embedder(same))
    assert report is not None
    assert (report.n, report.max_difference) == (3, 0.0)
    assert report.min_cosine == pytest.approx(1.0, abs=1e-12)
    other = write_small_bundle(tmp_path / "other", canary=(windows, embeddings[::-1] * 2))
    report = check_canary(other, Embedder(other))
    assert report is not None and report.min_cosine < 0.99999 and report.max_difference > 1.0


def test_the_probe_is_a_sound(small_bundle: Bundle) -> None:
    for length in (1, 100, SAMPLE_RATE):
        probe = probe_window(length)
        assert probe.shape == (1, length) and probe.dtype == np.float32 and np.abs(probe).max() <= 0.5
    assert runtime_version().count(".") >= 2
    assert dataclasses.asdict(Embedder(small_bundle).space)["dim"] == DIM
