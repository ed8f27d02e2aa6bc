"""The backbones that a benchmark of the device compares: the one given, and third-party models beside it."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge.backbone_import import import_backbone
from edge.bundle import default_bundle_path

YAMNET = "yamnet_waveform_to_embedding.onnx"
YAMNET_SPEC = Path(__file__).resolve().parent.parent / "docs" / "examples" / "yamnet.toml"


def add_arguments(arguments: argparse.ArgumentParser) -> None:
    """``--bundle DIR`` and ``--models DIR``."""
    arguments.add_argument("--bundle", type=Path, help="backbone to measure; by default the one that is shipped")
    arguments.add_argument("--models", type=Path, help=f"folder with {YAMNET} and others, measured in the same run")


@contextmanager
def bundles(bundle: Path | None, models: Path | None) -> Iterator[dict[str, Path]]:
    """Yield the bundles to measure by name; third-party models are imported into a temporary folder."""
    found = {}
    if bundle is not None or default_bundle_path().is_dir():
        path = bundle or default_bundle_path()
        found[path.name] = path
    with tempfile.TemporaryDirectory(prefix="soundkeep-") as folder:
        if models is not None and (models / YAMNET).is_file():
            import_backbone(models / YAMNET, YAMNET_SPEC, Path(folder, "yamnet"))
            found["yamnet"] = Path(folder, "yamnet")
        if not found:
            raise SystemExit("no backbone to measure: none is shipped; give --bundle DIR or --models DIR")
        yield found
