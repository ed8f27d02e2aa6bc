"""From checkpoint to bundle whole: trace, prove, quantise, measure, gather the prior, write. Or amend a bundle."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.bundle import Bundle, open_bundle, write_bundle
from edge.embedder import Embedder
from edge.errors import BundleError
from edge.manifest import DetectionDefaults
from edge.space import FeatureSpace, Grid
from edge.statistics import SufficientStatistics
from export.graph import INPUT, OUTPUT, to_onnx
from export.material import recorded_windows, synthesised_windows
from export.parity import AgreementReport, ParityReport, agreement, check_parity
from export.prior import PriorReport, prior_statistics
from export.quantize import QuantizeSettings, quantize_int8
from trainer.backbones.checkpoint import load_checkpoint

N_PARITY = 64
N_CALIBRATION = 256
N_AGREEMENT = 256
N_CANARY = 4


@dataclass(frozen=True)
class PackSettings:
    """What goes into a bundle beside the weights. hop_length: samples. data, backgrounds: recordings by set name.

    With ``data`` or ``backgrounds`` the parity, calibration and canary windows are real recordings and a prior is made
    of them (unless ``with_prior`` is off); without, windows are synthesised and there is no prior.
    """

    name: str = "ear"
    version: int = 1
    licence: str = "Apache-2.0"
    hop_length: int = 4000
    int8: bool = False
    quantize: QuantizeSettings = field(default_factory=QuantizeSettings)
    data: Mapping[str, Path] = field(default_factory=dict)
    backgrounds: Mapping[str, Path] = field(default_factory=dict)
    with_prior: bool = True
    model_card: str = ""
    detection: DetectionDefaults = field(default_factory=DetectionDefaults)
    seed: int = 0


@dataclass(frozen=True)
class PackReport:
    """What was measured on the way."""

    parity: ParityReport
    int8: AgreementReport | None
    prior: PriorReport | None
    n_weights: int
    onnx_bytes: int
    material: str


def pack(
    checkpoint: Path, out_dir: Path, settings: PackSettings, *, progress: Callable[[Path], None] = lambda path: None
) -> tuple[Bundle, PackReport]:
    """Export the checkpoint folder to a bundle in ``out_dir``, which must not exist yet.

    Raises BundleError when the graph does not answer as the network does, or anything does not fit.
    """
    if out_dir.exists():
        raise BundleError(f"{out_dir} exists already; choose another folder, or remove it first")
    model, meta = load_checkpoint(checkpoint)
    shape = (model.sample_rate, model.window_length, settings.hop_length)
    windows = _material(settings, shape)
    onnx = to_onnx(model, model.window_length)
    parity = check_parity(model, onnx, windows[:N_PARITY])

    def write(folder: Path, graph: bytes, **more: Any) -> Bundle:
        return write_bundle(
            folder,
            name=settings.name,
            version=settings.version,
            onnx=graph,
            input_name=INPUT,
            output_name=OUTPUT,
            sample_rate=model.sample_rate,
            window_length=model.window_length,
            hop_length=settings.hop_length,
            dim=model.dim,
            grid=Grid(),
            licence=settings.licence,
            **{"model_card": "draft\n", **more},
        )

    with tempfile.TemporaryDirectory() as scratch:
        embedder, nearness = Embedder(write(Path(scratch) / "float32", onnx)), None
        if settings.int8:
            wanted = embedder.embed(windows[-N_AGREEMENT:])
            onnx = quantize_int8(onnx, windows[:N_CALIBRATION], settings.quantize)
            embedder = Embedder(write(Path(scratch) / "int8", onnx))
            nearness = agreement(wanted, embedder.embed(windows[-N_AGREEMENT:]))
        sets_given = bool(settings.data or settings.backgrounds)
        prior = None
        if settings.with_prior and sets_given:
            prior = prior_statistics(embedder, settings.data, settings.backgrounds, progress=progress)
        canary = windows[:: max(1, len(windows) // N_CANARY)][:N_CANARY]
        embeddings = embedder.embed(canary)
    material = "recordings" if sets_given else "synthesised sounds"
    report = PackReport(parity, nearness, prior, model.n_weights(), len(onnx), material)
    figures = _figures(report)
    bundle = write(
        out_dir,
        onnx,
        model_card=_model_card(settings, meta, figures),
        prior=None if prior is None else prior.statistics,
        canary=(canary, embeddings),
        detection=settings.detection,
        extra={"export": figures},
    )
    return bundle, report


def amend(
    bundle: Bundle,
    out_dir: Path,
    *,
    name: str | None = None,
    version: int | None = None,
    prior: SufficientStatistics | None = None,
    detection: Mapping[str, Any] | None = None,
    model_card: str | None = None,
) -> Bundle:
    """Write a copy of ``bundle`` with another name, version, prior, detection defaults or model card; same ear.

    ``detection``: settings to replace, others stay; None removes one. A prior must be of the bundle's own space.
    """
    manifest = bundle.manifest
    settings = {**asdict(manifest.detection), **(detection or {})}
    unknown = settings.keys() - asdict(DetectionDefaults()).keys()
    if unknown:
        raise BundleError(
            f"detection has no setting {sorted(unknown)[0]!r}; wanted {', '.join(asdict(DetectionDefaults()))}"
        )
    card = manifest.file("model_card")
    old_card = bundle.read(card).decode("utf-8") if card else ""
    return write_bundle(
        out_dir,
        name=name or manifest.name,
        version=version or manifest.version,
        onnx=bundle.onnx_bytes(),
        input_name=manifest.input_name,
        output_name=manifest.output_name,
        sample_rate=manifest.sample_rate,
        window_length=manifest.window_length,
        hop_length=manifest.hop_length,
        dim=manifest.dim,
        grid=manifest.grid,
        licence=manifest.licence,
        model_card=old_card if model_card is None else model_card,
        prior=prior if prior is not None else bundle.prior(),
        canary=bundle.canary(),
        detection=DetectionDefaults(**settings),
        documents={n: bundle.read(n) for n, e in manifest.files.items() if e.role == "document"},
        extra=manifest.extra,
    )


def read_prior(path: Path, bundle_path: Path) -> SufficientStatistics:
    """Read prior statistics that ``soundkeep-export prior`` wrote for the space of the bundle at ``bundle_path``."""
    try:
        data = path.read_bytes()
    except OSError as e:
        raise BundleError(f"prior {path} cannot be read: {e.strerror or e}; check the path") from e
    return SufficientStatistics.from_bytes(FeatureSpace(open_bundle(bundle_path).space), data)


def _material(settings: PackSettings, shape: Sequence[int]) -> NDArray[np.float32]:
    rng = np.random.default_rng(settings.seed)
    sample_rate, window_length, hop_length = shape
    n = N_CALIBRATION + N_AGREEMENT
    folders = [*settings.data.values(), *settings.backgrounds.values()]
    if folders:
        windows = recorded_windows(
            folders, n, rng, sample_rate=sample_rate, window_length=window_length, hop_length=hop_length
        )
    else:
        windows = synthesised_windows(
            n, rng, sample_rate=sample_rate, window_length=window_length, hop_length=hop_length
        )
    return windows[rng.permutation(len(windows))]


def _figures(report: PackReport) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "n_weights": report.n_weights,
        "onnx_bytes": report.onnx_bytes,
        "checked_on": report.material,
        "parity": asdict(report.parity),
    }
    if report.int8 is not None:
        figures["int8_to_float32"] = asdict(report.int8)
    if report.prior is not None:
        figures["prior"] = {
            "n_files": report.prior.n_files,
            "n_windows": report.prior.n_windows,
            "n_classes": len(report.prior.statistics.labels),
            "seconds": round(report.prior.seconds),
        }
    return figures


def _model_card(settings: PackSettings, meta: Mapping[str, Any], figures: Mapping[str, Any]) -> str:
    head = (
        settings.model_card.strip() or f"# {settings.name}, version {settings.version}\n\nLicence: {settings.licence}."
    )
    sections = [head, "## Export", "Measured when this bundle was made:", _fenced(figures)]
    training = {k: v for k, v in meta.items() if k not in {"schema", "kind"}}
    return "\n\n".join([*sections, "## Training", "From the checkpoint:", _fenced(training)]) + "\n"


def _fenced(values: Mapping[str, Any]) -> str:
    return "```json\n" + json.dumps(values, indent=1, sort_keys=True) + "\n```"
