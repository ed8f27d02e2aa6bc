"""Small embedding spaces and records for the tests of what a device remembers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edge.journal import Image, Journal
from edge.records import Record
from edge.space import EmbeddingSpace

SPACE = EmbeddingSpace("ab" * 32, sample_rate=16000, window_length=16000, hop_length=4000, dim=8)
OTHER_SPACE = EmbeddingSpace("cd" * 32, sample_rate=16000, window_length=16000, hop_length=4000, dim=8)


def example(label: str, seed: int, *, n_windows: int = 3, space: EmbeddingSpace = SPACE) -> Record:
    """Return a record whose embeddings (n_windows, dim) follow from ``seed`` alone."""
    rng = np.random.default_rng(seed)
    embeddings = rng.integers(-(2**14), 2**14, (n_windows, space.dim), dtype=np.int16)
    return Record(space.sha256, label, embeddings)


def teach(journal: Journal, *records: Record) -> tuple[str, ...]:
    return journal.teach(records, provenance=origins(len(records))).new_ids


def image(
    of: Record, seed: int, *, n_windows: int = 3, space: EmbeddingSpace = OTHER_SPACE, how: str = "clip"
) -> Image:
    """Return an image of ``of`` in ``space`` whose embeddings follow from ``seed`` alone."""
    embeddings = example("x", seed, n_windows=n_windows, space=space).embeddings
    return Image((of.space_sha256, of.content_sha256), embeddings, how)


def origins(n: int) -> Sequence[dict[str, Any]]:
    return [{"file": f"clip {i}.wav", "start_sample": [0], "source": "file"} for i in range(n)]


def picture(journal: Journal) -> dict[str, Any]:
    """Return all that a journal says it knows, to be compared with another's."""
    records = journal.records()
    return {
        "records": {i: (r.label, r.embeddings.tobytes()) for i, r in records.items()},
        "elsewhere": {i: r.embeddings.tobytes() for i, r in journal.records(OTHER_SPACE.sha256).items()},
        "disabled": journal.disabled_labels(),
        "history": [(e.seq, e.action, e.detail, e.n_records, e.undone) for e in journal.history()],
        "last": (journal.last_seq, journal.last_hash),
    }
