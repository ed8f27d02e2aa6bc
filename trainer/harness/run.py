"""One method through one course: learn a session, ask every clip of the classes seen so far, and so on to the end.

A finished run is a file. The same command again reads it; a run begun with other settings is refused by name.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.errors import ConfigurationError
from trainer.errors import TrainingError
from trainer.harness.cost import PeakMemory
from trainer.harness.material import Material
from trainer.harness.method import Method, MethodContext, MethodKind
from trainer.protocols import Course

SCHEMA = 1


@dataclass(frozen=True)
class Run:
    """What one method did in one course of T sessions. A value of null: not asked, or no clip to ask.

    accuracy: T rows of T; row t, column s: after session t + 1, share of right answers among the test clips of the
    classes of session s + 1. overall: (T,), over all test clips of the classes seen so far. n_asked: (T,) test clips of
    each session's classes. correct: a letter for each clip of ``Course.test`` after the last session, ``1`` or ``0``.
    seconds: (T,) of learning. Accuracies are shares of 1.
    """

    method: str
    order_seed: int
    split: str
    accuracy: tuple[tuple[float | None, ...], ...]
    overall: tuple[float | None, ...]
    n_asked: tuple[int, ...]
    correct: str
    seconds: tuple[float, ...]
    seconds_asking: float
    peak_bytes: int
    peak_device_bytes: int | None
    figures: Mapping[str, Any]


def run_course(
    method: Method,
    course: Course,
    material: Material,
    *,
    ask_every: int = 1,
    clock: Callable[[], float] = time.perf_counter,
    said: Callable[[str], None] = lambda words: None,
) -> Run:
    """Teach every session in order. ask_every: ask after every so many sessions, and after the last.

    said: told what goes on. Raises TrainingError when a score is not finite.
    """
    n_sessions, peak = len(course.sessions), PeakMemory()
    own = [[c for c in course.test if material.clips[c].label in set(s.labels)] for s in course.sessions]
    accuracy: list[tuple[float | None, ...]] = []
    overall: list[float | None] = []
    seconds, asking, right = [], 0.0, dict[int, bool]()
    for t, session in enumerate(course.sessions):
        started = clock()
        method.learn(session)
        seconds.append(clock() - started)
        if (t + 1) % ask_every and t + 1 < n_sessions:
            accuracy.append((None,) * n_sessions)
            overall.append(None)
            continue
        seen = {label for earlier in course.sessions[: t + 1] for label in earlier.labels}
        started = clock()
        right = answers(method, material, [c for c in course.test if material.clips[c].label in seen])
        asking += clock() - started
        row = [_share([right[c] for c in own[s]]) if s <= t else None for s in range(n_sessions)]
        accuracy.append(tuple(row))
        overall.append(_share(list(right.values())))
        said(f"session {t + 1} of {n_sessions}: {100.0 * (overall[-1] or 0.0):.1f} %")
    return Run(
        method.name,
        course.order_seed,
        course.split,
        tuple(accuracy),
        tuple(overall),
        tuple(len(clips) for clips in own),
        "".join("1" if right.get(c, False) else "0" for c in course.test),
        tuple(seconds),
        asking,
        peak.host_bytes(),
        peak.device_bytes(),
        method.figures(),
    )


def answers(method: Method, material: Material, clips: Sequence[int]) -> dict[int, bool]:
    """Whether each clip is named right: the class with the largest mean score of the clip's windows.

    Of equal scores the first by name counts. A method that knows no class yet is wrong throughout.
    """
    if not clips:
        return {}
    rows = material.rows(clips)
    labels, scores = method.scores(rows)
    if scores.shape != (len(rows), len(labels)) or not np.isfinite(scores).all():
        raise TrainingError(
            f"{method.name} gave scores of shape {scores.shape} for {len(rows)} windows and {len(labels)} classes, "
            f"{np.count_nonzero(~np.isfinite(scores))} of them not finite; wanted finite ones; lower its learning rate"
        )
    if not labels:
        return dict.fromkeys(clips, False)
    by_name = np.argsort(np.array(labels, dtype=object))
    means = clip_scores(scores[:, by_name], material.clip[rows])
    named = [labels[by_name[i]] for i in means.argmax(axis=1)]
    return {c: name == material.clips[c].label for c, name in zip(clips, named, strict=True)}


def clip_scores(scores: NDArray[np.float64], clip: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean score of the windows of each clip. scores: (r, k). clip: (r,), equal within a run of rows. (m, k)."""
    starts = np.flatnonzero(np.concatenate([[True], clip[1:] != clip[:-1]]))
    counts = np.diff(np.concatenate([starts, [len(clip)]]))
    return np.asarray(np.add.reduceat(scores, starts, axis=0) / counts[:, None])


def run_or_read(path: Path, kind: MethodKind, context: MethodContext, recipe: Mapping[str, Any], **how: Any) -> Run:
    """Run a method, or read what the same recipe gave before; the file appears when the run is complete.

    recipe: whatever else decides the outcome. Raises ConfigurationError when the file was made otherwise.
    """
    described = {**recipe, "settings": dict(context.settings), "seed": context.seed, "course": _name(context.course)}
    if (found := _read(path)) is not None:
        begun, now = found["recipe"], json.loads(json.dumps(described))
        if begun != now:
            differing = [key for key in sorted({*begun, *now}) if begun.get(key) != now.get(key)]
            words = "; ".join(f"{key} was {begun.get(key)}, now {now.get(key)}" for key in differing)
            raise ConfigurationError(
                f"{path} holds a run that was made otherwise ({words}); repeat its options, or give another --out"
            )
        return _run_of(found["run"])
    if kind.at_end:
        how["ask_every"] = len(context.course.sessions)
    made = run_course(kind.build(context), context.course, context.material, **how)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    values = {"schema": SCHEMA, "recipe": described, "run": asdict(made)}
    temporary.write_text(json.dumps(values, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    temporary.replace(path)
    return _run_of(json.loads(path.read_text(encoding="utf-8"))["run"])


def _read(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["schema"] != SCHEMA:
            raise ValueError(f"schema {found['schema']}, wanted {SCHEMA}")
        _run_of(found["run"])
        return dict(found)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{path} cannot be read ({error}); delete it to run again") from error


def _run_of(values: Mapping[str, Any]) -> Run:
    changed = dict(values)
    changed["accuracy"] = tuple(tuple(row) for row in values["accuracy"])
    for key in ("overall", "n_asked", "seconds"):
        changed[key] = tuple(values[key])
    return Run(**changed)


def _name(course: Course) -> str:
    return hashlib.sha256(json.dumps(asdict(course), sort_keys=True).encode()).hexdigest()


def _share(right: Sequence[bool]) -> float | None:
    return sum(right) / len(right) if right else None
