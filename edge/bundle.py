"""A backbone as a folder of files: verified whole before anything in it is used, written whole or not at all.

``edge.manifest`` says what a manifest may hold; this module is the only one that touches the files.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.errors import BundleError
from edge.feature_input import FEATURE_BACKBONE, FeatureInput, feature_input
from edge.linear_map import LINEAR_MAP, ParentMap, parent_map
from edge.manifest import MAX_FILE_BYTES, MAX_MANIFEST_BYTES, DetectionDefaults, FileEntry, Manifest, parse_manifest
from edge.npy import read_float32, write_float32
from edge.onnx_guard import check_onnx
from edge.space import EmbeddingSpace, FeatureSpace, Grid
from edge.statistics import SufficientStatistics

DEFAULT_BUNDLE = "ear"
MANIFEST = "manifest.json"
_BACKBONE = "backbone.onnx"
_FETCH_AGAIN = "the bundle is damaged or was altered, fetch it again"

Canary = tuple[NDArray[np.float32], NDArray[np.float32]]


@dataclass(frozen=True)
class Bundle:
    """A verified bundle. Its files are read again, and verified again, each time their bytes are asked for."""

    path: Path
    manifest: Manifest

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def version(self) -> int:
        return self.manifest.version

    @property
    def space(self) -> EmbeddingSpace:
        return self.manifest.space

    @property
    def detection(self) -> DetectionDefaults:
        return self.manifest.detection

    @property
    def sha256(self) -> str:
        """Identity of every byte of the bundle."""
        return self.manifest.sha256

    def read(self, name: str) -> bytes:
        """Return the verified bytes of one listed file. Raises BundleError when they changed since ``open_bundle``."""
        return _read_verified(self.path, name, self.manifest.files[name])

    def onnx_bytes(self) -> bytes:
        """Return the verified ONNX file."""
        return self.read(self.manifest.file("backbone") or _BACKBONE)

    def feature_onnx_bytes(self) -> bytes | None:
        """Return the verified graph that begins at the band powers, or None when none is shipped."""
        name = self.manifest.file("feature_backbone")
        return None if name is None else self.read(name)

    def prior(self) -> SufficientStatistics | None:
        """Return the sums of a broad pool of everyday sound in this backbone's space, or None when none is shipped."""
        name = self.manifest.file("prior")
        return None if name is None else SufficientStatistics.from_bytes(FeatureSpace(self.space), self.read(name))

    def canary(self) -> Canary | None:
        """Return waveforms (m, window_length) and their embeddings (m, dim) at export, float32, or None."""
        waveforms, embeddings = self.manifest.file("canary_waveforms"), self.manifest.file("canary_embeddings")
        if waveforms is None or embeddings is None:
            return None
        x = read_float32(waveforms, self.read(waveforms), self.manifest.window_length)
        y = read_float32(embeddings, self.read(embeddings), self.manifest.dim)
        if len(x) != len(y):
            raise BundleError(f"the canary has {len(x)} waveforms and {len(y)} embeddings; {_FETCH_AGAIN}")
        return x, y


def open_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Verify the folder ``path`` whole: every listed file present, of its size and hash, nothing else beside them.

    Raises BundleError in one sentence for a missing, altered, extra, oversized or linked file, a name that leaves the
    folder, a backbone that keeps weights elsewhere, and a prior, canary or map that does not fit the embedding.
    """
    folder = Path(path)
    manifest = parse_manifest(_read_regular(folder, MANIFEST, MAX_MANIFEST_BYTES))
    present = {entry.name for entry in os.scandir(folder)} - {MANIFEST}
    extra, missing = present - manifest.files.keys(), manifest.files.keys() - present
    if missing:
        raise BundleError(f"bundle {folder} lacks {', '.join(sorted(missing))}; {_FETCH_AGAIN}")
    if extra:
        odd = ", ".join(repr(name) for name in sorted(extra)[:5])
        raise BundleError(f"bundle {folder} holds {odd} which its manifest does not list; remove it")
    bundle = Bundle(folder, manifest)
    for name, entry in manifest.files.items():
        data = bundle.read(name)
        if entry.role in ("backbone", "feature_backbone"):
            check_onnx(data)
    bundle.canary()
    bundle.prior()
    parent_map(bundle)
    feature_input(bundle)
    return bundle


def write_bundle(
    out_dir: str | os.PathLike[str],
    *,
    name: str,
    version: int,
    onnx: bytes,
    input_name: str,
    output_name: str,
    sample_rate: int,
    window_length: int,
    hop_length: int,
    dim: int,
    grid: Grid,
    licence: str,
    model_card: str,
    prior: SufficientStatistics | None = None,
    canary: Canary | None = None,
    parent: ParentMap | None = None,
    features: tuple[bytes, FeatureInput] | None = None,
    detection: DetectionDefaults | None = None,
    documents: Mapping[str, bytes] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Bundle:
    """Write a bundle to ``out_dir``, which must not exist yet, and open it.

    The files are written to a folder beside it, manifest last, flushed, verified as any reader would, then renamed: at
    no moment does ``out_dir`` hold half a bundle. ``documents``: further files by name, such as licence texts.
    ``parent``: how what was learnt with the bundle before is taken over. ``features``: the same weights from the band
    powers on, as ONNX bytes, and what they take.
    """
    out = Path(out_dir)
    if out.exists():
        raise BundleError(f"{out} exists already; choose another folder, or remove it first")
    contents: dict[str, tuple[str, bytes]] = {
        _BACKBONE: ("backbone", onnx),
        "MODEL_CARD.md": ("model_card", model_card.encode("utf-8")),
    }
    if prior is not None:
        contents["prior.stats"] = ("prior", prior.to_bytes())
    if canary is not None:
        contents["canary_waveforms.npy"] = ("canary_waveforms", write_float32(canary[0]))
        contents["canary_embeddings.npy"] = ("canary_embeddings", write_float32(canary[1]))
    if parent is not None:
        contents[LINEAR_MAP] = ("linear_map", parent.map.to_bytes())
    if features is not None:
        contents[FEATURE_BACKBONE] = ("feature_backbone", features[0])
    for document, data in (documents or {}).items():
        contents[document] = ("document", data)
    manifest = Manifest(
        name=name,
        version=version,
        licence=licence,
        input_name=input_name,
        output_name=output_name,
        sample_rate=sample_rate,
        window_length=window_length,
        hop_length=hop_length,
        dim=dim,
        grid=grid,
        files={f: FileEntry(role, len(data), hashlib.sha256(data).hexdigest()) for f, (role, data) in contents.items()},
        detection=detection or DetectionDefaults(),
        extra={
            **(extra or {}),
            **({} if parent is None else {"parent": parent.described()}),
            **({} if features is None else {"features": features[1].described()}),
        },
    )
    partial = out.with_name(f".{out.name}.partial-{os.getpid()}")
    try:
        partial.mkdir(parents=True)
        for file, (_, data) in contents.items():
            _write_flushed(partial / file, data)
        _write_flushed(partial / MANIFEST, manifest.to_bytes())
        open_bundle(partial)
        _flush_folder(partial)
        partial.rename(out)
        _flush_folder(out.parent)
    except OSError as e:
        raise BundleError(
            f"bundle {out} cannot be written: {e.strerror or e}; free the disk or choose another folder"
        ) from e
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return open_bundle(out)


def default_bundle_path() -> Path:
    """Return the folder of the backbone that ships with soundkeep."""
    return shipped_bundles_path() / DEFAULT_BUNDLE


def shipped_bundles_path() -> Path:
    """Return the folder whose subfolders are the bundles inside this package."""
    return Path(__file__).resolve().parent / "bundles"


def _read_verified(folder: Path, name: str, entry: FileEntry) -> bytes:
    data = _read_regular(folder, name, entry.size)
    if len(data) != entry.size or hashlib.sha256(data).hexdigest() != entry.sha256:
        raise BundleError(f"{folder / name} does not match the SHA-256 in the manifest; {_FETCH_AGAIN}")
    return data


def _read_regular(folder: Path, name: str, max_bytes: int) -> bytes:
    """Read a plain file of at most ``max_bytes``; links, folders and devices are refused without being followed."""
    file = folder / name
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
    try:
        if file.is_symlink():
            raise BundleError(f"{file} is a symbolic link; a bundle holds plain files only, copy the file itself")
        descriptor = os.open(file, flags)
    except FileNotFoundError as e:
        raise BundleError(f"{folder} is no bundle: it has no {name}; give the folder that holds manifest.json") from e
    except OSError as e:
        raise BundleError(f"{file} cannot be read: {e.strerror or e}; check the path and its permissions") from e
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise BundleError(f"{file} is no plain file; a bundle holds plain files only")
    with os.fdopen(descriptor, "rb") as stream:
        if status.st_size > min(max_bytes, MAX_FILE_BYTES):
            raise BundleError(f"{file} has {status.st_size} bytes; wanted at most {max_bytes}; {_FETCH_AGAIN}")
        return stream.read(max_bytes + 1)


def _write_flushed(file: Path, data: bytes) -> None:
    with file.open("xb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
