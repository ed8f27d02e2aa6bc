"""The boundary set and its loss: against loops written from the formula, and what is excluded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.trainer.pace.small_lessons import QUICK, quick, sounds, student
from trainer.backbones.student import Student
from trainer.pace.boundary import BoundarySet, Landmarks, axes_of, boundary_loss, boundary_set, landmarks, masks_for
from trainer.pace.masking import masked
from trainer.pace.settings import PaceSettings


def unit(x: Any) -> Any:
    return x / np.linalg.norm(x)


def by_formula(z: Any, views: Any, targets: Any, sample: Any, centres: Any, points: Any, owner: Any, m: float) -> Any:
    """max(0, delta + mean_u |f(u) - mu_c|^2 - min_b |f(x) - b|^2), a sample at a time."""
    found = []
    for i in range(len(z)):
        seen = [unit(z[i]), *[unit(v) for v in views[i]]]
        pull = np.mean([np.sum((u - centres[targets[i]]) ** 2) for u in seen])
        away = [np.sum((unit(z[i]) - unit(b)) ** 2) for b, o in zip(points, owner, strict=True) if o != sample[i]]
        found.append(max(0.0, m + pull - min(away)) if away else 0.0)
    return found


@given(st.integers(1, 6), st.integers(0, 3), st.integers(0, 5), st.floats(0.0, 2.0), st.integers(0, 10**6))
def test_the_loss_is_its_formula(n: int, v: int, m: int, margin: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    z, views, points = (rng.standard_normal(shape) for shape in ((n, 4), (n, v, 4), (m, 4)))
    centres = 0.5 * rng.standard_normal((3, 4))
    targets, sample, owner = rng.integers(0, 3, n), rng.permutation(8)[:n], rng.integers(0, 8, m)
    normed = points / np.linalg.norm(points, axis=1, keepdims=True)
    marks = Landmarks(torch.tensor(centres), torch.tensor(normed), torch.tensor(owner))
    got = boundary_loss(
        torch.tensor(z), torch.tensor(views), torch.tensor(targets), torch.tensor(sample), marks, margin
    )
    wanted = by_formula(z, views, targets, sample, centres, points, owner, margin)
    np.testing.assert_allclose(got.numpy(), wanted, atol=1e-9)


def test_own_copies_are_no_boundary() -> None:
    """The same place as a stranger's copy pushes, as one's own it does not."""
    z, views = torch.eye(3)[:1], torch.eye(3)[None, :1]
    centre, point = torch.eye(3)[:1], torch.eye(3)[:1]
    target, sample = torch.tensor([0]), torch.tensor([4])
    own = boundary_loss(z, views, target, sample, Landmarks(centre, point, torch.tensor([4])), 0.25)
    strange = boundary_loss(z, views, target, sample, Landmarks(centre, point, torch.tensor([5])), 0.25)
    assert own.tolist() == [0.0] and strange.tolist() == [0.25]


def test_the_gradient_flows_into_samples_and_views_alone_and_is_finite_everywhere() -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(4, 5, generator=generator, requires_grad=True)
    views = torch.randn(4, 2, 5, generator=generator, requires_grad=True)
    points = nn.functional.normalize(torch.cat([z.detach()[:1], torch.randn(3, 5, generator=generator)]))
    centres = torch.randn(2, 5, generator=generator) * 0.3
    for part in (points, centres):
        part.requires_grad_(True)
    marks = Landmarks(centres.detach(), points.detach(), torch.tensor([9, 1, 1, 1]))
    targets, sample = torch.tensor([0, 1, 0, 1]), torch.arange(4)
    torch.autograd.backward(boundary_loss(z, views, targets, sample, marks, 3.0).sum())
    assert z.grad is not None and views.grad is not None
    assert bool(torch.isfinite(z.grad).all()) and float(z.grad.abs().sum()) > 0.0
    assert bool(torch.isfinite(views.grad).all()) and float(views.grad.abs().sum()) > 0.0
    assert points.grad is None and centres.grad is None
    own_only = Landmarks(centres.detach(), points.detach(), torch.tensor([0, 0, 0, 0]))
    z.grad = None
    torch.autograd.backward(boundary_loss(z[:1], views[:1], targets[:1], sample[:1], own_only, 3.0).sum())
    assert bool(torch.isfinite(z.grad).all()) and not bool(z.grad.any()), "nobody else's copy: no loss, no gradient"


def test_an_empty_set_gives_zero() -> None:
    model, (features, targets) = student(), sounds(2, 3)
    settings = quick(misread_share=1.0)
    empty = boundary_set(model, nn.Linear(16, 2), features, targets, settings, torch.Generator().manual_seed(0))
    assert len(empty) == 0
    marks = landmarks(model, features, targets, 2, empty)
    assert marks.points.shape == (0, 16) and marks.centres.shape == (2, 16)
    loss = boundary_loss(torch.ones(6, 16), torch.ones(6, 1, 16), targets, torch.arange(6), marks, 0.25)
    assert loss.tolist() == [0.0] * 6


class ErrsOn(nn.Module):
    """A head that knows the samples by what masks leave of them, and is wrong about some."""

    def __init__(self, model: Student, features: Tensor, targets: Tensor, wrong: tuple[int, ...]) -> None:
        super().__init__()
        with torch.no_grad():
            self.known = model.encode(features)
        self.answers = targets.clone()
        self.answers[list(wrong)] = (targets[list(wrong)] + 1) % 2

    def forward(self, z: Tensor) -> Tensor:
        nearest = torch.cdist(z, self.known).argmin(dim=1)
        return nn.functional.one_hot(self.answers[nearest], 2).float()


def test_exactly_the_samples_that_a_head_errs_on() -> None:
    model, (features, targets) = student(), sounds(2, 4)
    settings = quick(time_masked=0.05, frequency_masked=0.0, views=3, misread_share=0.3)
    head = ErrsOn(model, features, targets, (1, 6))
    found = boundary_set(model, head, features, targets, settings, torch.Generator().manual_seed(0))
    assert found.sample.tolist() == [1, 1, 1, 6, 6, 6] and len(found.masks) == 6


def test_kept_are_misread_copies_of_prone_samples_one_a_sample_at_most_on_the_whole() -> None:
    """Against the definition, written out: a lower share makes more samples prone, and never fewer."""
    model, (features, targets) = student(), sounds(3, 8, noise=2.0)
    torch.manual_seed(0)
    head = nn.Linear(16, 3)
    masks = masks_for(model, features, 240, quick(), torch.Generator().manual_seed(0))
    owner = torch.arange(24).repeat_interleave(10)
    with torch.no_grad():
        misread = head(model.encode(masked(features[owner], masks, axes_of(model)))).argmax(dim=1) != targets[owner]
    n_misread = misread.reshape(24, 10).sum(dim=1)
    sizes = []
    for share in (0.0, 0.5, 0.8, 1.0):
        settings = quick(views=10, misread_share=share)
        found = boundary_set(model, head, features, targets, settings, torch.Generator().manual_seed(0))
        prone = n_misread > 10 * share
        assert len(found) == min(int(n_misread[prone].sum()), 24)
        assert bool(prone[found.sample].all())
        known = zip(owner[misread], masks.time[misread], masks.frequency[misread], strict=True)
        copies = {(int(s), int(t), int(f)) for s, t, f in known}
        kept = zip(found.sample, found.masks.time, found.masks.frequency, strict=True)
        assert {(int(s), int(t), int(f)) for s, t, f in kept} <= copies
        sizes.append(int(prone.sum()))
    assert sizes[0] > sizes[1] > sizes[-1] == 0


@pytest.mark.parametrize(("views", "misread"), [(20, 6), (10, 3), (3, 1), (7, 5), (30, 9)])
def test_a_share_that_is_just_reached_is_not_passed(views: int, misread: int) -> None:
    """Exactly the share is not more than the share, whatever thirds and tenths round to."""

    class Counting(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            wrong = torch.arange(len(z)) < misread
            return torch.stack([~wrong, wrong], dim=1).float()

    features, targets = sounds(1, 1)
    settings = quick(views=views, misread_share=misread / views)
    found = boundary_set(student(), Counting(), features, targets, settings, torch.Generator().manual_seed(0))
    assert len(found) == 0
    lower = quick(views=views, misread_share=misread / views - 0.01)
    assert len(boundary_set(student(), Counting(), features, targets, lower, torch.Generator().manual_seed(0))) > 0


def test_too_many_points_are_thinned_by_chance_of_the_seed() -> None:
    model, (features, targets) = student(), sounds(3, 8, noise=2.0)
    torch.manual_seed(0)
    head = nn.Linear(16, 3)

    def found(most: int, seed: int) -> BoundarySet:
        settings = PaceSettings(**{**QUICK, "most_boundary_points": most})
        return boundary_set(model, head, features, targets, settings, torch.Generator().manual_seed(seed))

    whole, thin = found(512, 0), found(5, 0)
    assert len(whole) > 5 == len(thin)
    assert torch.equal(thin.sample, found(5, 0).sample) and not torch.equal(thin.sample, found(5, 1).sample)
    assert len(set(thin.sample.tolist())) > 1, "not the copies of the first samples alone"


def test_landmarks_are_means_of_unit_vectors_and_units() -> None:
    model, (features, targets) = student(), sounds(2, 4)
    masks = masks_for(model, features, 3, quick(), torch.Generator().manual_seed(0))
    marks = landmarks(model, features, targets, 3, BoundarySet(torch.tensor([0, 5, 5]), masks), batch_size=3)
    with torch.no_grad():
        z = nn.functional.normalize(model.encode(features))
        copies = nn.functional.normalize(model.encode(masked(features[[0, 5, 5]], masks, axes_of(model))))
    assert torch.allclose(marks.centres[:2], torch.stack([z[:4].mean(0), z[4:].mean(0)]), atol=1e-5)
    assert torch.allclose(marks.points, copies, atol=1e-5)
    assert marks.owner.tolist() == [0, 5, 5]
    assert not marks.points.requires_grad and not bool(marks.centres[2].any()), "a class without samples"
