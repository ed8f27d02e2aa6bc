"""From checkpoint to bundle whole: merge, trace, prove, make smaller, measure, gather the prior, write."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from edge.bundle import Bundle, write_bundle
from edge.embedder import Embedder
from edge.errors import BundleError
from edge.manifest import DetectionDefaults
from edge.space import Grid
from export.graph import INPUT, OUTPUT, to_onnx
from export.half import HalfSettings, to_float16
from export.material import edge_case_windows, recorded_windows, synthesised_windows
from export.measure import Measure, Measured, Watch, measure, unwatched
from export.model_card import model_card
from export.parity import ParityReport, check_parity
from export.prior import PriorReport, count_recordings, prior_statistics
from export.quantize import QuantizeSettings, quantize_int8
from trainer.backbones.backbone import Backbone
from trainer.backbones.checkpoint import load_checkpoint

Precision = Literal["float32", "float16", "int8"]
MIN_WINDOWS = 8
PARITY_S, CALIBRATION_S, AGREEMENT_S = 64, 256, 256
N_CANARY = 4


@dataclass(frozen=True)
class PackSettings:
    """What goes into a bundle beside the weights. data, backgrounds: recordings by set name.

    hop_length: samples; None is a quarter of the window. measure: what the precision's cost is measured by; accuracy
    needs sets of ``data`` or ``checks`` with groups. With recordings the parity, calibration and canary windows are
    real ones; without, they are synthesised. ``data`` and ``backgrounds`` make the prior (unless ``with_prior`` is
    off), ``checks`` never enter it: those are the sounds that will be taught. detection: what it leaves open is taken
    from the checkpoint, which may know the defaults of the bundle that it came from.
    """

    name: str = "ear"
    version: int = 1
    licence: str = "Apache-2.0"
    hop_length: int | None = None
    precision: Precision = "float32"
    half: HalfSettings = field(default_factory=HalfSettings)
    quantize: QuantizeSettings = field(default_factory=QuantizeSettings)
    measure: Measure = "accuracy"
    data: Mapping[str, Path] = field(default_factory=dict)
    backgrounds: Mapping[str, Path] = field(default_factory=dict)
    checks: Mapping[str, Path] = field(default_factory=dict)
    with_prior: bool = True
    model_card: str = ""
    detection: DetectionDefaults = field(default_factory=DetectionDefaults)
    seed: int = 0


@dataclass(frozen=True)
class PackReport:
    """What was measured on the way. onnx_bytes: sizes by precision, float32 first. how: what was made smaller."""

    precision: Precision
    parity: ParityReport
    measured: Measured
    prior: PriorReport | None
    n_weights: int
    onnx_bytes: Mapping[str, int]
    material: str
    how: Mapping[str, Any]

    def figures(self) -> dict[str, Any]:
        """As JSON values, without what was not measured."""
        measured = {key: value for key, value in asdict(self.measured).items() if value}
        figures = {
            "precision": self.precision,
            "n_weights": self.n_weights,
            "onnx_bytes": dict(self.onnx_bytes),
            "checked_on": self.material,
            "parity": asdict(self.parity),
            **measured,
        }
        if self.how:
            figures["how"] = dict(self.how)
        if self.prior is not None:
            figures["prior"] = {
                "n_files": self.prior.n_files,
                "n_windows": self.prior.n_windows,
                "n_classes": len(self.prior.statistics.labels),
                "seconds": round(self.prior.seconds),
            }
        return figures


def pack(
    checkpoint: Path, out_dir: Path, settings: PackSettings, *, watch: Watch = unwatched
) -> tuple[Bundle, PackReport]:
    """Export the checkpoint folder, adapters merged in a copy, to a bundle in ``out_dir``, which must not exist yet.

    Raises BundleError when a weight is not finite, the graph does not answer as the network does, or a number leaves
    the range of the precision.
    """
    if out_dir.exists():
        raise BundleError(f"{out_dir} exists already; choose another folder, or remove it first")
    model, meta = load_checkpoint(checkpoint)
    hop_length = settings.hop_length or max(1, model.window_length // 4)
    windows = _material(settings, model, hop_length)
    n_calibration = len(windows) * CALIBRATION_S // (CALIBRATION_S + AGREEMENT_S)
    graph = to_onnx(model, model.window_length)
    parity = check_parity(model, graph, windows[: n_windows(PARITY_S, model)])

    def write(folder: Path, backbone: bytes, **more: Any) -> Bundle:
        return write_bundle(
            folder,
            name=settings.name,
            version=settings.version,
            onnx=backbone,
            input_name=INPUT,
            output_name=OUTPUT,
            sample_rate=model.sample_rate,
            window_length=model.window_length,
            hop_length=hop_length,
            dim=model.dim,
            grid=Grid(),
            licence=settings.licence,
            **{"model_card": "draft\n", **more},
        )

    with tempfile.TemporaryDirectory() as scratch:
        embedder = Embedder(write(Path(scratch) / "float32", graph))
        how: dict[str, Any] = {}
        embedders, sizes = {"float32": embedder}, {"float32": len(graph)}
        if settings.precision != "float32":
            graph, how = _made_smaller(graph, windows[:n_calibration], settings)
            embedder = Embedder(write(Path(scratch) / settings.precision, graph))
            check_edges(embedder, settings.precision)
            embedders[settings.precision], sizes[settings.precision] = embedder, len(graph)
        sets = {**settings.data, **settings.checks}
        measured = measure(embedders, windows[n_calibration:], sets, settings.measure, watch=watch)
        with_prior = settings.with_prior and bool(settings.data or settings.backgrounds)
        prior = _prior(embedder, settings, watch) if with_prior else None
        canary = windows[:: max(1, len(windows) // N_CANARY)][:N_CANARY]
        embeddings = embedder.embed(canary)
    material = "recordings" if sets or settings.backgrounds else "synthesised sounds"
    report = PackReport(settings.precision, parity, measured, prior, model.n_weights(), sizes, material, how)
    figures = report.figures()
    head = settings.model_card.strip() or (
        f"# {settings.name}, version {settings.version}\n\nLicence: {settings.licence}."
    )
    bundle = write(
        out_dir,
        graph,
        model_card=model_card(head, figures, meta, hop_ms=1e3 * hop_length / model.sample_rate),
        prior=None if prior is None else prior.statistics,
        canary=(canary, embeddings),
        detection=_detection(settings.detection, meta),
        extra={"export": figures},
    )
    return bundle, report


def n_windows(seconds: float, model: Backbone) -> int:
    """How many windows ``seconds`` of sound are, ``MIN_WINDOWS`` at least: a long window costs as much more time."""
    return max(MIN_WINDOWS, round(seconds * model.sample_rate / model.window_length))


def _made_smaller(graph: bytes, windows: NDArray[np.float32], settings: PackSettings) -> tuple[bytes, dict[str, Any]]:
    if settings.precision == "float16":
        return to_float16(graph, windows, settings.half), {"operators": list(settings.half.operators)}
    chosen = settings.quantize.for_graph(onnx.load_from_string(graph))
    how = {"operators": list(chosen.operators), "activations": chosen.activations}
    return quantize_int8(graph, windows, chosen), how


def check_edges(embedder: Embedder, precision: str) -> None:
    """Raise BundleError when silence, an impulse or a full-scale sound leaves the range of the precision."""
    try:
        embedder.embed(edge_case_windows(embedder.space.window_length))
    except BundleError as e:
        raise BundleError(f"in {precision} silence or a full-scale sound breaks the network: {e}; use float32") from e


def _detection(given: DetectionDefaults, meta: Mapping[str, Any]) -> DetectionDefaults:
    """What was given, then what the checkpoint knows of the bundle it was made from."""
    known = meta.get("detection", {})
    return DetectionDefaults(**{k: known.get(k) if v is None else v for k, v in asdict(given).items()})


def _prior(embedder: Embedder, settings: PackSettings, watch: Watch) -> PriorReport:
    with watch("prior", count_recordings(settings.data, settings.backgrounds)) as step:
        return prior_statistics(embedder, settings.data, settings.backgrounds, progress=lambda path: step())


def _material(settings: PackSettings, model: Backbone, hop_length: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(settings.seed)
    n = n_windows(CALIBRATION_S, model) + n_windows(AGREEMENT_S, model)
    folders = [*settings.data.values(), *settings.checks.values(), *settings.backgrounds.values()]
    lengths = {
        "sample_rate": model.sample_rate,
        "window_length": model.window_length,
        "hop_length": hop_length,
    }
    windows = recorded_windows(folders, n, rng, **lengths) if folders else synthesised_windows(n, rng, **lengths)
    return windows[rng.permutation(len(windows))]
