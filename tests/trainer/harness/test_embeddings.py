"""A frozen backbone runs once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from edge.errors import BundleError
from tests.trainer.harness.synthetic_material import PlainBackbone, clips_of, material_of
from trainer.harness.embeddings import embeddings, weights_sha256


def test_the_second_call_never_runs_the_backbone(tmp_path: Path) -> None:
    material = material_of(clips_of(3))
    first, second = PlainBackbone(), PlainBackbone()
    a = embeddings(first, material, tmp_path)
    b = embeddings(second, material, tmp_path)
    assert first.n_encoded == len(material.clip)
    assert second.n_encoded == 0
    assert np.array_equal(a, b)
    assert np.array_equal(a, first.encode(material.features).detach().numpy())


def test_other_weights_or_other_material_are_another_file(tmp_path: Path) -> None:
    material, other = material_of(clips_of(3)), material_of(clips_of(3), seed=1)
    a = embeddings(PlainBackbone(0), material, tmp_path)
    b = embeddings(PlainBackbone(1), material, tmp_path)
    embeddings(PlainBackbone(0), other, tmp_path)
    assert not np.array_equal(a, b)
    assert len(list(tmp_path.glob("*.npy"))) == 3


def test_one_weight_changes_the_name() -> None:
    a, b = PlainBackbone(), PlainBackbone()
    assert weights_sha256(a) == weights_sha256(b)
    with torch.no_grad():
        next(b.parameters()).view(-1)[0] += 1e-6
    assert weights_sha256(a) != weights_sha256(b)


def test_a_damaged_file_is_computed_anew(tmp_path: Path) -> None:
    material = material_of(clips_of(2))
    expected = embeddings(PlainBackbone(), material, tmp_path)
    path = next(tmp_path.glob("*.npy"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    backbone = PlainBackbone()
    assert np.array_equal(embeddings(backbone, material, tmp_path), expected)
    assert backbone.n_encoded > 0


def test_a_broken_backbone_is_refused(tmp_path: Path) -> None:
    backbone = PlainBackbone()
    with torch.no_grad():
        next(backbone.parameters()).fill_(float("nan"))
    with pytest.raises(BundleError, match="not finite"):
        embeddings(backbone, material_of(clips_of(2)), tmp_path)
