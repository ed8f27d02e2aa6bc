"""One table: several methods through the same courses on the same material, every order of classes."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.errors import ConfigurationError
from trainer.analytic import AnalyticSettings
from trainer.backbones.backbone import Backbone
from trainer.harness.embeddings import embeddings, weights_sha256
from trainer.harness.guard import Hearing, heard_test_groups, refuse_heard, warnings_of
from trainer.harness.material import Material, gather
from trainer.harness.method import MethodContext, MethodKind
from trainer.harness.run import Run, run_or_read
from trainer.pace.settings import PaceSettings
from trainer.protocols import FIRST_ORDER_SEED, SPLIT_SEED, Course, Split, describe_sizes, make_course
from trainer.sets.catalogue import PublicSet, SetClips


@dataclass(frozen=True)
class TableSettings:
    """orders: class orders, of seeds 1993, 1994, ... classes_per_session, sessions: one of them, both 0 for the set's.

    hop_length: samples, 0 for half a window. max_windows: of a clip, None for all. seed: of the methods; each order
    adds its number.
    """

    orders: int = 5
    classes_per_session: int = 0
    sessions: int = 0
    ask_every: int = 1
    hop_length: int = 0
    max_windows: int | None = None
    seed: int = 0
    threads: int = 1
    allow_heard: bool = False


@dataclass(frozen=True)
class Variant:
    """A row of a table: a method with its settings in words. name: the method's, or what sets it apart."""

    name: str
    kind: MethodKind
    settings: Mapping[str, str]


@dataclass(frozen=True, eq=False)
class Subject:
    """What a table is about: a set, as material of one backbone. embed: its frozen embeddings, computed when asked."""

    public: PublicSet
    found: SetClips
    backbone: Backbone
    backbone_sha256: str
    record: Mapping[str, Any]
    material: Material
    embed: Callable[[], NDArray[np.float32]]
    hop_length: int


@dataclass(frozen=True, eq=False)
class Table:
    """Results of one split. runs: of each variant, by rising order seed. warnings: to be printed with every figure."""

    split: Split
    courses: tuple[Course, ...]
    hearing: Hearing
    warnings: tuple[str, ...]
    runs: Mapping[str, tuple[Run, ...]]

    @property
    def words(self) -> str:
        """The protocol in a sentence."""
        course = self.courses[0]
        n = len(course.left_out)
        left_out = f"; left out for want of clips on both sides: {n} class{'es' * (n > 1)}" if n else ""
        n_train = len({c for session in course.sessions for c in session.train})
        first, last = course.order_seed, self.courses[-1].order_seed
        orders = f"{len(self.courses)} orders (seeds {first} to {last})" if last > first else f"1 order (seed {first})"
        return f"{describe_sizes(course)}, {n_train} clips learnt, {len(course.test)} asked, {orders}{left_out}"


def courses_of(public: PublicSet, found: SetClips, split: Split, settings: TableSettings) -> tuple[Course, ...]:
    """One course for each order. Raises ConfigurationError, NotEnoughSamplesError."""
    each = settings.classes_per_session
    if not each and not settings.sessions:
        each = public.classes_per_session
        if not each:
            raise ConfigurationError(
                f"--set {public.name} has no sessions of its own; give --classes-per-session or --sessions"
            )
    return tuple(
        make_course(
            found.clips,
            split=split,
            order_seed=FIRST_ORDER_SEED + i,
            classes_per_session=each,
            sessions=settings.sessions,
            split_seed=SPLIT_SEED,
            held_out=public.held_out,
        )
        for i in range(settings.orders)
    )


def hearing_of(found: SetClips, course: Course, record: Mapping[str, Any]) -> Hearing:
    """What the backbone heard of a course's test clips."""
    return heard_test_groups(record, [found.listed[c] for c in course.test])


def check_hearing(
    public: PublicSet, found: SetClips, splits: Sequence[Split], record: Mapping[str, Any], settings: TableSettings
) -> None:
    """Refuse before any work what no table may hold. Raises ConfigurationError, NotEnoughSamplesError."""
    for split in splits:
        course = courses_of(public, found, split, settings)[0]
        refuse_heard(hearing_of(found, course, record), split, allow=settings.allow_heard)


def prepare(
    public: PublicSet,
    found: SetClips,
    backbone: Backbone,
    record: Mapping[str, Any],
    settings: TableSettings,
    cache: Path,
    *,
    progress: bool,
) -> Subject:
    """Put a set through the front end, or read it from the cache. Raises AudioError that names an unusable clip."""
    hop_length = settings.hop_length or backbone.window_length // 2
    material = gather(
        found.clips,
        backbone,
        hop_length=hop_length,
        max_windows_per_clip=settings.max_windows,
        cache=cache,
        progress=progress,
    )

    @functools.cache
    def embed() -> NDArray[np.float32]:
        values = embeddings(backbone, material, cache, progress=progress)
        values.flags.writeable = False
        return values

    return Subject(public, found, backbone, weights_sha256(backbone), record, material, embed, hop_length)


def recipe_of(subject: Subject, settings: TableSettings) -> dict[str, Any]:
    """What decides a run beside its course, its method's settings and its seed.

    defaults: names what the settings are that nobody gave; a version with others does not take up old runs.
    """
    unsaid = {"pace": asdict(PaceSettings()), "analytic": asdict(AnalyticSettings())}
    return {
        "defaults": hashlib.sha256(json.dumps(unsaid, sort_keys=True).encode()).hexdigest()[:12],
        "backbone": subject.backbone_sha256,
        "material": subject.material.key,
        "hop_length": subject.hop_length,
        "max_windows": settings.max_windows,
        "ask_every": settings.ask_every,
    }


def fill_table(
    subject: Subject,
    split: Split,
    variants: Sequence[Variant],
    settings: TableSettings,
    out: Path,
    *,
    said: Callable[[str], None] = lambda words: None,
) -> Table:
    """Run every variant in every order, or read what was run before; each run is a file under ``out``.

    said: told what goes on. Raises ConfigurationError for a run made otherwise or a backbone that heard test clips.
    """
    courses = courses_of(subject.public, subject.found, split, settings)
    hearing = hearing_of(subject.found, courses[0], subject.record)
    refuse_heard(hearing, split, allow=settings.allow_heard)
    if any(variant.kind.uses_embeddings for variant in variants):
        subject.embed()
    runs: dict[str, tuple[Run, ...]] = {}
    for variant in variants:
        made = []
        for i, course in enumerate(courses):
            folder = out / "runs" / split / variant.name
            context = MethodContext(
                subject.backbone,
                subject.material,
                subject.embed,
                course,
                settings.seed + i,
                folder / str(course.order_seed),
                settings.threads,
                variant.settings,
            )
            who = f"{split} {variant.name} {course.order_seed}"
            made.append(
                run_or_read(
                    folder / f"{course.order_seed}.json",
                    variant.kind,
                    context,
                    recipe_of(subject, settings),
                    ask_every=settings.ask_every,
                    said=functools.partial(_prefixed, said, who),
                )
            )
        runs[variant.name] = tuple(made)
    return Table(split, courses, hearing, tuple(warnings_of(hearing, split)), runs)


def _prefixed(said: Callable[[str], None], who: str, words: str) -> None:
    said(f"{who}: {words}")
