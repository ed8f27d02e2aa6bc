"""Honest tuning in two phases: settings are chosen on one set and reported on another, and hashes prove it.

Source of the protocol: the TMLR 2025 reality check of class-incremental learning (GTEP): most methods lose their rank
once their settings may not be chosen on the data that is reported.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge.errors import ConfigurationError
from edge.space import canonical_json
from trainer.datasets import Clip
from trainer.harness.method import MethodKind
from trainer.harness.methods import deal_settings
from trainer.harness.metrics import measures
from trainer.harness.run import Run
from trainer.harness.settings import pairs_of
from trainer.harness.table import Variant


@dataclass(frozen=True)
class Choice:
    """What phase one chose for a method. tried: last accuracy of each candidate, by its settings in words."""

    method: str
    settings: Mapping[str, str]
    tried: Mapping[str, float]


def candidates(
    kinds: Sequence[MethodKind], settings: Mapping[str, Mapping[str, str]], grid: Sequence[str]
) -> dict[str, list[Variant]]:
    """All settings to try for each method: every combination of the values that ``grid`` gives to its keys.

    grid: words like ``ridge=256,1024`` or ``pace.rank=4,8``. Raises ConfigurationError for a key that no method takes,
    or that ``settings`` fixes already.
    """
    values = {key: text.split(",") for key, text in pairs_of(grid, "--grid").items()}
    found: dict[str, list[Variant]] = {kind.name: [] for kind in kinds}
    own: dict[str, dict[str, list[str]]] = {kind.name: {} for kind in kinds}
    for key, tried in values.items():
        for method, words in deal_settings({key: tried[0]}, kinds).items():
            for name in words:
                if name in settings[method]:
                    raise ConfigurationError(
                        f"--grid and --setting both say {name} of {method}; tuning may not change what is fixed: leave "
                        f"one out"
                    )
                own[method][name] = tried
    for kind in kinds:
        keys = sorted(own[kind.name])
        for point in itertools.product(*(own[kind.name][key] for key in keys)):
            words = {**settings[kind.name], **dict(zip(keys, point, strict=True))}
            label = ",".join(f"{k}={v}" for k, v in zip(keys, point, strict=True))
            found[kind.name].append(Variant(f"{kind.name}@{label}" if label else kind.name, kind, words))
    return found


def choose_best(tried: Mapping[str, Sequence[Variant]], runs: Mapping[str, Sequence[Run]]) -> list[Choice]:
    """For each method the candidate with the best mean last accuracy; of equals the one that was named first."""
    choices = []
    for method, variants in tried.items():
        last = {v.name: float(np.mean([measures(run).last for run in runs[v.name]])) for v in variants}
        best = max(variants, key=lambda v: last[v.name])
        choices.append(Choice(method, best.settings, last))
    return choices


def phase_config(base: Mapping[str, Any], settings: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """Everything that a phase gives to its methods, as one value that can be hashed."""
    return {**base, "methods": {name: dict(words) for name, words in sorted(settings.items())}}


def config_sha256(config: Mapping[str, Any]) -> str:
    """Name of a configuration in hex, of its canonical JSON."""
    return hashlib.sha256(canonical_json(config)).hexdigest()


def require_unchanged(tuned: Mapping[str, Any], reported: Mapping[str, Any]) -> None:
    """Raise ConfigurationError that names every value in which the two phases differ."""
    differing = _differing("", tuned, reported)
    if differing:
        raise ConfigurationError(
            f"the phase that reports differs from the one that chose: {'; '.join(differing)}; report what was chosen, "
            f"or tune anew in another --out"
        )


def _differing(where: str, a: Any, b: Any) -> list[str]:
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        keys = sorted({*a, *b})
        return [w for key in keys for w in _differing(f"{where}.{key}".lstrip("."), a.get(key), b.get(key))]
    return [] if a == b else [f"{where} was {a}, now {b}"]


def require_disjoint(tuning: Sequence[Clip], reported: Sequence[Clip]) -> None:
    """Raise ConfigurationError when a recording is in both sets, under whatever name: files are compared by content."""
    sizes: dict[int, list[Path]] = defaultdict(list)
    for clip in tuning:
        sizes[clip.path.stat().st_size].append(clip.path)
    known: dict[int, dict[str, Path]] = {}
    shared = []
    for clip in reported:
        size = clip.path.stat().st_size
        if size not in sizes:
            continue
        if size not in known:
            known[size] = {_sha256_of(path): path for path in sizes[size]}
        if (twin := known[size].get(_sha256_of(clip.path))) is not None:
            shared.append((twin, clip.path))
    if shared:
        raise ConfigurationError(
            f"{len(shared)} recordings are both in the set to tune on and in the one to report, the first is "
            f"{shared[0][0]} = {shared[0][1]}; tune on other data"
        )


def _sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
