"""Puts an adaptation together: backbone, recordings, plan, run, and the folder that comes of it."""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from edge.bundle import open_bundle
from edge.errors import ConfigurationError
from trainer.adapting.files import RunFiles
from trainer.adapting.pictures import draw_adaptation
from trainer.adapting.run import AdaptResult, AdaptRun, plan_sessions
from trainer.adapting.training_log import TrainingLog, read_training
from trainer.analytic import AnalyticSettings
from trainer.backbones.checkpoint import save_checkpoint
from trainer.backbones.loading import load_backbone
from trainer.datasets import Clip, is_held_out, list_clips
from trainer.harness.embeddings import weights_sha256
from trainer.harness.guard import record_of
from trainer.harness.material import gather
from trainer.harness.settings import keys_of, pairs_of, settings_from
from trainer.pace.fitting import Fitting
from trainer.pace.settings import PaceSettings
from trainer.parallel import World

OF_METHOD: Mapping[str, Mapping[str, Any]] = {
    "frozen": {"first_session": "none"},
    "fsa": {"adapted_sessions": 1, "boundary_weight": 0.0},
    "pace": {},
}


@dataclass(frozen=True)
class AdaptOptions:
    """What the command was asked for; see ``soundkeep-trainer adapt --help``."""

    backbone: str
    data: Path
    out: Path
    classes_per_session: int
    method: str
    seed: int
    resume: bool
    hear_all: bool
    window_seconds: float | None
    embedding: str | None
    hop_length: int | None
    max_windows: int | None
    settings: tuple[str, ...]
    device: str


def adapt_backbone(options: AdaptOptions, world: World, *, stop: Callable[[], bool], watched: bool) -> str:
    """Do what ``options`` say and write ``options.out``. Returns one sentence about what came of it.

    Raises ConfigurationError for options that do not fit, AudioError, BundleError, TrainingError.
    """
    pace, analytic = _settings(options)
    clips = list_clips(options.data)
    plan = plan_sessions(
        clips, classes_per_session=options.classes_per_session, seed=options.seed, hear_all=options.hear_all
    )
    model = load_backbone(options.backbone, window_seconds=options.window_seconds, embedding=options.embedding)
    base_sha256 = weights_sha256(model)
    hop = options.hop_length or model.window_length // 2
    files = RunFiles(options.out / "state")
    if world.rank == 0 and files.begun != options.resume:
        raise ConfigurationError(
            f"{options.out} holds a run already; add --resume to go on with it, or give another --out"
            if files.begun
            else f"{options.out} holds no run to go on with; leave --resume out"
        )
    material = gather(
        clips, model.to(options.device), hop_length=hop, max_windows_per_clip=options.max_windows, progress=watched
    )
    recipe = _recipe(options, clips, base_sha256, hop, pace, analytic)
    if world.rank == 0:
        files.keep_to(recipe)

    def say(words: str) -> None:
        if world.rank == 0:
            tqdm.write(words, file=sys.stderr)

    alone = sorted(label for label, n in Counter(clip.label for clip in clips).items() if n == 1)
    if alone:
        say(f"{len(alone)} classes have one clip ({_list(tuple(alone[:5]))}): it is learnt from, and never asked")
    with tqdm(disable=not watched, unit="epoch", desc="adapt", leave=False) as bar:

        def on_epoch(fitting: Fitting, terms: Mapping[str, float]) -> None:
            bar.update()
            bar.set_postfix({"session": fitting.stage.session, **{k: f"{v:.3f}" for k, v in terms.items()}})

        log = TrainingLog(options.out) if world.rank == 0 else None
        run = AdaptRun(
            model, material, plan, pace, analytic,
            files=files, log=log, world=world, say=say, stop=stop, on_epoch=on_epoch,
        )  # fmt: skip
        try:
            result = run.run()
        finally:
            if log is not None:
                log.close()
    if world.rank == 0:
        _write(options, recipe, run, result, clips)
    return _words(options, run, result)


def _settings(options: AdaptOptions) -> tuple[PaceSettings, AnalyticSettings]:
    words = pairs_of(options.settings, "--setting")
    of_pace, of_analytic = keys_of(PaceSettings), keys_of(AnalyticSettings)
    known = (*of_pace, *of_analytic)
    unknown = sorted(set(words) - set(known))
    if unknown:
        raise ConfigurationError(f"--setting {unknown[0]}: there is no such setting; wanted one of {_list(known)}")
    fixed = sorted(set(words) & set(OF_METHOD[options.method]))
    if fixed:
        raise ConfigurationError(
            f"--setting {fixed[0]} is what --method {options.method} fixes; say --method pace for it"
        )
    defaults = {**OF_METHOD[options.method], "seed": options.seed}
    pace = settings_from(PaceSettings, {k: v for k, v in words.items() if k in of_pace}, defaults)
    analytic = settings_from(AnalyticSettings, {k: v for k, v in words.items() if k in of_analytic})
    return pace, analytic


def _list(names: tuple[str, ...]) -> str:
    return ", ".join(sorted(names))


def _recipe(
    options: AdaptOptions,
    clips: list[Clip],
    base_sha256: str,
    hop: int,
    pace: PaceSettings,
    analytic: AnalyticSettings,
) -> dict[str, Any]:
    """Everything that decides the outcome."""
    names = sorted(f"{c.label}/{c.path.name} {c.group} {c.path.stat().st_size}" for c in clips)
    return {
        "backbone_sha256": base_sha256,
        "clips_sha256": hashlib.sha256("\n".join(names).encode()).hexdigest(),
        "n_clips": len(clips),
        "classes_per_session": options.classes_per_session,
        "method": options.method,
        "seed": options.seed,
        "hear_all": options.hear_all,
        "hop_length": hop,
        "max_windows": options.max_windows,
        "pace": asdict(pace),
        "analytic": asdict(analytic),
    }


def _write(
    options: AdaptOptions, recipe: Mapping[str, Any], run: AdaptRun, result: AdaptResult, clips: list[Clip]
) -> None:
    """The checkpoint, ``result.json`` and the picture."""
    figures = {
        "accuracy_mixed": result.mixed,
        "accuracy_recomputed": result.recomputed,
        "accuracy_frozen": result.frozen,
        "gap": result.gap,
        "n_clips_asked": len(run.plan.asked),
        "n_clips_learnt": sum(len(s.train) for s in run.plan.sessions),
        "n_classes": sum(len(s.labels) for s in run.plan.sessions),
    }
    meta = {
        **_heard(options, run, clips),
        **_detection(Path(options.backbone)),
        "adapt": {"method": options.method, "from": Path(options.backbone).name, "set": clips[0].set_name, **figures},
    }
    base = run.stream.adaptation.base
    save_checkpoint(options.out, base.cpu(), meta, run.stream.adaptation.adapters)
    sessions = [{"number": s.number, "labels": s.labels, "n_clips": len(s.train)} for s in run.plan.sessions]
    written = {**figures, "curve": result.curve, "sessions": sessions, "recipe": recipe, **result.figures}
    temporary = options.out / "result.tmp"
    temporary.write_text(json.dumps(written, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    temporary.replace(options.out / "result.json")
    title = f"{options.method}: {Path(options.backbone).name} on {clips[0].set_name}"
    draw_adaptation(result, read_training(options.out / "training.csv"), title, options.out / "adaptation.png")


def _detection(backbone: Path) -> dict[str, Any]:
    """The read-out and decision settings of the bundle or checkpoint that was adapted, for the bundle to come."""
    if (backbone / "manifest.json").is_file():
        known = {k: v for k, v in asdict(open_bundle(backbone).detection).items() if v is not None}
    elif (backbone / "checkpoint.json").is_file():
        known = json.loads((backbone / "checkpoint.json").read_text(encoding="utf-8")).get("detection", {})
    else:
        known = {}
    return {"detection": known} if known else {}


def _heard(options: AdaptOptions, run: AdaptRun, clips: list[Clip]) -> dict[str, Any]:
    """The record of which recordings the backbone heard; none when nobody knows what the one before it heard."""
    before = record_of(Path(options.backbone))
    if "data" not in before:
        return {}
    learnt = [clips[i] for session in run.plan.sessions for i in session.train]
    kept_out = bool(before["kept_out"]) and not any(is_held_out(clip) for clip in learnt)
    return {"data": sorted({clips[0].set_name, *before["data"]}), "kept_out": kept_out}


def _words(options: AdaptOptions, run: AdaptRun, result: AdaptResult) -> str:
    n = len(run.stream.adaptation.adapters)
    made = f"{options.out}: a checkpoint with {n} adapter{'' if n == 1 else 's'}"
    if result.mixed is None or result.recomputed is None or result.frozen is None:
        return f"{made}; no clip was kept out, so nothing is measured"
    return (
        f"{made}; of {len(run.plan.asked)} clips kept out {100 * result.recomputed:.1f} % are right with statistics "
        f"computed anew under the adapted backbone, {100 * result.mixed:.1f} % with those of the run, "
        f"{100 * result.frozen:.1f} % without adaptation"
    )
