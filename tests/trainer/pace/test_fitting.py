"""Training of one stage: what division, interruption, memory and precision may not change, and what stops it."""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.conftest import REPOSITORY
from tests.trainer.pace.shared_work import work
from tests.trainer.pace.small_lessons import (
    KINDS,
    backbone_of,
    bits,
    features_of,
    lesson,
    quick,
    sounds,
    student,
    ticking,
    unchanged,
)
from trainer.backbones.student import Student
from trainer.errors import TrainingError
from trainer.pace.adaptation import Adaptation
from trainer.pace.boundary import BoundarySet, axes_of, boundary_set, landmarks, masks_for
from trainer.pace.embedding import embed_features
from trainer.pace.fitting import Fitting, Lesson, Stage, torch_generator, warmed_head
from trainer.pace.lora import with_lora
from trainer.pace.masking import masked
from trainer.pace.settings import PaceSettings
from trainer.pace.subspace import UpdateProjection, leading_subspace, uncentred_covariances
from trainer.parallel import World

LESSON = lesson(1, n_classes=3, n_each=7)


def fitting_of(
    settings: PaceSettings | None = None,
    *,
    model: Student | None = None,
    boundary: bool = False,
    epochs: int = 3,
    train_head: bool = True,
    lesson: Lesson = LESSON,
    **more: Any,
) -> Fitting:
    """LoRA on the two last blocks, a warmed-up head, learning rates at which things move."""
    s = settings or quick()
    backbone = student()
    head = warmed_head(backbone, lesson, s)
    points = None
    if boundary:
        points = boundary_set(backbone, head, lesson.features, lesson.targets, s, torch_generator([1]))
        assert len(points) > 0
    lora = with_lora(model or backbone, "s", [2, 3], rank=2, alpha=2, seed=1)
    stage = Stage("backbone", 1, epochs, 0.05, 0.05)
    return Fitting(
        lora.model, head, lesson, stage, s, lora=lora, train_head=train_head, boundary=points, **more
    )  # fmt: skip


def trained(fitting: Fitting) -> Tensor:
    fitting.run()
    return torch.cat([p.detach().flatten() for p in fitting.trained])


@pytest.mark.parametrize("boundary", [False, True])
def test_accumulating_gradients_changes_nothing(boundary: bool) -> None:
    whole, start = trained(fitting_of(boundary=boundary)), trained(fitting_of(boundary=boundary, epochs=0))
    assert float((whole - start).abs().max()) > 1e-2
    for micro_batch in (1, 5, 100):
        part = trained(fitting_of(quick(micro_batch=micro_batch), boundary=boundary))
        assert float((part - whole).abs().max()) < 1e-5, micro_batch
    one = trained(fitting_of(quick(), boundary=boundary, epochs=1))
    assert float((trained(fitting_of(quick(micro_batch=1), boundary=boundary, epochs=1)) - one).abs().max()) < 2e-6


class Tight(Student):
    """On a device with room for so many samples and what their gradients need, and for so many without gradients."""

    room: int = 0
    room_asking: int = 10**9

    def feature_map(self, log_mel: Tensor) -> Tensor:
        if len(log_mel) > (self.room if torch.is_grad_enabled() else self.room_asking):
            raise RuntimeError(f"CUDA out of memory. Tried to allocate {len(log_mel)} samples")
        return super().feature_map(log_mel)


def tight(room: int, room_asking: int = 10**9) -> Tight:
    model, plain = Tight(student().settings), student()
    model.load_state_dict(plain.state_dict())
    model.room, model.room_asking = room, room_asking
    return model.eval()


@pytest.mark.parametrize(("room", "boundary", "least"), [(5, False, 4), (1, False, 1), (5, True, 2), (2, True, 1)])
def test_out_of_memory_goes_on_with_fewer_at_once(room: int, boundary: bool, least: int) -> None:
    """The same numbers as with room for all; with the boundary loss a sample brings its masked copy."""
    said: list[str] = []
    roomy = fitting_of(boundary=boundary, epochs=2)
    close = fitting_of(boundary=boundary, epochs=2, model=tight(room), say=said.append)
    assert float((trained(close) - trained(roomy)).abs().max()) < 1e-5
    assert close.micro_batch == least
    assert said[-1] == f"out of memory: going on with {least} samples at once"


def test_every_part_of_a_session_goes_on_with_fewer_at_once() -> None:
    """Probe, head, boundary set, landmarks, covariances: with room for five samples as with room for all."""
    ends, said = [], list[str]()
    for model in (tight(10**9), tight(5, 5)):
        adaptation = Adaptation(model, quick(epochs=1, misread_share=0.0), clock=ticking(), say=said.append)
        for number in (1, 2):
            adaptation.learn(lesson(number, n_classes=2, n_each=7), n_clips=14)
        ends.append(torch.cat([p.flatten() for p in adaptation.current.parameters()]))
    assert float((ends[0] - ends[1]).abs().max()) < 1e-5
    assert said.count("out of memory: going on with 4 samples at once") >= 8
    with pytest.raises(TrainingError, match="not even one sample"):
        Adaptation(tight(0, 0), quick(), clock=ticking()).learn(LESSON, n_clips=21)


def test_not_even_one_sample_is_said() -> None:
    with pytest.raises(TrainingError, match=r"not even one sample .* fits into memory; take a smaller backbone"):
        fitting_of(model=tight(0)).run()


def test_another_error_is_not_taken_for_lack_of_memory() -> None:
    wrong = Lesson(1, LESSON.features[:, :, :2, :2].repeat(1, 2, 1, 1), LESSON.targets, 3)
    fitting = fitting_of()
    fitting.lesson = wrong
    with pytest.raises(RuntimeError, match="should contain 2 elements"):
        fitting.run()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_names_session_and_epoch_and_moves_nothing(value: float) -> None:
    features = LESSON.features.clone()
    fitting = fitting_of(epochs=4)
    seen: list[int] = []
    before: list[Tensor] = []

    def spoil(now: Fitting, terms: dict[str, float]) -> None:
        seen.append(now.epoch)
        if now.epoch == 2:
            features[:] = value
            now.lesson = Lesson(1, features, LESSON.targets, 3)
            before.extend(p.detach().clone() for p in now.trained)

    with pytest.raises(TrainingError, match=r"not finite in session 1, backbone, epoch 3 .*lower learning rate"):
        fitting.run(spoil)
    assert seen == [1, 2] and fitting.epoch == 2
    assert all(torch.equal(p, b) for p, b in zip(fitting.trained, before, strict=True))


@pytest.mark.parametrize("boundary", [False, True])
@pytest.mark.parametrize("done", [1, 2])
def test_interrupted_and_resumed_is_uninterrupted_to_the_bit(done: int, boundary: bool) -> None:
    kept: dict[str, Tensor] = {}
    terms_of: dict[int, dict[str, float]] = {}

    def keep(now: Fitting, terms: dict[str, float]) -> None:
        terms_of[now.epoch] = terms
        if now.epoch == done:
            kept.update(now.state())

    whole = fitting_of(boundary=boundary)
    whole.run(keep)
    again = fitting_of(boundary=boundary)
    again.restore(kept, done)
    seen: list[tuple[int, dict[str, float]]] = []
    again.run(lambda now, terms: seen.append((now.epoch, terms)))
    assert seen == [(n, terms_of[n]) for n in range(done + 1, 4)]
    assert all(torch.equal(a, b) for a, b in zip(again.trained, whole.trained, strict=True))
    cold = fitting_of(boundary=boundary)
    cold.restore({k: v for k, v in kept.items() if k.startswith("parameter")}, done)
    assert not torch.equal(trained(cold), trained(again)), "momentum is part of the state"


def test_the_state_is_a_copy_and_the_state_of_another_stage_is_refused() -> None:
    fitting = fitting_of()
    fitting.run()
    state = fitting.state()
    kept = {k: v.clone() for k, v in state.items()}
    with torch.no_grad():
        for p in fitting.trained:
            p.add_(1.0)
    assert all(torch.equal(state[k], kept[k]) for k in kept)
    small = fitting_of(train_head=False)
    for other in (
        {**state, "parameter.0": torch.zeros(1)},
        {k: v for k, v in state.items() if k != "parameter.1"},
        {},
    ):
        with pytest.raises(TrainingError, match="saved state is of other parameters; repeat the options"):
            fitting_of().restore(other, 1)
    with pytest.raises(TrainingError, match="other parameters"):
        small.restore(state, 1)
    assert small.epoch == 0


def test_a_seed_decides_every_bit_and_another_decides_otherwise() -> None:
    one = trained(fitting_of(boundary=True))
    torch.manual_seed(123)
    np.random.seed(5)  # noqa: NPY002 - nobody may read it
    assert torch.equal(trained(fitting_of(boundary=True)), one)
    assert not torch.equal(trained(fitting_of(quick(seed=1), boundary=True)), one)


def test_each_epoch_and_stage_has_an_order_of_its_own() -> None:
    stage, later, other = Stage("a", 1, 3, 0.1, 0.1), Stage("a", 2, 3, 0.1, 0.1), Stage("b", 1, 3, 0.1, 0.1)
    seeds = [tuple(s.seeds(base, epoch)) for s in (stage, later, other) for base in (0, 1) for epoch in (0, 1)]
    assert len(set(seeds)) == len(seeds)
    assert stage.seeds(0, 1) == stage.seeds(0, 1)


def losses(fitting: Fitting) -> list[float]:
    found: list[float] = []
    fitting.run(lambda now, terms: found.append(terms["cross_entropy"]))
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_trains_and_embeddings_stay_float32(kind: str) -> None:
    backbone = backbone_of(kind)
    features, targets = features_of(backbone, 8), torch.arange(8) % 2
    own = Lesson(1, features, targets, 2)
    fallen = {}
    for precision in ("float32", "bfloat16"):
        s = quick(precision=precision, batch_size=8, max_gradient_norm=1.0)
        lora = with_lora(backbone, "s", range(len(backbone.blocks)), rank=4, alpha=4, seed=1)
        head = warmed_head(backbone, own, s)
        fitting = Fitting(lora.model, head, own, Stage("backbone", 1, 12, 0.05, 0.05), s, lora=lora)
        found = losses(fitting)
        assert all(p.dtype == torch.float32 for p in fitting.trained)
        assert embed_features(lora.model, features).dtype == torch.float32
        fallen[precision] = found[0] - found[-1]
        assert found[-1] < 0.98 * found[0], (precision, found)
    assert fallen["float32"] != fallen["bfloat16"], "the setting must reach the forward pass"


def test_the_learning_rate_falls_from_the_peak_to_zero_and_the_two_groups_have_their_own() -> None:
    fitting = fitting_of(epochs=5)
    fitting._peaks = [0.4, 0.2]
    rates: list[tuple[float, ...]] = []
    step = fitting.optimizer.step
    fitting.optimizer.step = lambda *a: (rates.append(tuple(g["lr"] for g in fitting.optimizer.param_groups)), step())  # type: ignore[method-assign]
    fitting.run()
    assert len(rates) == 5 * 3 and rates[0] == (0.4, 0.2)
    assert all(a[0] > b[0] and a[1] == a[0] / 2 for a, b in itertools.pairwise(rates))
    assert rates[-1][0] < 0.01


def test_a_gradient_is_clipped() -> None:
    moved = {}
    for most in (1e-3, 1e9):
        s = quick(max_gradient_norm=most, momentum=0.0, batch_size=21)
        fitting = fitting_of(s, epochs=1)
        before = torch.cat([p.detach().flatten() for p in fitting.trained])
        moved[most] = float(torch.linalg.norm(trained(fitting) - before))
    assert moved[1e-3] == pytest.approx(0.05 * 1e-3, rel=1e-3)
    assert moved[1e9] > 10 * moved[1e-3]


def test_a_frozen_head_keeps_every_bit_and_a_trained_one_moves() -> None:
    for train_head in (False, True):
        fitting = fitting_of(train_head=train_head)
        before = fitting.head.weight.detach().clone()
        fitting.run()
        assert torch.equal(fitting.head.weight, before) is not train_head


def test_the_warm_up_teaches_the_head_and_leaves_the_backbone() -> None:
    backbone = student()
    before = bits(backbone)
    errors = []
    for epochs in (0, 1, 20):
        head = warmed_head(backbone, LESSON, quick(head_epochs=epochs))
        assert not any(p.requires_grad for p in head.parameters())
        with torch.no_grad():
            logits = head(backbone.encode(LESSON.features))
        errors.append(float(nn.functional.cross_entropy(logits, LESSON.targets)))
    assert errors[0] > errors[1] > errors[2] and errors[2] < 0.5 * errors[0]
    assert unchanged(backbone, before)


def spread(fitting: Fitting, boundary: BoundarySet) -> tuple[float, float]:
    """How far samples are from the boundary, and how far masked copies of new sounds stray from their class.

    First: mean over the samples of (squared distance to the nearest copy of others in the boundary set - mean squared
    distance of the masked copies to the class centre). Second: mean squared distance of new masked sounds to their
    class centre, over that of the centres from each other: shrinking everything does not change it.
    """
    model, own = fitting.model, fitting.lesson
    assert isinstance(model, Student)
    marks = landmarks(model, own.features, own.targets, own.n_classes, boundary)

    def embedded(features: Tensor, seed: int) -> Tensor:
        masks = masks_for(model, features, len(features), fitting.settings, torch_generator([seed]))
        with torch.no_grad():
            return nn.functional.normalize(model.encode(masked(features, masks, axes_of(model))))

    with torch.no_grad():
        z = nn.functional.normalize(model.encode(own.features))
    away = torch.cdist(z, marks.points).square()
    away[torch.arange(len(z))[:, None] == marks.owner[None]] = torch.inf
    copies = torch.stack([embedded(own.features, seed) for seed in range(4)], dim=1)
    pull = (copies - marks.centres[own.targets][:, None]).square().sum(dim=2).mean(dim=1)
    features, targets = sounds(own.n_classes, 30, first=10, noise=1.5, seed=77)
    stray = (embedded(features, 9) - marks.centres[targets]).square().sum(dim=1).mean()
    return float((away.min(dim=1).values - pull).mean()), float(stray / torch.pdist(marks.centres).square().mean())


def test_the_boundary_loss_gathers_masked_copies_and_keeps_samples_off_the_boundary() -> None:
    """Switched off (weight 0), from the same start, copies stray and the nearest misread copy is nearer than they."""
    own = lesson(1, n_classes=3, n_each=8, noise=1.5)
    found = {}
    for weight in (0.0, 1.0):
        s = quick(boundary_weight=weight, views=8, misread_share=0.0)
        fitting = fitting_of(s, boundary=True, epochs=10, train_head=False, lesson=own)
        assert fitting.boundary is not None
        fitting.run()
        found[weight] = spread(fitting, fitting.boundary)
    assert found[1.0][0] > found[0.0][0] + 0.2, found
    assert found[1.0][1] < 0.8 * found[0.0][1], found


def test_without_a_boundary_set_there_is_no_boundary_loss() -> None:
    told: list[float] = []
    fitting_of(epochs=1).run(lambda now, terms: told.append(terms["boundary_loss"]))
    assert told == [0.0]


@pytest.mark.parametrize(("kind", "share"), [("leading", "outside"), ("complement", "inside")])
def test_the_projection_keeps_what_is_learnt_in_its_subspace(kind: Any, share: str) -> None:
    """Of the merged change, the part on the wrong side: none with the projection, a visible part without."""
    backbone = student()
    names = list(with_lora(backbone, "s", [2, 3], rank=2, alpha=2, seed=1).down)
    covariances = uncentred_covariances(backbone, names, LESSON.features)
    bases = {n: leading_subspace(c, 0.9).float() for n, c in covariances.items()}
    wrong: dict[str, list[float]] = {}
    for projection in (None, UpdateProjection(bases, kind)):
        fitting = fitting_of(epochs=6, projection=projection)
        assert fitting.lora is not None
        if projection is not None:
            projection.start(fitting.lora)
        fitting.run()
        deltas = {n: d.flatten(1) for n, d in fitting.lora.adapter().deltas().items()}
        inside = {n: d @ bases[n] @ bases[n].T for n, d in deltas.items()}
        parts = {n: inside[n] if share == "inside" else d - inside[n] for n, d in deltas.items()}
        wrong[str(projection is not None)] = [
            float(torch.linalg.norm(parts[n]) / torch.linalg.norm(d)) for n, d in deltas.items()
        ]
    assert max(wrong["True"]) < 1e-5 and min(wrong["False"]) > 0.05, wrong


def test_an_empty_lesson_or_no_epochs_is_no_training() -> None:
    empty = Lesson(1, LESSON.features[:0], LESSON.targets[:0], 0)
    lora = with_lora(student(), "s", [3], rank=2, alpha=2, seed=1)
    with pytest.warns(UserWarning, match="zero-element"):
        head = nn.Linear(16, 0)
    Fitting(lora.model, head, empty, Stage("backbone", 1, 3, 0.1, 0.1), quick(), lora=lora).run()
    assert not any(bool(b.any()) for b in lora.up.values())


def test_an_embedding_does_not_know_what_is_embedded_with_it() -> None:
    """To the bit, however windows are grouped: without filling up the last batch it would depend on it."""
    model = Student().eval()
    features = torch.randn(40, 1, 64, 98, generator=torch.Generator().manual_seed(0))
    whole = embed_features(model, features, 32)
    parts = [embed_features(model, features[i : i + n], 32) for i, n in ((0, 1), (1, 6), (7, 30), (37, 3))]
    assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(embed_features(model, features.flip(0), 32), whole.flip(0))
    with torch.no_grad():
        assert not torch.equal(model.encode(features[:1]), whole[:1]), "else nothing is shown here: try more windows"
        assert torch.allclose(model.encode(features), whole, atol=1e-5)
    assert embed_features(model, features[:0]).shape == (0, 256)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def compare(folder: Path) -> None:
    """What two processes found with what this one finds alone."""
    alone = work(World())
    both = [dict(np.load(folder / f"rank{r}.npz")) for r in (0, 1)]
    assert [w["world"].tolist() for w in both] == [[0, 2], [1, 2]]
    assert set(both[0]) == set(alone)
    for key in set(alone) - {"world"}:
        assert np.array_equal(both[0][key], both[1][key]), f"{key} differs between the two"
    for key in ("statistics", "embeddings", "n_boundary"):
        assert np.array_equal(both[0][key], alone[key]), key
    for key in ("head", "fitted", "gradient", "adapted", "terms"):
        np.testing.assert_allclose(both[0][key], alone[key], atol=1e-5, err_msg=key)
    assert np.abs(alone["gradient"]).max() > 1e-4 and alone["n_boundary"][0] > 0


def test_two_processes_under_torchrun_do_what_one_does(tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-addr", "127.0.0.1",
        "--master-port", str(free_port()), "-m", "tests.trainer.pace.shared_work", str(tmp_path),
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    compare(tmp_path)
