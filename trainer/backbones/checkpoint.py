"""A backbone on disk: its base weights, the LoRA adapters of its sessions beside them, and a description.

``model.safetensors`` holds the base, ``adapters.safetensors`` the matrices A and B of each adapter (when there are
any), ``checkpoint.json`` what they are. Adapters stay apart until somebody asks for ``Checkpoint.merged``.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from edge.errors import BundleError
from trainer.backbones.backbone import Backbone
from trainer.backbones.kinds import backbone_of_kind

SCHEMA = 2
READABLE_SCHEMAS = (1, 2)


@dataclass(frozen=True, eq=False)
class Adapter:
    """The LoRA of one session. down, up: by full module name, A (r, ...) and B (out, r, ...); scaling: alpha / r.

    The weight that it adds to a module is scaling * B A (Hu et al. 2021); for a convolution A has the kernel's shape
    and B is 1 x 1.
    """

    name: str
    scaling: float
    down: Mapping[str, Tensor]
    up: Mapping[str, Tensor]

    def deltas(self) -> dict[str, Tensor]:
        """What is added to each module's weight, by full module name, in the shape of that weight."""
        found = {}
        for name, a in self.down.items():
            b = self.up[name]
            flat = self.scaling * (b.flatten(1) @ a.flatten(1))
            found[name] = flat.reshape(b.shape[0], *a.shape[1:])
        return found


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What ``open_checkpoint`` read. base: in evaluation mode, on the CPU, without any adapter."""

    base: Backbone
    adapters: tuple[Adapter, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)

    def merged(self) -> Backbone:
        """Return a copy with every adapter added to the weights. Raises BundleError when a weight is not finite."""
        model = copy.deepcopy(self.base)
        for adapter in self.adapters:
            add_deltas(model, adapter.deltas())
        for name, parameter in model.named_parameters():
            if not bool(torch.isfinite(parameter).all()):
                raise BundleError(
                    f"weight {name} is not finite once {len(self.adapters)} adapters are merged; adapt again with a "
                    f"lower learning rate"
                )
        return model


def add_deltas(model: Backbone, deltas: Mapping[str, Tensor], sign: float = 1.0) -> None:
    """Add ``sign`` times each delta to the weight of the module of that name, in place."""
    with torch.no_grad():
        for name, delta in deltas.items():
            weight = model.get_parameter(f"{name}.weight")
            weight.add_((sign * delta).to(weight))


def save_checkpoint(directory: Path, base: Backbone, meta: Mapping[str, Any], adapters: Sequence[Adapter] = ()) -> None:
    """Write the folder of a checkpoint, each file whole or not; ``checkpoint.json`` comes last."""
    directory.mkdir(parents=True, exist_ok=True)
    values = {
        "schema": SCHEMA,
        "kind": base.kind,
        "settings": base.description(),
        "adapters": [{"name": a.name, "scaling": a.scaling, "modules": list(a.down)} for a in adapters],
        **meta,
    }
    _write_tensors(directory / "model.safetensors", base.state_dict())
    matrices = directory / "adapters.safetensors"
    if adapters:
        tensors = {f"{a.name}.{n}.down": t for a in adapters for n, t in a.down.items()}
        tensors |= {f"{a.name}.{n}.up": t for a in adapters for n, t in a.up.items()}
        _write_tensors(matrices, tensors)
    else:
        matrices.unlink(missing_ok=True)
    description = directory / "checkpoint.json"
    text = json.dumps(values, indent=1, sort_keys=True) + "\n"
    description.with_suffix(".tmp").write_text(text, encoding="utf-8")
    description.with_suffix(".tmp").replace(description)


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    temporary = path.with_suffix(".tmp")
    save_file({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, temporary)
    temporary.replace(path)


def open_checkpoint(directory: Path) -> Checkpoint:
    """Read what ``save_checkpoint`` wrote.

    Raises BundleError when the folder holds no checkpoint, or a damaged or a newer one.
    """
    try:
        meta = json.loads((directory / "checkpoint.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise BundleError(
            f"{directory} is no checkpoint ({e}); give the folder that `soundkeep-trainer distil` or `adapt` wrote"
        ) from e
    if not isinstance(meta, dict) or meta.get("schema") not in READABLE_SCHEMAS:
        got = meta.get("schema") if isinstance(meta, dict) else type(meta).__name__
        raise BundleError(
            f"{directory} holds a checkpoint of schema {got}; this soundkeep reads {READABLE_SCHEMAS[0]} to {SCHEMA}"
        )
    try:
        base = backbone_of_kind(meta["kind"], meta["settings"])
        base.load_state_dict(load_file(directory / "model.safetensors"))
        adapters = _read_adapters(directory, meta.get("adapters", []))
        for adapter in adapters:
            for name, delta in adapter.deltas().items():
                if base.get_parameter(f"{name}.weight").shape != delta.shape:
                    raise ValueError(f"adapter {adapter.name} does not fit {name}")
    except (OSError, SafetensorError, AttributeError, KeyError, TypeError, ValueError, RuntimeError) as e:
        reason = " ".join(str(e).split())[:200]
        raise BundleError(f"{directory} is a damaged checkpoint ({reason}); train or copy it again") from e
    return Checkpoint(base.eval(), adapters, meta)


def load_checkpoint(directory: Path) -> tuple[Backbone, dict[str, Any]]:
    """The backbone with its adapters merged, in evaluation mode on the CPU, and its description. Raises BundleError."""
    checkpoint = open_checkpoint(directory)
    return checkpoint.merged(), dict(checkpoint.meta)


def _read_adapters(directory: Path, listed: Sequence[Mapping[str, Any]]) -> tuple[Adapter, ...]:
    if not listed:
        return ()
    tensors = load_file(directory / "adapters.safetensors")
    return tuple(
        Adapter(
            str(entry["name"]),
            float(entry["scaling"]),
            {name: tensors[f"{entry['name']}.{name}.down"] for name in entry["modules"]},
            {name: tensors[f"{entry['name']}.{name}.up"] for name in entry["modules"]},
        )
        for entry in listed
    )
