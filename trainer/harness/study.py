"""A whole benchmark: read, check, tune on one set if asked, fill the tables of another, write and draw."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edge import __version__
from trainer.backbones.backbone import Backbone
from trainer.distillation.recipe import keep_to_recipe
from trainer.harness.budgets import BudgetLine, cells_of, device_bytes, lines_of, rows_of
from trainer.harness.embeddings import weights_sha256
from trainer.harness.guard import record_of
from trainer.harness.method import MethodKind
from trainer.harness.methods import deal_settings
from trainer.harness.plots import draw
from trainer.harness.report import result_of, words_of, write_result
from trainer.harness.settings import pairs_of
from trainer.harness.table import (
    Subject,
    Table,
    TableSettings,
    Variant,
    check_hearing,
    courses_of,
    fill_table,
    hearing_of,
    prepare,
)
from trainer.harness.tuning import (
    Choice,
    candidates,
    choose_best,
    config_sha256,
    phase_config,
    require_disjoint,
    require_unchanged,
)
from trainer.protocols import FIRST_ORDER_SEED, SPLIT_SEED, Split
from trainer.sets.catalogue import SETS, LabelBy, PublicSet, SetClips, read_set


@dataclass(frozen=True)
class Data:
    """A set by name and folder. label, min_clips: see ``read_set``."""

    name: str
    directory: Path
    label: LabelBy = "class"
    min_clips: int = 1


@dataclass(frozen=True)
class Study:
    """What the command asks for. splits: the first is the headline. tune_on: the set of phase one, with its grid.

    setting, grid: words of the command line. budgets_mb: of equal memory, none to leave it out.
    """

    data: Data
    backbone: Path
    kinds: tuple[MethodKind, ...]
    splits: tuple[Split, ...]
    setting: tuple[str, ...] = ()
    tune_on: Data | None = None
    grid: tuple[str, ...] = ()
    budgets_mb: tuple[float, ...] = ()


@dataclass(frozen=True, eq=False)
class _Opened:
    """A set that was read and checked, before any work."""

    data: Data
    public: PublicSet
    found: SetClips


def run_study(
    study: Study,
    backbone: Backbone,
    settings: TableSettings,
    out: Path,
    cache: Path,
    *,
    progress: bool = False,
    said: Callable[[str], None] = lambda words: None,
) -> dict[str, Any]:
    """Do all of it, go on where an earlier run of the same command stopped, and return what ``result.json`` holds.

    said: told what goes on. Raises ConfigurationError for what cannot be compared, AudioError for what cannot be read.
    """
    record = record_of(study.backbone)
    words = deal_settings(pairs_of(study.setting, "--setting"), study.kinds)
    target = _open(study.data)
    check_hearing(target.public, target.found, study.splits, record, settings)
    tuned = None if study.tune_on is None else _open(study.tune_on)
    if tuned is not None:
        require_disjoint(tuned.found.clips, target.found.clips)
        courses_of(tuned.public, tuned.found, study.splits[0], settings)
    keep_to_recipe(out, _recipe(study, backbone, settings, target, tuned))
    tuning: dict[str, Any] | None = None
    if tuned is not None:
        choices, tuning = _tune(study, tuned, backbone, record, words, settings, out, cache, progress, said)
        words = {choice.method: dict(choice.settings) for choice in choices}
    variants = [Variant(kind.name, kind, words[kind.name]) for kind in study.kinds]
    subject = prepare(target.public, target.found, backbone, record, settings, cache, progress=progress)
    if tuning is not None:
        reported = phase_config(_base(subject, settings), {v.name: v.settings for v in variants})
        require_unchanged(tuning["config"], reported)
        tuning["reported_config_sha256"] = config_sha256(reported)
    tables, budgets = _tables(study, subject, variants, settings, out, said)
    header = _header(study, subject, settings, target, record, tuning)
    result = result_of(header, tables, budgets)
    write_result(out, result)
    title = f"{study.data.name} ({study.data.directory.name}), {backbone.kind} from {study.backbone.name}"
    for table in tables:
        draw(table, budgets[table.split], title, out)
    result["words"] = "\n\n".join([*target.found.notes, *(words_of(table, budgets[table.split]) for table in tables)])
    return result


def _open(data: Data) -> _Opened:
    found = read_set(data.name, data.directory, label=data.label, min_clips=data.min_clips)
    return _Opened(data, SETS[data.name], found)


def _tables(
    study: Study,
    subject: Subject,
    variants: Sequence[Variant],
    settings: TableSettings,
    out: Path,
    said: Callable[[str], None],
) -> tuple[list[Table], dict[str, list[BudgetLine]]]:
    tables: list[Table] = []
    lines: dict[str, list[BudgetLine]] = {}
    for split in study.splits:
        n_classes = len(courses_of(subject.public, subject.found, split, settings)[0].labels)
        cells = cells_of(variants, sorted(study.budgets_mb), subject.backbone, n_classes)
        table = fill_table(subject, split, rows_of(variants, cells), settings, out, said=said)
        tables.append(table)
        lines[split] = lines_of(cells, table.runs, subject.backbone) if cells else []
    return tables, lines


def _tune(
    study: Study,
    tuned: _Opened,
    backbone: Backbone,
    record: Mapping[str, Any],
    words: Mapping[str, Mapping[str, str]],
    settings: TableSettings,
    out: Path,
    cache: Path,
    progress: bool,
    said: Callable[[str], None],
) -> tuple[list[Choice], dict[str, Any]]:
    """Phase one. A backbone may have heard what is only tuned on; the result says so."""
    own = replace(settings, allow_heard=True)
    subject = prepare(tuned.public, tuned.found, backbone, record, own, cache, progress=progress)
    split = study.splits[0]
    tried = candidates(study.kinds, words, study.grid)
    table = fill_table(
        subject, split, [v for variants in tried.values() for v in variants], own, out / "tuning", said=said
    )
    choices = choose_best(tried, table.runs)
    config = phase_config(_base(subject, settings), {c.method: c.settings for c in choices})
    return choices, {
        "set": tuned.data.name,
        "data": tuned.data.directory.name,
        "split": split,
        "protocol": table.words,
        "warnings": list(table.warnings),
        "hearing": asdict(hearing_of(tuned.found, table.courses[0], record)),
        "chosen": {c.method: dict(c.settings) for c in choices},
        "tried": {c.method: dict(c.tried) for c in choices},
        "seconds": float(sum(sum(run.seconds) for runs in table.runs.values() for run in runs)),
        "config": config,
        "config_sha256": config_sha256(config),
    }


def _base(subject: Subject, settings: TableSettings) -> dict[str, Any]:
    """What both phases must share beside the methods' settings."""
    return {
        "backbone": subject.backbone_sha256,
        "hop_length": subject.hop_length,
        "max_windows": settings.max_windows,
        "seed": settings.seed,
    }


def _recipe(
    study: Study, backbone: Backbone, settings: TableSettings, target: _Opened, tuned: _Opened | None
) -> dict[str, Any]:
    """What a folder of results must not change under it; methods, orders and splits may be added."""
    kept = asdict(settings)
    for name in ("orders", "threads", "allow_heard"):
        del kept[name]
    return {
        **kept,
        "set": study.data.name,
        "clips": _name_of(target.found),
        "label": study.data.label,
        "min_clips": study.data.min_clips,
        "backbone": weights_sha256(backbone),
        "tune_on": None if tuned is None else {"set": tuned.data.name, "clips": _name_of(tuned.found)},
        "grid": sorted(study.grid),
    }


def _name_of(found: SetClips) -> dict[str, Any]:
    return {
        "n": len(found.clips),
        "sha256": config_sha256({"clips": [[c.label, c.group, c.path.name] for c in found.clips]}),
    }


def _header(
    study: Study,
    subject: Subject,
    settings: TableSettings,
    target: _Opened,
    record: Mapping[str, Any],
    tuning: Mapping[str, Any] | None,
) -> dict[str, Any]:
    header = {
        "soundkeep": __version__,
        "machine": {
            "platform": platform.platform(),
            "processor": platform.machine(),
            "device": str(next(subject.backbone.parameters()).device),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "threads": settings.threads,
        },
        "config": {
            "set": study.data.name,
            "label": study.data.label,
            "min_clips": study.data.min_clips,
            "clips": _name_of(target.found),
            "held_out": target.public.held_out_words,
            "split_seed": SPLIT_SEED,
            "first_order_seed": FIRST_ORDER_SEED,
            "windows": len(subject.material.clip),
            **asdict(replace(settings, hop_length=subject.hop_length)),
        },
        "backbone": {
            "source": study.backbone.name,
            "kind": subject.backbone.kind,
            "embedding": subject.backbone.embedding,
            "dim": subject.backbone.dim,
            "window_length": subject.backbone.window_length,
            "n_weights": subject.backbone.n_weights(),
            "bytes": device_bytes(subject.backbone),
            "sha256": subject.backbone_sha256,
            "record": dict(record),
        },
        "notes": list(target.found.notes),
        "tuning": None if tuning is None else dict(tuning),
    }
    return {**header, "config_sha256": config_sha256({k: header[k] for k in ("config", "backbone")})}
