"""Terms of the loss, and the plan of the steps."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import ConfigurationError
from tests.trainer.distillation.synthetic_banks import settings, write_bank
from trainer.distillation.losses import Answers, shared_cross_entropy
from trainer.distillation.schedule import batches, learning_rate_at
from trainer.distillation.shards import Bank


def test_shared_cross_entropy_by_hand() -> None:
    """Two classes with log-odds log 3: p = 1/4, 3/4. Row 0 is 60 % class 0 and 40 % class 1, row 1 has no label."""
    logits = torch.tensor([[0.0, np.log(3.0)], [5.0, -5.0]])
    labels = torch.tensor([[0, 1], [-1, -1]])
    share = torch.tensor([0.6, 0.3])
    plain = -(0.6 * np.log(0.25) + 0.4 * np.log(0.75))
    assert shared_cross_entropy(logits, labels, share, 0.0).item() == pytest.approx(plain, rel=1e-5)
    uniform = -(np.log(0.25) + np.log(0.75)) / 2.0
    smoothed = shared_cross_entropy(logits, labels, share, 0.2).item()
    assert smoothed == pytest.approx(0.8 * plain + 0.2 * uniform, rel=1e-5)


def test_a_missing_second_label_takes_its_weight_with_it() -> None:
    logits = torch.tensor([[0.0, np.log(3.0)]] * 4)
    labels, share = torch.tensor([[0, -1]] * 4), torch.full((4,), 0.5)
    assert shared_cross_entropy(logits, labels, share, 0.0).item() == pytest.approx(np.log(4.0), rel=1e-5)
    assert shared_cross_entropy(logits, -torch.ones_like(labels), share, 0.1).item() == 0.0


def test_a_term_of_weight_zero_or_without_a_row_is_absent(tmp_path: Path) -> None:
    bank = Bank(write_bank(tmp_path / "bank"))
    answers = Answers(8, bank)
    batch = bank.batch(np.arange(32))
    embedding = torch.randn(32, 8)
    terms = answers.losses(embedding, batch, settings(sound_label_weight=0.5))
    assert list(terms) == ["sound", "speech", "sound_scores", "sound_label", "word_label"]
    assert "sound_label" not in answers.losses(embedding, batch, settings())
    batch["speech_mask"][:] = False
    assert "speech" not in answers.losses(embedding, batch, settings())


def test_terms_scale_with_their_weights_and_are_zero_for_the_right_answer(tmp_path: Path) -> None:
    bank = Bank(write_bank(tmp_path / "bank"))
    answers = Answers(6, bank)
    batch = bank.batch(np.arange(64))
    target = answers.standardized("sound", batch["sound"])
    assert target.abs().max() <= 5.0
    with torch.no_grad():
        answers.heads["sound"].weight.copy_(torch.eye(6))
        answers.heads["sound"].bias.zero_()
        assert answers.losses(target, batch, settings())["sound"].item() == pytest.approx(0.0, abs=1e-5)
        one, three = (answers.losses(target.flip(1), batch, settings(sound_weight=w))["sound"] for w in (1.0, 3.0))
    assert three.item() == pytest.approx(3.0 * one.item(), rel=1e-5)
    assert one.item() > 0.5


def test_learning_rate_rises_falls_and_ends_at_zero() -> None:
    s = settings(steps=100, warmup_steps=10, learning_rate=1.0)
    rates = [learning_rate_at(step, s) for step in range(101)]
    np.testing.assert_allclose(rates[:10], np.arange(1, 11) / 10)
    assert rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5)
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))
    assert rates[100] == pytest.approx(0.0, abs=1e-12)
    assert learning_rate_at(1000, s) == pytest.approx(0.0, abs=1e-12)


@given(n=st.integers(8, 60), batch_size=st.integers(2, 8), steps=st.integers(1, 30), first=st.integers(0, 30))
def test_rows_do_not_depend_on_where_one_began(n: int, batch_size: int, steps: int, first: int) -> None:
    s = settings(steps=steps, batch_size=batch_size)
    whole = list(batches(n, s, 0))
    assert len(whole) == steps
    rest = list(batches(n, s, first))
    assert len(rest) == max(0, steps - first)
    for a, b in zip(whole[first:], rest, strict=True):
        np.testing.assert_array_equal(a, b)
    epoch = np.concatenate(whole[: n // batch_size])
    assert len(np.unique(epoch)) == len(epoch)


def test_a_bank_smaller_than_a_batch_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="fewer than one batch of 8"):
        next(batches(7, settings(batch_size=8), 0))
