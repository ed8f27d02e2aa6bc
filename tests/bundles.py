"""A tiny ear for tests: an ONNX graph of a few kilobytes that hears the spectrum, and sounds that it can tell apart.

The graph is 24 band energies (cosines and sines as a convolution, squared, averaged, logarithm, mean removed),
so louder and softer copies of a sound give nearly the same embedding. No recordings and no training are needed.
"""

from __future__ import annotations

import wave
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.bundle import Bundle, write_bundle
from edge.manifest import DetectionDefaults
from edge.space import EmbeddingSpace, FeatureSpace, Grid, l2_normalize
from edge.statistics import SufficientStatistics

SAMPLE_RATE = 8000
WINDOW_LENGTH = 4000
HOP_LENGTH = 2000
DIM = 24
TAPS = 200
STRIDE = 40
DETECTION = DetectionDefaults(
    ridge=1.0, prior_weight=1.0, threshold=5.0, low_threshold=3.5, k=1, n=1, min_ms=0, hold_ms=250, refractory_ms=500
)
TONES = {"bell": 900.0, "hum": 150.0, "beep": 2400.0, "whistle": 1500.0}


def filter_bank(dim: int, *, seed: int = 0) -> NDArray[np.complex128]:
    """Tapered complex tones, (dim, TAPS), spaced evenly on a logarithmic scale from 120 Hz to 3.6 kHz."""
    t = np.arange(TAPS) / SAMPLE_RATE
    hz = np.geomspace(120.0, 3600.0, dim) * (1.0 + 0.01 * seed)
    return np.asarray(np.exp(2j * np.pi * hz[:, None] * t) * np.hanning(TAPS))


def tiny_onnx(*, dim: int = DIM, seed: int = 0) -> bytes:
    """Return the graph: waveform (1, 4000) float32 -> embedding (1, dim) float32. Another seed is another ear."""
    from onnx import TensorProto, checker, helper, numpy_helper

    bank = filter_bank(dim, seed=seed)
    bank = np.concatenate([bank.real, bank.imag])
    fold = np.zeros((2 * dim, dim), dtype=np.float32)
    fold[np.arange(dim), np.arange(dim)] = fold[dim + np.arange(dim), np.arange(dim)] = 1.0
    constants = {
        "bank": (bank[:, None, :] / TAPS).astype(np.float32),
        "fold": fold,
        "floor": np.float32([1e-7]),
        "time": np.int64([2]),
        "channel": np.int64([1]),
    }
    nodes = [
        helper.make_node("Unsqueeze", ["waveform", "channel"], ["x"]),
        helper.make_node("Conv", ["x", "bank"], ["filtered"], strides=[STRIDE]),
        helper.make_node("Mul", ["filtered", "filtered"], ["power"]),
        helper.make_node("ReduceMean", ["power"], ["averaged"], axes=[2], keepdims=0),
        helper.make_node("MatMul", ["averaged", "fold"], ["energy"]),
        helper.make_node("Add", ["energy", "floor"], ["floored"]),
        helper.make_node("Log", ["floored"], ["log"]),
        helper.make_node("ReduceMean", ["log"], ["mean"], axes=[1], keepdims=1),
        helper.make_node("Sub", ["log", "mean"], ["embedding"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny ear",
        [helper.make_tensor_value_info("waveform", TensorProto.FLOAT, [1, WINDOW_LENGTH])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [1, dim])],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model)
    return bytes(model.SerializeToString())


def write_tiny_bundle(out: Path, *, with_prior: bool = False, seed: int = 0) -> Bundle:
    """Write the tiny ear to ``out``. with_prior: ship the sums of some noises and speech-like buzzes as its prior."""
    arguments: dict[str, Any] = {
        "name": "tiny",
        "version": 1,
        "onnx": tiny_onnx(seed=seed),
        "input_name": "waveform",
        "output_name": "embedding",
        "sample_rate": SAMPLE_RATE,
        "window_length": WINDOW_LENGTH,
        "hop_length": HOP_LENGTH,
        "dim": DIM,
        "grid": Grid(),
        "licence": "Apache-2.0",
        "model_card": "# tiny\n\nA spectrum, for tests.\n",
        "detection": DETECTION,
    }
    bundle = write_bundle(out, **arguments)
    if not with_prior:
        return bundle
    prior = prior_of(bundle)
    again = out.with_name(out.name + "-prior")
    return write_bundle(again, **arguments, prior=prior)


def prior_of(bundle: Bundle, *, n: int = 200) -> SufficientStatistics:
    """Sum up noises of many colours as the class "everything"."""
    from edge.embedder import Embedder

    embeddings, _ = Embedder(bundle).quantized(_noises(n))
    return SufficientStatistics.from_samples(FeatureSpace(bundle.space), embeddings, ["everything"] * n)


SPACE = EmbeddingSpace("5" * 64, SAMPLE_RATE, WINDOW_LENGTH, HOP_LENGTH, DIM)


class SpectrumEmbedder:
    """The same ear in NumPy, for tests that need no file: a window's band energies, on the grid."""

    space = SPACE

    def quantized(self, windows: NDArray[np.float32]) -> tuple[NDArray[np.int16], int]:
        frames = np.lib.stride_tricks.sliding_window_view(windows, TAPS, axis=1)[:, ::STRIDE]
        energy = np.mean(np.abs(frames @ (filter_bank(DIM).T / TAPS)) ** 2, axis=1)
        log = np.log(energy + 1e-7)
        return self.space.grid.quantize(l2_normalize((log - log.mean(axis=1, keepdims=True)).astype(np.float32)))


def background_of(embedder: SpectrumEmbedder, *, n: int = 100) -> SufficientStatistics:
    """Sums of noises of many colours in the NumPy ear's space, as the class "everything"."""
    embeddings, _ = embedder.quantized(_noises(n))
    return SufficientStatistics.from_samples(FeatureSpace(SPACE), embeddings, ["everything"] * n)


def _noises(n: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(7)
    return np.stack([noise(0.5, rng, colour=float(rng.uniform(-1.0, 1.0))) for _ in range(n)])


def tone(hz: float, seconds: float, rng: np.random.Generator, *, level: float = 0.3) -> NDArray[np.float32]:
    """A tone with two overtones, a random phase and slight detuning, in faint noise. Returns (n,) float32."""
    t = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    hz = hz * rng.uniform(0.99, 1.01)
    phases = rng.uniform(0, 2 * np.pi, 3)
    sound = sum(np.sin(2 * np.pi * hz * (k + 1) * t + phases[k]) / (k + 1) for k in range(3))
    return np.asarray(level * 0.5 * sound + 0.002 * rng.standard_normal(len(t)), dtype=np.float32)


def noise(seconds: float, rng: np.random.Generator, *, colour: float = 0.0, level: float = 0.1) -> NDArray[np.float32]:
    """Noise whose amplitude falls (or rises) with frequency to the power ``colour``. Returns (n,) float32."""
    n = round(seconds * SAMPLE_RATE)
    spectrum = np.fft.rfft(rng.standard_normal(n)) * np.maximum(np.arange(n // 2 + 1), 1.0) ** -colour
    sound = np.fft.irfft(spectrum, n)
    return np.asarray(level * sound / np.sqrt(np.mean(sound**2)), dtype=np.float32)


def write_wav(path: Path, samples: NDArray[np.float32], sample_rate: int = SAMPLE_RATE) -> Path:
    """Write 16-bit mono."""
    pcm = np.clip(np.rint(samples.astype(np.float64) * 32768.0), -32768, 32767).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes(pcm.tobytes())
    return path
