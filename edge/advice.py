"""Advice about a taught example. It never refuses anything: a person may know better.

All loudness is relative to full scale, all likeness is the cosine of mean embeddings.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge.hearing import Example
from edge.near_duplicates import NEARLY_EQUAL, mean_direction
from edge.records import Record

TOO_QUIET_DBFS = -50.0
CLIPPED_SHARE = 0.005
LITTLE_VARIATION_COSINE = 0.9975
SIMILAR_SHARE = 0.85
LITTLE_VARIATION_RECORDS = 3


@dataclass(frozen=True)
class Advice:
    """kind: "too_quiet", "clipped", "duplicate", "near_duplicate", "similar_class" or "little_variation"."""

    kind: str
    message: str


def about_level(example: Example) -> list[Advice]:
    """Too quiet or clipped: what the ear met, whatever is known."""
    advice = []
    loudest_dbfs = 10.0 * math.log10(max(float(example.levels.power.max(initial=0.0)), 1e-20))
    if loudest_dbfs < TOO_QUIET_DBFS:
        advice.append(
            Advice(
                "too_quiet", f"{example.name} is quiet: {loudest_dbfs:.0f} dBFS at its loudest; come closer if you can"
            )
        )
    clipped = float(example.levels.clipped.max(initial=0.0))
    if clipped > CLIPPED_SHARE:
        advice.append(
            Advice("clipped", f"{example.name} is clipped: {clipped:.1%} of a window at full scale; lower the gain")
        )
    return advice


def about_likeness(
    names: Sequence[str], records: Sequence[Record], known: Mapping[str, NDArray[np.float64]]
) -> list[Advice]:
    """The same as, or nearly the same as, an example of its class: one known before, or one earlier in this command.

    names: what to call each record in a sentence. known: record id -> ``mean_direction`` (d,) of the class's records.
    """
    ids = [*known, *(record.id for record in records)]
    new = np.stack([mean_direction(record) for record in records])
    every = np.vstack([*known.values(), new])
    advice = []
    for i, (name, record) in enumerate(zip(names, records, strict=True)):
        n_before = len(known) + i
        if record.id in known or record.id in ids[len(known) : n_before]:
            advice.append(Advice("duplicate", f"{name} is known already: the same example counts once"))
            continue
        cosines = every[:n_before] @ new[i]
        if n_before and cosines.max() >= NEARLY_EQUAL:
            like = ids[int(np.argmax(cosines))][:12]
            sentence = f"{name} is nearly the same recording as record {like}; another recording teaches more"
            advice.append(Advice("near_duplicate", sentence))
    return advice


def about_class(
    name: str,
    label: str,
    labels: Sequence[str],
    z: NDArray[np.float64],
    own_z: NDArray[np.float64],
    *,
    threshold: float,
) -> list[Advice]:
    """Heard as another class before it was learnt, nearly as strongly as that class hears its own examples.

    labels: (k,). z: (k,) means over the example's windows, before learning. own_z: (k,) of each class at its own mean.
    """
    if len(labels) == 0:
        return []
    best = int(np.argmax(z))
    if labels[best] == label or z[best] < max(threshold, SIMILAR_SHARE * own_z[best]):
        return []
    sentence = f"{name} sounds nearly the same as {labels[best]!r}; if they are one sound, use merge-classes"
    return [Advice("similar_class", sentence)]


def about_variation(label: str, directions: NDArray[np.float64]) -> list[Advice]:
    """All examples of a class alike. directions: (n, d), mean directions of its records."""
    if len(directions) < LITTLE_VARIATION_RECORDS:
        return []
    middle = directions.mean(axis=0)
    cosines = directions @ middle / max(float(np.linalg.norm(middle)), 1e-12)
    if cosines.min() < LITTLE_VARIATION_COSINE:
        return []
    sentence = (
        f"the {len(directions)} examples of {label!r} vary too little; record it from another place or on another day"
    )
    return [Advice("little_variation", sentence)]
