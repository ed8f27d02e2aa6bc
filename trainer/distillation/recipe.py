"""What a run was begun with and must not change under it: kept as ``run.json`` beside its bank."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edge.errors import ConfigurationError
from trainer.datasets import Clip
from trainer.distillation.drawing import BankSettings
from trainer.errors import TrainingError


def recipe_of(
    clips: Sequence[Clip], teachers: Sequence[Path], settings: BankSettings, *, kept_out: bool, initial: Path | None
) -> dict[str, Any]:
    """Describe everything that a bank and the start of its training depend on; files by their SHA-256."""
    names = sorted(f"{c.set_name}/{c.label}/{c.path.name} {c.group} {c.word}" for c in clips)
    return {
        "clips": {"n": len(clips), "sha256": hashlib.sha256("\n".join(names).encode()).hexdigest()},
        "sets": sorted({c.set_name for c in clips}),
        "set_weights": dict(settings.set_weights),
        "seed": settings.seed,
        "shard_size": settings.shard_size,
        "teachers": sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path in teachers),
        "kept_out": kept_out,
        "initial": None if initial is None else _sha256_of_weights(initial),
    }


def _sha256_of_weights(checkpoint: Path) -> str:
    return hashlib.sha256((checkpoint / "model.safetensors").read_bytes()).hexdigest()


def keep_to_recipe(directory: Path, recipe: Mapping[str, Any]) -> None:
    """Write ``run.json``, or compare with the one that is there.

    Raises ConfigurationError that names what differs, TrainingError when the file is damaged.
    """
    path = directory / "run.json"
    if not path.exists():
        directory.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(recipe, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        temporary.replace(path)
        return
    try:
        begun = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TrainingError(f"{path} cannot be read ({error}); give another folder to begin again") from error
    now = json.loads(json.dumps(recipe))
    if begun != now:
        known = begun if isinstance(begun, dict) else {}
        differing = [key for key in sorted(known.keys() | now.keys()) if known.get(key) != now.get(key)]
        found = "; ".join(f"{key} was {known.get(key)}, now {now.get(key)}" for key in differing)
        raise ConfigurationError(
            f"{directory} holds a run that was begun otherwise ({found}); repeat its options, or give another --out"
        )
