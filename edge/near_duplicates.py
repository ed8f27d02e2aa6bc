"""Examples that are almost the same: the same sound embedded on other hardware, or taught twice from two recordings.

Equality begins at the stored integers; this is the report for what falls just beside it. It changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge.records import Record

NEARLY_EQUAL = 0.995


@dataclass(frozen=True)
class NearDuplicate:
    """Two different records (by id) whose mean embeddings have cosine ``similarity``."""

    id: str
    label: str
    other_id: str
    other_label: str
    similarity: float


def mean_direction(record: Record) -> NDArray[np.float64]:
    """Return the unit vector (d,) along the mean of a record's embeddings; zero when the mean is zero."""
    mean = record.embeddings.mean(axis=0, dtype=np.float64)
    length = float(np.sqrt(mean @ mean))
    return np.asarray(mean / length if length > 0.0 else mean)


def near_duplicates(
    records: Iterable[Record], others: Iterable[Record], *, threshold: float = NEARLY_EQUAL
) -> list[NearDuplicate]:
    """Return the pairs of one of ``records`` and one of ``others``, of one space, with cosine >= ``threshold``.

    Ordered by falling similarity, then by ids; a record is no near-duplicate of itself. ``others`` is read once.
    """
    listed = list(records)
    if not listed:
        return []
    directions: dict[str, NDArray[np.float64]] = {}
    for space in {record.space_sha256 for record in listed}:
        directions[space] = np.stack([mean_direction(r) for r in listed if r.space_sha256 == space])
    members = {space: [r for r in listed if r.space_sha256 == space] for space in directions}
    found: set[NearDuplicate] = set()
    for other in others:
        if other.space_sha256 not in directions:
            continue
        similarity = directions[other.space_sha256] @ mean_direction(other)
        for position in np.flatnonzero(similarity >= threshold):
            record = members[other.space_sha256][position]
            if record.id != other.id:
                value = min(1.0, float(similarity[position]))
                found.add(NearDuplicate(record.id, record.label, other.id, other.label, value))
    return sorted(found, key=lambda pair: (-pair.similarity, pair.id, pair.other_id))
