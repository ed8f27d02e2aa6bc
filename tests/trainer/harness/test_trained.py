"""Methods that train, through the harness: each runs and counts its bytes, and what tells them apart is measured."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edge.errors import ConfigurationError
from tests.trainer.harness.synthetic_material import clips_of, course_of
from tests.trainer.pace.small_lessons import bits, sounds, student, unchanged
from trainer.harness.finetuned import NORMS, Film, Joint, Sequential
from trainer.harness.frozen import FrozenAnalytic
from trainer.harness.material import Material
from trainer.harness.method import Method, MethodContext
from trainer.harness.methods import known_methods
from trainer.harness.run import Run, run_course
from trainer.harness.trained import VARIANTS, Streamed, trained_methods, trained_settings
from trainer.pace.embedding import embed_features
from trainer.protocols import Course, Session

N_CLASSES = 6
WORDS = {
    "epochs": "3", "backbone_learning_rate": "0.02", "later_learning_rate": "0.02", "head_learning_rate": "0.1",
    "head_epochs": "5", "views": "4", "misread_share": "0.1", "rank": "4", "batch_size": "8", "adapted_sessions": "2",
}  # fmt: skip
ANALYTIC = {"lift_dim": "64", "ridge": "4"}
BACKBONE = student()


def sounding(n_windows: int = 1, noise: float = 1.0) -> Material:
    """Six classes of ten clips, each of so many windows about its class's pattern."""
    clips = clips_of(N_CLASSES)
    n_each = len(clips) // N_CLASSES * n_windows
    features, _ = sounds(N_CLASSES, n_each, noise=noise, seed=3)
    return Material(clips, features, np.repeat(np.arange(len(clips), dtype=np.int64), n_windows))


MATERIAL = sounding()
COURSE = course_of(MATERIAL, classes_per_session=2)


def context(
    settings: dict[str, str] | None = None, course: Course = COURSE, material: Material = MATERIAL, seed: int = 0
) -> MethodContext:
    def values() -> Any:
        return embed_features(BACKBONE, material.features).numpy()

    return MethodContext(BACKBONE, material, values, course, seed, Path("unused"), 1, settings or {})


def words_of(name: str, **changes: str) -> dict[str, str]:
    words = {**WORDS, **ANALYTIC}
    if VARIANTS.get(name, {}).get("adapted_sessions") == 1 or name == "fsa-lda":
        del words["adapted_sessions"]
    return {**words, **changes}


@functools.lru_cache(maxsize=16)
def ran(name: str, **changes: str) -> tuple[Method, Run]:
    method = trained_methods()[name](context(words_of(name, **changes)))
    return method, run_course(method, COURSE, MATERIAL)


@pytest.mark.parametrize("name", trained_methods())
def test_each_method_runs_learns_and_counts_its_bytes(name: str) -> None:
    before = bits(BACKBONE)
    method, run = ran(name)
    assert method.name == run.method == name
    assert run.figures["memory_bytes"] > 0 and run.figures["adaptation_seconds"]["backbone"] >= 0.0
    chance = 1 / N_CLASSES
    last = run.overall[-1]
    assert last is not None and last > (chance if name == "sequential" else 2 * chance)
    assert unchanged(BACKBONE, before), "the original is shared by all methods"
    labels, scores = method.scores(MATERIAL.rows([0, 1]))
    assert sorted(labels) == sorted(COURSE.labels) and scores.shape == (2, N_CLASSES) and np.isfinite(scores).all()


def test_every_method_is_in_the_table_and_takes_the_settings_that_it_says() -> None:
    kinds = known_methods()
    assert set(trained_methods()) == set(trained_settings()) <= set(kinds)
    for name in trained_methods():
        keys = kinds[name].keys
        assert keys is not None and {*WORDS, *ANALYTIC} <= set(keys)
    with pytest.raises(ConfigurationError, match="'ranks' is no setting here"):
        trained_methods()["pace"](context({"ranks": "2"}))
    with pytest.raises(ConfigurationError, match="rank is 0; wanted 1 or more"):
        trained_methods()["pace"](context({"rank": "0"}))


def test_variants_are_pace_less_what_their_name_says() -> None:
    def pace(name: str) -> Any:
        method = trained_methods()[name](context(ANALYTIC))
        assert isinstance(method, Streamed)
        return method.stream.adaptation.settings

    assert pace("naive-fsa").first_session == "naive" and pace("fsa").first_session == "improved"
    weights = [pace(name).boundary_weight for name in ("fsa", "fsa-boundary", "pace")]
    assert weights == [0.0, 0.1, 0.1]
    assert [pace(n).adapted_sessions for n in ("fsa", "fsa-boundary", "pace")] == [1, 1, None]
    assert pace("pace-no-projection").projection == "none" and pace("pace").projection == "leading"
    assert not pace("pace-no-subtraction").subtraction and pace("pace").subtraction
    assert pace("pace-all-blocks").cka_threshold is None and pace("fsa-all-blocks").cka_threshold is None
    assert pace("pace-no-boundary-loss").boundary_weight == 0.0
    method = trained_methods()["pace"](context(ANALYTIC, seed=7))
    assert isinstance(method, Streamed) and method.stream.adaptation.settings.seed == 7
    lda = trained_methods()["fsa-lda"](context())
    assert isinstance(lda, Streamed)
    assert (lda.stream.classifier.settings.read_out, lda.stream.classifier.settings.lift_dim) == ("lda", None)


def test_a_part_that_is_left_out_changes_what_pace_ends_at() -> None:
    ends = {}
    for name in ("pace", "pace-no-boundary-loss", "pace-no-projection", "pace-no-subtraction", "pace-all-blocks"):
        method, _ = ran(name)
        assert isinstance(method, Streamed)
        ends[name] = torch.cat([p.flatten() for p in method.stream.adaptation.current.parameters()])
    for name in list(ends)[1:]:
        assert not torch.equal(ends["pace"], ends[name]), name


def test_sequential_forgets_and_frozen_analytic_does_not() -> None:
    """Accuracy on the classes of session 1: after it, and after the last."""
    frozen = known_methods()["frozen-analytic"].build(context(ANALYTIC))
    assert isinstance(frozen, FrozenAnalytic)
    kept = run_course(frozen, COURSE, MATERIAL).accuracy
    lost = ran("sequential")[1].accuracy
    first, last = kept[0][0], kept[-1][0]
    assert first is not None and last is not None and first >= 0.7 and last >= first - 0.3
    first, last = lost[0][0], lost[-1][0]
    assert first is not None and last is not None and first >= 0.7 and last <= first - 0.5


def test_joint_is_trained_at_the_end_and_asked_only_then() -> None:
    method, run = ran("joint")
    assert isinstance(method, Joint)
    assert run.overall[:-1] == (0.0, 0.0) and (run.overall[-1] or 0.0) > 0.5
    sequential = ran("sequential")[1]
    assert (run.overall[-1] or 0.0) > (sequential.overall[-1] or 0.0), "it is the upper bound"


def test_pace_tells_mixed_from_recomputed() -> None:
    method, run = ran("pace")
    assert isinstance(method, Streamed)
    figures = run.figures
    assert figures["adapted_sessions"] == [1, 2] and len(figures["cka"]) == 4
    assert figures["gap"] == pytest.approx(figures["accuracy_recomputed"] - figures["accuracy_mixed"])
    assert figures["accuracy_mixed"] == pytest.approx(run.overall[-1]), "the table's number is the mixed one"
    mixed, recomputed = method.stream.classifier.statistics, method.stream.recomputed().statistics
    assert mixed.labels == recomputed.labels and not np.array_equal(mixed.gram, recomputed.gram)
    frozen = trained_methods()["pace"](context(words_of("pace", first_session="none")))
    assert run_course(frozen, COURSE, MATERIAL).figures["gap"] == 0.0


def test_answers_are_those_of_the_backbone_as_it_is() -> None:
    """What is kept between questions is forgotten when the backbone moves, and only then asked again."""
    method = trained_methods()["pace"](context(words_of("pace")))
    assert isinstance(method, Streamed)
    rows = MATERIAL.rows(range(0, 60, 7))
    for session in COURSE.sessions:
        method.learn(session)
        for _ in range(2):
            fresh = method.stream.classifier.scores(method.stream.embed(rows))
            assert np.array_equal(method.scores(rows)[1], fresh[1])
    assert method.scores(rows[:0])[1].shape == (0, N_CLASSES)


@pytest.mark.parametrize("name", ["pace", "naive-fsa", "sequential", "joint", "film-lda", "fsa-lda"])
def test_a_seed_decides_every_answer(name: str) -> None:
    words = words_of(name, epochs="1")
    ends = []
    for seed in (0, 0, 1):
        method = trained_methods()[name](context(words, seed=seed))
        run = run_course(method, COURSE, MATERIAL, ask_every=3)
        ends.append((run.correct, method.scores(MATERIAL.rows([0, 15]))[1]))
    assert ends[0][0] == ends[1][0] and np.array_equal(ends[0][1], ends[1][1])
    assert not np.array_equal(ends[0][1], ends[2][1])


@pytest.mark.parametrize("name", ["pace", "sequential", "joint", "film-lda"])
def test_an_empty_session_a_lonely_class_and_an_old_one_again(name: str) -> None:
    own = {c: [i for i, clip in enumerate(MATERIAL.clips) if clip.label == f"c{c}"] for c in range(4)}
    sessions = (
        Session(1, ("c3",), ()),
        Session(2, ("c0",), tuple(own[0][:3])),
        Session(3, ("c1", "c2"), (*own[1][:6], own[2][0])),
        Session(4, ("c0", "c1"), (*own[0][3:6], *own[1][6:8])),
    )
    course = Course(sessions, (own[3][8], own[0][8], own[1][8], own[2][8]), 0, "group", ("c3", "c0", "c1", "c2"))
    method = trained_methods()[name](context(words_of(name, adapted_sessions="4", epochs="1"), course))
    run = run_course(method, course, MATERIAL)
    assert run.overall[0] == 0.0, "a class that is asked before any clip of it came: wrong, not an error"
    labels, scores = method.scores(MATERIAL.rows([0]))
    assert sorted(labels) == ["c0", "c1", "c2"] and np.isfinite(scores).all()


def test_film_moves_norms_alone_and_in_the_first_session_only() -> None:
    method = trained_methods()["film-lda"](context(words_of("film-lda")))
    assert isinstance(method, Film)
    method.learn(COURSE.sessions[0])
    changed = {n for n, p in method.backbone.named_parameters() if not torch.equal(p, BACKBONE.get_parameter(n))}
    norms = {f"{n}.{p}" for n, m in BACKBONE.named_modules() if isinstance(m, NORMS) for p, _ in m.named_parameters()}
    assert changed == norms
    running = [n for n, _ in BACKBONE.named_buffers() if "running" in n]
    assert all(torch.equal(method.backbone.get_buffer(n), BACKBONE.get_buffer(n)) for n in running)
    after_first = bits(method.backbone)
    method.learn(COURSE.sessions[1])
    assert unchanged(method.backbone, after_first)
    assert not any(p.requires_grad for p in method.backbone.parameters())


def test_the_softmax_head_grows_and_keeps_what_it_had() -> None:
    method = trained_methods()["sequential"](context(words_of("sequential", epochs="1", backbone_learning_rate="0",
                                                              head_learning_rate="0")))  # fmt: skip
    assert isinstance(method, Sequential)
    method.learn(COURSE.sessions[0])
    first = method.head.weight.detach().clone()
    method.learn(COURSE.sessions[1])
    assert torch.equal(method.head.weight[:2], first) and method.head.weight.shape == (4, 16)
    assert method.labels == sorted(COURSE.sessions[0].labels) + sorted(COURSE.sessions[1].labels)


def test_clips_of_several_windows_count_as_clips_for_the_stop_rule() -> None:
    material = sounding(n_windows=2)
    course = course_of(material, classes_per_session=2)
    n_clips = len(course.sessions[0].train)
    words = words_of("pace", adapted_sessions="none", stop_samples=str(n_clips), epochs="1")
    method = trained_methods()["pace"](context(words, course, material))
    assert isinstance(method, Streamed)
    run_course(method, course, material, ask_every=9)
    assert method.stream.figures()["adapted_sessions"] == [1, 2]
