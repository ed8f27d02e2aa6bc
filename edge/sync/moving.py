"""How a memory moves to a new ear, and whether the device may take it: its own examples decide. No files are written.

A record whose clip was kept is embedded again. Else its embeddings go through the linear map that the bundle carries
for their space. A record that can do neither cannot move, and then the ear is not taken: no sound is lost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge.clips import ClipStore
from edge.decision import DecisionSettings, decide_clip
from edge.errors import SilenceError, StateError
from edge.heads import Background, fit_detection
from edge.hearing import WindowEmbedder, background_example, hear, sounding_example
from edge.journal import Image
from edge.journal_fold import Known
from edge.journal_reader import JournalReader
from edge.linear_map import ParentMap
from edge.readout import Readout
from edge.records import BACKGROUND, Record
from edge.snapshot import sum_of
from edge.space import FeatureSpace
from edge.statistics import SufficientStatistics

MAX_FALL = 0.02
MAX_ASKED = 200


@dataclass(frozen=True, eq=False)
class Moving:
    """images: to be written. n_clip, n_map: how they were made. n_kept: images that are as good as they can be already.

    stuck: records that cannot move, "label (id)".
    """

    images: tuple[Image, ...]
    n_clip: int
    n_map: int
    n_kept: int
    stuck: tuple[str, ...]

    @property
    def n_records(self) -> int:
        return self.n_clip + self.n_map + self.n_kept + len(self.stuck)

    def refusal(self) -> str | None:
        """Why the ear cannot be taken, or None."""
        if not self.stuck:
            return None
        named = ", ".join(self.stuck[:5])
        return (
            f"{len(self.stuck)} of {self.n_records} examples cannot move to the new ear: no clip of them is kept and "
            f"the bundle carries no map from their space ({named})"
        )


def move_records(
    journal: JournalReader,
    clips: ClipStore,
    embedder: WindowEmbedder,
    way: ParentMap | None,
    *,
    known_to: str | None = None,
    only: Sequence[Known] | None = None,
) -> Moving:
    """Make the image of every known record of another space, and of those that undo can bring back.

    An image that was made from sound stays; one that a map made is made anew. known_to: space of the ear in use; what
    that ear does not know, or what is forgotten, moves where it can and else stays behind. only: just these records.
    """
    space = embedder.space
    images: list[Image] = []
    stuck: list[str] = []
    how: Counter[str] = Counter()
    made = journal.images(space.sha256)
    natives = journal.natives()
    in_parent = journal.images(way.space.sha256) if way is not None else {}
    in_use = None if known_to is None else journal.images(known_to)
    chosen = [natives.about(i) for i in natives] if only is None else list(only)
    must = {n.id for n in chosen if in_use is None or n.space_sha256 == known_to or n.content in in_use}
    contents = {native.content for native in chosen}
    forgotten = journal.recoverable() if only is None else ()
    for native in [*chosen, *(known for known in forgotten if known.content not in contents)]:
        if native.space_sha256 == space.sha256:
            continue
        image = made.get(native.content)
        if image is not None and image.how != "map":
            how["kept"] += native.id in must
            continue
        embeddings = _from_clip(clips, native, embedder)
        kind = "clip"
        if embeddings is None and way is not None:
            kind = "map"
            source = native if native.space_sha256 == way.space.sha256 else None
            if source is None and native.content in in_parent:
                source = in_parent[native.content].of_label(native.label)
            if source is not None:
                embeddings = way.map.embeddings(journal.load(source).embeddings, way.space, space)
        if embeddings is None:
            if native.id in must:
                stuck.append(f"{native.label} ({native.id[:12]})")
            continue
        how[kind] += native.id in must
        images.append(Image(native.content, embeddings, kind))
    return Moving(tuple(images), how["clip"], how["map"], how["kept"], tuple(stuck))


def _from_clip(clips: ClipStore, native: Known, embedder: WindowEmbedder) -> NDArray[np.int16] | None:
    """Embed a record again by the rule of teaching; None without a clip at the rate of the new ear."""
    try:
        kept = clips.load(native.content_sha256)
        if kept is None or kept[1] != embedder.space.sample_rate:
            return None
        make = background_example if native.label == BACKGROUND else sounding_example
        return make(hear(kept[0], embedder), {}).embeddings
    except (SilenceError, StateError):
        return None


@dataclass(frozen=True)
class Accuracy:
    """n_right of n_asked of the device's own examples, each answered by what the others taught."""

    n_right: int
    n_asked: int

    @property
    def share(self) -> float:
        return self.n_right / self.n_asked if self.n_asked else 1.0


@dataclass(frozen=True)
class EarReadout:
    """How one ear answers: its read-out, its prior and its decision."""

    space: FeatureSpace
    readout: Readout
    prior: SufficientStatistics | None
    decision: DecisionSettings


def own_accuracy(ear: EarReadout, records: Mapping[str, Record], asked: Sequence[str]) -> Accuracy:
    """Leave each asked record out exactly, read the head out as the device does, and ask it for that record.

    records: all that is known in the ear's space. asked: ids of those that have a sibling. A class is right when the
    device would name it; an ignored record is right when the device would name nothing.
    """
    space, ignored_ids = ear.space, [i for i in records if records[i].label == BACKGROUND]
    taught = sum_of(space, (r for r in records.values() if r.label != BACKGROUND))
    ignored = sum_of(space, (records[i] for i in ignored_ids))
    background: Background = ear.readout.background(ignored, ear.prior)
    n_right = 0
    for i in asked:
        own = records[i]
        alone = sum_of(space, [own])
        if own.label == BACKGROUND:
            head = fit_detection(taught, ear.readout.background(ignored - alone, ear.prior), ridge=ear.readout.ridge)
        else:
            head = fit_detection(taught - alone, background, ridge=ear.readout.ridge)
        answer = decide_clip(head.labels, head.scores(space.features(own.embeddings)[0]), ear.decision).label
        n_right += answer == (None if own.label == BACKGROUND else own.label)
    return Accuracy(n_right, len(asked))


def to_ask(labels: Mapping[str, str]) -> list[str]:
    """Choose the records with a sibling of their label, at most ``MAX_ASKED``, evenly by id. labels: by record id."""
    n = Counter(labels.values())
    able = sorted(i for i, label in labels.items() if n[label] > 1)
    if len(able) <= MAX_ASKED:
        return able
    return [able[(k * len(able)) // MAX_ASKED] for k in range(MAX_ASKED)]


def falls_too_far(old: Accuracy, new: Accuracy) -> str | None:
    """Why the ear cannot be taken, or None: the own accuracy may fall by 2 points and no more."""
    if new.share >= old.share - MAX_FALL - 1e-12:
        return None
    return (
        f"with the new ear the accuracy would fall from {100 * old.share:.0f} % to {100 * new.share:.0f} % on your own "
        f"{old.n_asked} examples"
    )
