"""Everything learnt anew in other orders gives the same bits; when it does not, it is said."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edge.errors import CorruptionError
from edge.hearing import Example, Levels
from edge.journal import Journal
from edge.learner import Learner
from edge.space import EmbeddingSpace, FeatureSpace
from edge.verification import verify_memory

SPACE = EmbeddingSpace("a" * 64, 8000, 4000, 2000, 6)


@pytest.fixture
def learner(tmp_path: Path) -> Iterator[Learner]:
    with Journal.open(tmp_path, space=SPACE) as journal:
        yield Learner(journal, FeatureSpace(SPACE))


def example(seed: int, n: int = 40) -> Example:
    embeddings = np.random.default_rng(seed).integers(-16384, 16385, (n, 6)).astype(np.int16)
    return Example(SPACE, embeddings, Levels(np.full(n, 0.1), np.full(n, 0.5), np.zeros(n)), {})


def test_an_empty_memory_is_whole(learner: Learner) -> None:
    verified = verify_memory(learner)
    assert (verified.n_records, verified.n_windows, verified.n_classes) == (0, 0, 0)


def test_what_it_counts(learner: Learner) -> None:
    learner.teach("bell", [example(1), example(2, n=1)])
    learner.teach("hum", [example(3)])
    learner.ignore([example(4)])
    verified = verify_memory(learner, rng=np.random.default_rng(5))
    assert verified.to_json() == {
        "statistics_sha256": learner.statistics_sha256,
        "n_records": 4,
        "n_windows": 121,
        "n_classes": 2,
    }


def test_sums_that_no_records_give_are_named(learner: Learner) -> None:
    learner.teach("bell", [example(1)])
    learner._taught.add(example(9).embeddings, "bell")
    with pytest.raises(CorruptionError, match="learnt anew backwards, the statistics differ"):
        verify_memory(learner)
