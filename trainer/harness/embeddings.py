"""Embeddings of a frozen backbone: computed once for any number of methods, orders and commands."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from edge.errors import BundleError
from trainer.backbones.backbone import Backbone
from trainer.harness.material import Material

BATCH_WINDOWS = 64


def weights_sha256(backbone: Backbone) -> str:
    """Name of a network in hex: every weight and buffer, and its description."""
    digest = hashlib.sha256(json.dumps([backbone.kind, backbone.description()], sort_keys=True).encode())
    for name, tensor in sorted(backbone.state_dict().items()):
        digest.update(f"\n{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def embeddings(
    backbone: Backbone, material: Material, cache: Path | None, *, progress: bool = False
) -> NDArray[np.float32]:
    """The embedding of every window, (n, dim) float32, from the cache when it was computed before.

    A cached file is named after weights and material and carries its SHA-256; a damaged one is computed anew. Raises
    BundleError when an embedding is not finite.
    """
    if cache is None:
        return _embed(backbone, material, progress=progress)
    content = material.key or hashlib.sha256(material.features.numpy().tobytes()).hexdigest()
    key = hashlib.sha256(f"{weights_sha256(backbone)} {content}".encode()).hexdigest()
    path = cache / f"embeddings-{key[:32]}.npy"
    found = _read(path, (len(material.clip), backbone.dim))
    if found is None:
        found = _embed(backbone, material, progress=progress)
        _write(path, found)
    return found


def _embed(backbone: Backbone, material: Material, *, progress: bool) -> NDArray[np.float32]:
    device = next(backbone.parameters()).device
    found = np.zeros((len(material.clip), backbone.dim), dtype=np.float32)
    starts = range(0, len(found), BATCH_WINDOWS)
    with torch.no_grad():
        for start in tqdm(starts, desc="embed", unit="batch", disable=not progress):
            rows = slice(start, start + BATCH_WINDOWS)
            found[rows] = backbone.encode(material.features[rows].to(device)).cpu().numpy()
    if not np.isfinite(found).all():
        raise BundleError(
            f"{np.count_nonzero(~np.isfinite(found).all(axis=1))} of {len(found)} windows have an embedding that is "
            f"not finite; the backbone is damaged: fetch or train it again"
        )
    return found


def _write(path: Path, values: NDArray[np.float32]) -> None:
    buffer = io.BytesIO()
    np.save(buffer, values)
    path.parent.mkdir(parents=True, exist_ok=True)
    for target, data in (
        (path, buffer.getvalue()),
        (path.with_suffix(".sha256"), hashlib.sha256(buffer.getvalue()).hexdigest().encode()),
    ):
        temporary = target.with_name(target.name + ".tmp")
        temporary.write_bytes(data)
        temporary.replace(target)


def _read(path: Path, shape: tuple[int, int]) -> NDArray[np.float32] | None:
    try:
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != path.with_suffix(".sha256").read_text(encoding="utf-8").strip():
            return None
        values = np.load(io.BytesIO(data))
    except (OSError, ValueError):
        return None
    return np.asarray(values, dtype=np.float32) if values.shape == shape else None
