"""Tensors out of a published file, without running or importing anything that the file names.

A file of fairseq names classes of fairseq and omegaconf. torch's own restricted reader takes only tensors and plain
containers; the other names that it would stumble over are listed first and stood in for by one class that does nothing.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from edge.errors import BundleError
from trainer.backbones.catalogue import MAX_BYTES

MAX_CONFIG_BYTES = 2**20
SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
NAMES_IN_FOLDER = ("model.safetensors", "pytorch_model.bin")


class Foreign:
    """Stands for any class or function that a file names: it takes whatever it is given and does nothing."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def _plain_dict(*args: object) -> dict[Any, Any]:
    """Stands for ``collections.defaultdict``, whose factory nobody needs to read one."""
    return {}


@dataclass(frozen=True, eq=False)
class PublishedWeights:
    """path: of the file of tensors. tensors: by their published names.

    config: ``cfg`` in the file, or config.json beside. preprocessing: preprocessor_config.json beside.
    passed_over: what else the file held, in words.
    """

    path: Path
    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any]
    preprocessing: Mapping[str, Any]
    passed_over: tuple[str, ...] = ()


def read_weights(path: Path) -> PublishedWeights:
    """Read a file of tensors, or a folder of transformers that holds one. Raises BundleError."""
    file = _file_of(path)
    size = file.stat().st_size
    if size > MAX_BYTES:
        raise BundleError(f"{file} has {size} bytes; wanted at most {MAX_BYTES}; it is no backbone that is known here")
    beside = _json_beside(file, "config.json"), _json_beside(file, "preprocessor_config.json")
    if file.suffix == ".safetensors":
        try:
            return PublishedWeights(file, load_file(file), *beside)
        except (SafetensorError, ValueError) as e:
            raise BundleError(f"{file} is no safetensors file ({_short(e)}); fetch it again") from e
    found = restricted_load(file)
    if not isinstance(found, dict):
        raise BundleError(f"{file} holds a {type(found).__name__}; wanted a dict of tensors or one with the key model")
    inner = found.get("model")
    whole = inner if isinstance(inner, dict) else found
    tensors = {str(k): v for k, v in whole.items() if isinstance(v, Tensor)}
    if not tensors:
        raise BundleError(f"{file} holds no tensors at its top or under the key model; wanted a published checkpoint")
    others = tuple(
        f"{k} ({type(v).__name__})" for k, v in whole.items() if not isinstance(v, Tensor) and whole is inner
    )
    cfg = found.get("cfg")
    return PublishedWeights(file, tensors, cfg if isinstance(cfg, dict) else beside[0], beside[1], others)


def restricted_load(file: Path) -> Any:
    """Read a file of ``torch.save``; names from elsewhere become ``Foreign``. Raises BundleError.

    Nothing that the file names is imported or called: torch's restricted reader interprets it, and refuses what is
    neither plain, nor a tensor, nor one of our two stand-ins.
    """
    if not zipfile.is_zipfile(file):
        raise BundleError(
            f"{file} is no file of torch.save that can be read safely (wanted the zip layout of torch 1.6 or later); "
            f"convert it to safetensors where it was made"
        )
    try:
        foreign = torch.serialization.get_unsafe_globals_in_checkpoint(str(file))
        standing_in: list[Any] = [
            (_plain_dict if name == "collections.defaultdict" else Foreign, name) for name in foreign
        ]
        with torch.serialization.safe_globals(standing_in):
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as e:  # the reader of torch raises what it likes on a damaged file
        raise BundleError(
            f"{file} cannot be read without running code that it brings ({_short(e)}); fetch it again, or take the "
            f"safetensors file of the same network"
        ) from e


def _file_of(path: Path) -> Path:
    if path.is_dir():
        for name in NAMES_IN_FOLDER:
            if (path / name).is_file():
                return path / name
        raise BundleError(f"{path} holds no {' or '.join(NAMES_IN_FOLDER)}; name the file of weights itself")
    if not path.is_file():
        raise BundleError(f"{path} does not exist; name a file of weights or a folder that holds one")
    if path.suffix not in SUFFIXES:
        raise BundleError(f"{path} ends in {path.suffix or 'nothing'}; wanted one of {', '.join(SUFFIXES)}")
    return path


def _json_beside(file: Path, name: str) -> dict[str, Any]:
    """The object in a small JSON file in the same folder; empty when there is none."""
    path = file.with_name(name)
    if not path.is_file():
        return {}
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ValueError("it is too long")
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("it is no object")
    except ValueError as e:
        raise BundleError(f"{path} cannot be read ({_short(e)}); fetch it again, or take it away to go without") from e
    return values


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
