"""Small files in the layouts that EAT, BEATs and AST are published in, with weights that are known."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from tests.golden.make_backbone_golden import BEATS_CFG, beats_weights, eat_weights


def tensors(weights: Mapping[str, NDArray[np.float32]]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array.copy()) for name, array in weights.items()}


def eat_fairseq(*, tuned: bool = False) -> dict[str, Any]:
    """The dict of a fairseq file: plain with decoder and EMA, or fine-tuned with every name behind ``model.``."""
    state: dict[str, Any] = tensors(eat_weights())
    state["modality_encoders.IMAGE.decoder.blocks.0.0.weight"] = torch.zeros(4, 4)
    if tuned:
        state = {f"model.{name}": tensor for name, tensor in state.items()}
        return {"model": state | {"model.fc_norm.weight": torch.ones(64), "model.head.weight": torch.zeros(5, 64)}}
    return {"model": state | {"_ema": {"blocks.0.norm1.weight": torch.zeros(64)}}, "cfg": None}


def eat_hub_names() -> dict[str, Tensor]:
    """The same weights under the names of the safetensors file."""
    renamed = {}
    for name, tensor in tensors(eat_weights()).items():
        short = name.removeprefix("modality_encoders.IMAGE.").replace("context_encoder.norm", "pre_norm")
        renamed[f"model.{short}"] = tensor
    return renamed


def write_eat_folder(folder: Path, config: Mapping[str, Any] | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(eat_hub_names(), folder / "model.safetensors")
    values = config if config is not None else {"model_type": "eat", "num_heads": 1, "norm_eps": 1e-6}
    (folder / "config.json").write_text(json.dumps(values), encoding="utf-8")
    return folder


def write_beats(path: Path, **changed: Any) -> Path:
    torch.save({"cfg": BEATS_CFG | changed, "model": tensors(beats_weights())}, path)
    return path


@contextmanager
def classes_of_elsewhere() -> Iterator[tuple[type, type]]:
    """Classes of fairseq and omegaconf as a file would name them; nobody can import them once this is left."""
    made: dict[str, type] = {}
    packages = ("omegaconf", "fairseq", "fairseq.dataclass")
    sys.modules.update({package: ModuleType(package) for package in packages})
    for module, name in (("omegaconf.dictconfig", "DictConfig"), ("fairseq.dataclass.configs", "Arguments")):
        made[module] = type(name, (), {"__module__": module, "__qualname__": name})
        sys.modules[module] = ModuleType(module)
        setattr(sys.modules[module], name, made[module])
    try:
        yield made["omegaconf.dictconfig"], made["fairseq.dataclass.configs"]
    finally:
        for module in (*made, *packages):
            del sys.modules[module]
