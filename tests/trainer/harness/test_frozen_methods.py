"""Methods on frozen embeddings: their definitions, and what no order and no grouping may change."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch

from edge.errors import ConfigurationError
from edge.space import l2_normalize
from tests.trainer.harness.synthetic_material import DIM, clips_of, context_of, course_of, material_of
from trainer.harness.frozen import FrozenAnalytic, statistics_bytes
from trainer.harness.method import BudgetQuestion, Method, MethodContext
from trainer.harness.methods import known_methods
from trainer.harness.metrics import measures
from trainer.harness.run import Run, run_course
from trainer.protocols import Course, Session

FROZEN = ("frozen-analytic", "ncm", "lda", "teen", "linear-probe")
SMALL = {"frozen-analytic": {"lift_dim": "64", "ridge": "1"}, "lda": {"ridge": "1"}}
MATERIAL = material_of(clips_of(6), spread=0.5)


def built(name: str, context: MethodContext) -> Method:
    return known_methods()[name].build(context)


def run_grouped(name: str, classes_per_session: int, order_seed: int = 1993) -> tuple[Method, Run]:
    course = course_of(MATERIAL, order_seed=order_seed, classes_per_session=classes_per_session)
    method = built(name, context_of(MATERIAL, course, settings=SMALL.get(name)))
    return method, run_course(method, course, MATERIAL)


@pytest.mark.parametrize("name", ["frozen-analytic", "lda", "ncm"])
def test_every_grouping_and_order_ends_alike_to_the_bit(name: str) -> None:
    """PACE's table shows 75.87 for TIMIT-2 and TIMIT-3 alike: a frozen backbone ends at one head."""
    ends = [run_grouped(name, each, seed) for each, seed in ((2, 1993), (3, 1993), (1, 1994), (6, 1995), (4, 1996))]
    rows = np.arange(len(MATERIAL.clip), dtype=np.int64)
    labels, scores = ends[0][0].scores(rows)
    for method, run in ends:
        assert method.scores(rows)[0] == labels
        assert np.array_equal(method.scores(rows)[1], scores)
        assert run.correct == ends[0][1].correct
        assert measures(run).last == measures(ends[0][1]).last
    if isinstance(ends[0][0], FrozenAnalytic):
        assert len({method.figures()["statistics_sha256"] for method, _ in ends}) == 1


@pytest.mark.parametrize("name", FROZEN)
def test_classes_that_lie_apart_are_told_apart(name: str) -> None:
    material = material_of(clips_of(4), spread=0.02)
    course = course_of(material)
    run = run_course(built(name, context_of(material, course, settings=SMALL.get(name))), course, material)
    assert run.overall[-1] == pytest.approx(1.0, abs=0.2 if name == "teen" else 0.05)


@pytest.mark.parametrize("name", FROZEN)
def test_an_empty_session_and_an_old_class_again(name: str) -> None:
    clips = MATERIAL.clips
    own = {label: [i for i, c in enumerate(clips) if c.label == label] for label in ("c0", "c1")}
    sessions = (
        Session(1, ("c2",), ()),
        Session(2, ("c0",), tuple(own["c0"][:3])),
        Session(3, ("c1",), tuple(own["c1"][:6])),
        Session(4, ("c0",), tuple(own["c0"][3:6])),
    )
    course = Course(sessions, (own["c0"][7], own["c1"][7]), 0, "group", ("c2", "c0", "c1"))
    method = built(name, context_of(MATERIAL, course, settings=SMALL.get(name)))
    run = run_course(method, course, MATERIAL)
    labels, scores = method.scores(MATERIAL.rows([0]))
    assert sorted(labels) == ["c0", "c1"]
    assert np.isfinite(scores).all()
    assert run.n_asked == (0, 1, 1, 1)
    assert run.overall[0] is None
    assert method.figures()["memory_bytes"] > 0
    if name != "teen":
        plain = Course((Session(1, ("c0", "c1"), (*own["c0"][:6], *own["c1"][:6])),), course.test, 0, "group", ())
        once = built(name, context_of(MATERIAL, plain, settings=SMALL.get(name)))
        run_course(once, plain, MATERIAL)
        assert np.allclose(once.scores(MATERIAL.rows([0]))[1], scores, atol=0.05 if name == "linear-probe" else 0.0)


def learnt(name: str, settings: Mapping[str, str] | None = None) -> tuple[Method, MethodContext, Course]:
    course = course_of(MATERIAL)
    context = context_of(MATERIAL, course, settings=settings)
    method = built(name, context)
    for session in course.sessions:
        method.learn(session)
    return method, context, course


def class_rows(context: MethodContext, course: Course, label: str) -> np.ndarray:
    clips = [c for s in course.sessions for c in s.train if MATERIAL.clips[c].label == label]
    return l2_normalize(context.embeddings()[MATERIAL.rows(clips)])


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x)


def test_nearest_mean_is_the_cosine_to_the_mean_of_unit_embeddings() -> None:
    method, context, course = learnt("ncm")
    labels, scores = method.scores(np.arange(5, dtype=np.int64))
    means = np.array([unit(class_rows(context, course, label).mean(axis=0)) for label in labels])
    assert np.allclose(scores, l2_normalize(context.embeddings()[:5]) @ means.T, atol=1e-4)
    assert method.figures()["memory_bytes"] == 8 * 6 * (DIM + 1)


def test_teen_mixes_base_classes_into_later_ones_only() -> None:
    method, context, course = learnt("teen", {"alpha": "0.25", "temperature": "4"})
    base = course.sessions[0].labels
    means = {label: unit(class_rows(context, course, label).mean(axis=0)) for label in course.labels}
    labels, scores = method.scores(np.arange(5, dtype=np.int64))
    for i, label in enumerate(labels):
        row = means[label]
        if label not in base:
            weight = np.exp([4.0 * row @ means[b] for b in base])
            mixed = unit(np.sum([w * means[b] for w, b in zip(weight / weight.sum(), base, strict=True)], axis=0))
            row = unit(0.75 * row + 0.25 * mixed)
        assert np.allclose(scores[:, i], l2_normalize(context.embeddings()[:5]) @ row, atol=1e-4)
    assert method.figures()["n_base_classes"] == 2
    plain = learnt("teen", {"alpha": "0"})[0].scores(np.arange(5, dtype=np.int64))[1]
    assert np.allclose(plain, learnt("ncm")[0].scores(np.arange(5, dtype=np.int64))[1], atol=1e-12)


def test_the_probe_ends_where_its_loss_is_least() -> None:
    method, context, course = learnt("linear-probe", {"iterations": "300", "decay": "0.01"})
    clips = [c for s in course.sessions for c in s.train]
    rows = MATERIAL.rows(clips)
    labels, scores = method.scores(rows)
    target = torch.tensor([labels.index(name) for name in MATERIAL.labels_of_rows(rows)])
    x = context.embeddings()[rows]
    x = (x - x.mean(axis=0)) / (x.std(axis=0) + 1e-6)
    probability = torch.softmax(torch.from_numpy(scores), dim=1).numpy()
    probability[np.arange(len(rows)), target.numpy()] -= 1.0
    slope_of_bias = probability.mean(axis=0)
    assert np.abs(slope_of_bias).max() < 1e-3
    weights = np.linalg.lstsq(np.hstack([x, np.ones((len(x), 1))]), scores, rcond=None)[0][:-1]
    assert np.abs(x.T @ probability / len(x) + 0.01 * weights).max() < 5e-3
    assert method.figures()["stored_embeddings"] == len(rows)


def test_settings_that_make_no_sense_are_refused() -> None:
    for name, words in (("teen", {"alpha": "2"}), ("linear-probe", {"iterations": "0"}), ("ncm", {"ridge": "1"})):
        with pytest.raises(ConfigurationError):
            learnt(name, words)


def test_an_analytic_classifier_shrinks_to_a_budget_and_says_what_it_takes() -> None:
    fit = known_methods()["frozen-analytic"].fit
    assert fit is not None
    room = BudgetQuestion(statistics_bytes(1024, 6), DIM, 6)
    assert fit({"ridge": "1"}, room) == {"ridge": "1", "lift_dim": "1024"}
    assert fit({}, BudgetQuestion(10**9, DIM, 6)) == {}
    assert fit({}, BudgetQuestion(statistics_bytes(DIM, 6), DIM, 6)) == {"lift_dim": "none"}
    assert fit({}, BudgetQuestion(statistics_bytes(DIM, 6) - 1, DIM, 6)) is None
    method = run_grouped("frozen-analytic", 2)[0]
    assert method.figures()["memory_bytes"] == statistics_bytes(64, 6)
