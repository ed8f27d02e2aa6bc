"""Windows in, embeddings out: ONNX Runtime behind one small class. The only file of the device that imports it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.bundle import Bundle
from edge.errors import AudioError, BundleError, ConfigurationError
from edge.feature_input import FeatureInput, wanted_features
from edge.space import l2_normalize

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
}
MIN_COSINE_TO_CPU = 0.999


class Embedder:
    """Runs a bundle's backbone on windows, each alone and on one thread.

    An embedding is a function of its window alone, to the bit, on one machine (other hardware may differ in the last
    bits). ONNX Runtime by itself does not promise that: the number of windows in a batch, the number of threads inside
    an operator and even the address of the input choose other orders of summation. So every window is a batch of one,
    operators get one thread, more threads mean more windows at a time, and the input always starts at a multiple of
    64 bytes. The runtime never spins: at a few windows a second that costs a tenth of its default.
    """

    def __init__(
        self, bundle: Bundle, *, threads: int = 1, provider: str = "cpu", takes_features: bool = False
    ) -> None:
        """Load the backbone from its verified bytes and prove the provider by one inference.

        threads: windows embedded at a time. provider: a key of ``PROVIDERS``. takes_features: load the bundle's second
        graph too, and take band powers as well as waveforms. Raises BundleError when the model does not load, does not
        fit its manifest or runs elsewhere than asked, or when there is no second graph; ConfigurationError when the
        provider is unknown or not installed.
        """
        if threads < 1:
            raise ConfigurationError(f"threads is {threads}; wanted 1 or more")
        self.space = bundle.space
        self.provider = provider
        self.threads = threads
        self._output = bundle.manifest.output_name
        length = (self.space.window_length,)
        self._waveform = self._entrance(bundle, bundle.onnx_bytes(), bundle.manifest.input_name, length)
        self._features: _Entrance | None = None
        self.features: FeatureInput | None = None
        """What the second graph takes, where it was asked for."""
        if takes_features:
            self.features = found = wanted_features(bundle)
            shape = (found.n_bands, found.n_frames)
            onnx_bytes = bundle.feature_onnx_bytes() or b""
            self._features = self._entrance(bundle, onnx_bytes, found.input_name, shape)
            self.embed(np.zeros((1, *shape), dtype=np.float32))
        probe = probe_window(self.space.window_length)
        embedding = self.embed(probe)
        if provider != "cpu":
            _compare_with_cpu(embedding, Embedder(bundle).embed(probe), provider)

    def embed(self, windows: NDArray[np.float32]) -> NDArray[np.float32]:
        """windows: (n, window_length) float32, -1..1, or band powers (n, n_bands, n_frames) where features are taken.

        Returns (n, dim) float32. Windows may overlap in memory. Raises AudioError for another length or values that are
        not finite, BundleError when the backbone answers with another size or with values that are not finite.
        """
        x = np.asarray(windows, dtype=np.float32)
        entrance = self._waveform if x.ndim == 2 or self._features is None else self._features
        if x.shape[1:] != entrance.window:
            raise AudioError(f"windows have shape {x.shape}; wanted (n, {', '.join(map(str, entrance.window))})")
        embeddings = np.empty((len(x), self.space.dim), dtype=np.float32)

        def fill(i: int) -> None:
            embeddings[i] = self._run(entrance, x[i])

        if self.threads == 1 or len(x) < 2:
            for i in range(len(x)):
                fill(i)
        else:
            with ThreadPoolExecutor(self.threads) as pool:
                list(pool.map(fill, range(len(x))))
        return embeddings

    def quantized(self, windows: NDArray[np.float32]) -> tuple[NDArray[np.int16], int]:
        """Embed, scale each embedding to unit length and round it to the grid.

        windows: as ``embed`` takes them. Returns (n, dim) int16 and the number of clipped entries.
        """
        return self.space.grid.quantize(l2_normalize(self.embed(windows)))

    def _run(self, entrance: _Entrance, window: NDArray[np.float32]) -> NDArray[np.float32]:
        if not np.isfinite(window).all():
            raise AudioError("a window holds samples that are not finite; repair the recording or leave it out")
        try:
            (result,) = entrance.session.run([self._output], {entrance.name: aligned(window).reshape(entrance.shape)})
        except Exception as e:  # ONNX Runtime raises classes of its own that share no public base
            of = f"{window.size} samples" if window.ndim == 1 else f"{window.size} band powers"
            raise BundleError(f"the backbone failed on a window of {of}: {_first_line(e)}") from e
        if not isinstance(result, np.ndarray) or result.size != self.space.dim or result.dtype != np.float32:
            got = f"{result.dtype} of shape {result.shape}" if isinstance(result, np.ndarray) else type(result).__name__
            raise BundleError(
                f"output {self._output!r} is {got} for one window; wanted {self.space.dim} float32 numbers"
            )
        if not np.isfinite(result).all():
            raise BundleError(f"output {self._output!r} holds numbers that are not finite; the backbone is unusable")
        return result.reshape(-1)

    def _entrance(self, bundle: Bundle, onnx_bytes: bytes, name: str, window: tuple[int, ...]) -> _Entrance:
        """Load one graph, whose input ``name`` takes a window of shape ``window``, with axes of length 1 before it."""
        session = _session(bundle, onnx_bytes, self.provider)
        inputs = {i.name: i for i in session.get_inputs()}
        outputs = [o.name for o in session.get_outputs()]
        if name not in inputs:
            raise BundleError(f"the backbone has inputs {sorted(inputs)}; the manifest names {name!r}")
        if len(inputs) > 1:
            raise BundleError(f"the backbone has inputs {sorted(inputs)}; wanted {name!r} alone, without state")
        if self._output not in outputs:
            raise BundleError(f"the backbone has outputs {outputs}; the manifest names {self._output!r}")
        wanted = inputs[name]
        if wanted.type != "tensor(float)" or not 1 <= len(wanted.shape) <= 4:
            raise BundleError(f"input {name!r} is {wanted.type} of shape {wanted.shape}; wanted float numbers")
        return _Entrance(session, name, window, (1,) * (len(wanted.shape) - len(window)) + window)


@dataclass(frozen=True)
class _Entrance:
    """One graph. window: shape of a window as it is given; shape: as the graph takes it."""

    session: Any
    name: str
    window: tuple[int, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class CanaryReport:
    """How far this machine's embeddings are from those at export."""

    n: int
    min_cosine: float
    max_difference: float


def check_canary(bundle: Bundle, embedder: Embedder) -> CanaryReport | None:
    """Embed the bundle's canary waveforms and compare with the embeddings it ships; None when it ships none."""
    canary = bundle.canary()
    if canary is None:
        return None
    waveforms, wanted = canary
    got = embedder.embed(waveforms)
    cosine = np.einsum("ij,ij->i", l2_normalize(got), l2_normalize(wanted))
    difference = np.abs(got.astype(np.float64) - wanted)
    return CanaryReport(len(got), float(cosine.min(initial=1.0)), float(difference.max(initial=0.0)))


def aligned(window: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a flat copy of ``window`` that starts at a multiple of 64 bytes."""
    buffer = np.empty(window.size + 15, dtype=np.float32)
    begin = (-buffer.ctypes.data % 64) // 4
    copy = buffer[begin : begin + window.size]
    copy[:] = window.reshape(-1)
    return copy


def probe_window(window_length: int) -> NDArray[np.float32]:
    """Return one fixed window (1, window_length) of sound to prove a backbone with: a decaying chirp, at most 0.5."""
    t = np.linspace(0.0, 1.0, window_length, endpoint=False)
    chirp = 0.5 * np.exp(-2.0 * t) * np.sin(2.0 * np.pi * (200.0 * t + 900.0 * t * t))
    return np.asarray(chirp, dtype=np.float32)[None, :]


def runtime_version() -> str:
    """Return the version of the installed ONNX Runtime."""
    import onnxruntime

    return str(onnxruntime.__version__)


def available_providers() -> list[str]:
    """Return the keys of ``PROVIDERS`` that the installed ONNX Runtime was compiled with."""
    import onnxruntime

    compiled = set(onnxruntime.get_available_providers())
    return [name for name, wanted in PROVIDERS.items() if wanted in compiled]


def _session(bundle: Bundle, onnx_bytes: bytes, provider: str) -> Any:
    import onnxruntime

    if provider not in PROVIDERS:
        raise ConfigurationError(f"provider is {provider!r}; wanted one of {', '.join(PROVIDERS)}")
    if provider not in available_providers():
        raise ConfigurationError(
            f"provider {provider!r} is not in the installed ONNX Runtime {onnxruntime.__version__}, "
            f"which has {', '.join(available_providers())}; choose one of these or install another onnxruntime"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(onnx_bytes, options, providers=[PROVIDERS[provider]])
    except Exception as e:  # as in Embedder._run
        raise BundleError(
            f"backbone {bundle.name!r} does not load in ONNX Runtime {onnxruntime.__version__}: {_first_line(e)}; "
            "export it for an older opset (17, IR 9) or update onnxruntime"
        ) from e
    if session.get_providers()[0] != PROVIDERS[provider]:
        raise BundleError(
            f"backbone {bundle.name!r} was asked to run on {provider!r} but ONNX Runtime fell back to "
            f"{session.get_providers()[0]}; install that provider's libraries or use --provider cpu"
        )
    return session


def _compare_with_cpu(got: NDArray[np.float32], wanted: NDArray[np.float32], provider: str) -> None:
    cosine = float(np.einsum("ij,ij->i", l2_normalize(got), l2_normalize(wanted)).min())
    if cosine < MIN_COSINE_TO_CPU:
        raise BundleError(
            f"provider {provider!r} gives embeddings of cosine {cosine:.4f} to the CPU's; wanted {MIN_COSINE_TO_CPU}; "
            "use --provider cpu"
        )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
