"""The ears inside the package: whole, small, and on this machine what they were at export."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge.bundle import default_bundle_path, open_bundle, shipped_bundles_path
from edge.embedder import Embedder, check_canary
from edge.first_load import is_shipped, prove_in_child

MAX_BUNDLE_BYTES = 10_000_000
MAX_FIRST_LOAD_BYTES = 250_000_000
SHIPPED = sorted(p for p in shipped_bundles_path().glob("*") if p.is_dir())


def test_the_default_ear_is_there() -> None:
    bundle = open_bundle(default_bundle_path())
    assert is_shipped(bundle)
    assert bundle.prior() is not None and bundle.canary() is not None
    assert "licence" in bundle.read("MODEL_CARD.md").decode().lower()


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.name)
def test_each_shipped_ear(path: Path) -> None:
    bundle = open_bundle(path)
    assert sum(file.stat().st_size for file in path.iterdir()) <= MAX_BUNDLE_BYTES
    report = check_canary(bundle, Embedder(bundle))
    assert report is not None and report.n >= 4 and report.min_cosine >= 0.999
    waveforms, _ = bundle.canary() or pytest.fail("no canary")
    quantized, n_clipped = Embedder(bundle).quantized(waveforms)
    assert n_clipped == 0 and np.abs(quantized).max() > 0
    prior = bundle.prior()
    assert prior is not None and prior.n_samples > 1_000
    assert prove_in_child(bundle).peak_bytes < MAX_FIRST_LOAD_BYTES


def test_no_two_shipped_ears_share_a_space() -> None:
    spaces = [open_bundle(path).space.sha256 for path in SHIPPED]
    assert len(set(spaces)) == len(spaces)
