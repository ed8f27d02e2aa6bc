"""Masks: where they may lie, what they hide, and that nothing else moves."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.trainer.pace.small_lessons import KINDS, backbone_of, features_of
from trainer.pace.masking import Masks, draw_masks, masked

SHARES = st.floats(0.0, 1.0)


@given(st.integers(1, 20), st.integers(1, 20), SHARES, SHARES, st.integers(0, 10**6))
def test_drawn_masks_lie_inside_and_have_their_width(
    n_time: int, n_frequency: int, time: float, frequency: float, seed: int
) -> None:
    masks = draw_masks(50, n_time, n_frequency, (time, frequency), torch.Generator().manual_seed(seed))
    assert (masks.time_width, masks.frequency_width) == (round(time * n_time), round(frequency * n_frequency))
    assert int(masks.time.min()) >= 0 and int(masks.time.max()) + masks.time_width <= n_time
    assert int(masks.frequency.min()) >= 0 and int(masks.frequency.max()) + masks.frequency_width <= n_frequency


def test_every_place_is_drawn() -> None:
    masks = draw_masks(500, 6, 4, (0.5, 0.5), torch.Generator().manual_seed(0))
    assert set(masks.time.tolist()) == {0, 1, 2, 3} and set(masks.frequency.tolist()) == {0, 1, 2}


def test_the_hidden_cells_are_the_mean_and_the_others_as_they_were() -> None:
    features = torch.randn(3, 1, 5, 7, generator=torch.Generator().manual_seed(0))
    masks = Masks(torch.tensor([0, 2, 5]), torch.tensor([0, 3, 1]), 2, 1)
    got = masked(features, masks, (3, 2))
    wanted = features.clone()
    for i in range(3):
        t, f = int(masks.time[i]), int(masks.frequency[i])
        wanted[i, :, :, t : t + 2] = features[i].mean()
        wanted[i, :, f : f + 1, :] = features[i].mean()
    assert torch.allclose(got, wanted)
    assert torch.equal(got[wanted == features], features[wanted == features])


def test_no_share_hides_nothing_and_the_whole_share_everything() -> None:
    features = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    assert torch.equal(masked(features, draw_masks(2, 4, 6, (0.0, 0.0), generator), (1, 2)), features)
    flat = masked(features, draw_masks(2, 4, 6, (1.0, 0.0), generator), (1, 2))
    assert torch.allclose(flat, features.mean(dim=(1, 2), keepdim=True).expand_as(flat))


def test_every_kind_of_backbone_says_where_time_and_frequency_are() -> None:
    """Hiding all of the time but one step must leave one step along the axis of the frames."""
    for kind in KINDS:
        backbone = backbone_of(kind)
        features = features_of(backbone, 2)
        n = features.shape[backbone.time_axis]
        assert features.shape[backbone.frequency_axis] == (16 if kind == "student" else 128)
        masks = Masks(torch.zeros(2, dtype=torch.int64), torch.zeros(2, dtype=torch.int64), n - 1, 0)
        changed = masked(features, masks, (backbone.time_axis, backbone.frequency_axis)) != features
        kept = ~changed.transpose(backbone.time_axis, -1).flatten(0, -2).any(dim=0)
        assert kept.tolist() == [False] * (n - 1) + [True], kind


def test_some_rows_of_the_masks() -> None:
    masks = draw_masks(5, 8, 8, (0.3, 0.3), torch.Generator().manual_seed(0))
    part = masks[torch.tensor([4, 1])]
    assert len(part) == 2 and part.time.tolist() == masks.time[[4, 1]].tolist()
    assert part.time_width == masks.time_width
