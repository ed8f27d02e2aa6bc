"""A bundle again with another prior, other defaults or another model card: the ear and its space stay the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edge.bundle import Bundle, open_bundle, write_bundle
from edge.errors import BundleError
from edge.feature_input import FeatureInput, second_graph
from edge.linear_map import parent_map
from edge.manifest import DetectionDefaults
from edge.space import FeatureSpace
from edge.statistics import SufficientStatistics


def amend(
    bundle: Bundle,
    out_dir: Path,
    *,
    name: str | None = None,
    version: int | None = None,
    prior: SufficientStatistics | None = None,
    detection: Mapping[str, Any] | None = None,
    model_card: str | None = None,
    features: tuple[bytes, FeatureInput] | None = None,
) -> Bundle:
    """Write a copy of ``bundle``, the same ear, with another name, version, prior, model card, second graph or other
    detection defaults.

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
        parent=parent_map(bundle),
        features=second_graph(bundle) if features is None else features,
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
