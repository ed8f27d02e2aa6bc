"""A fleet whose labels are right but for some devices': members, what each taught, and sounds that nobody taught."""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.audio import read_audio
from edge.bundle import open_bundle, shipped_bundles_path
from edge.embedder import Embedder
from edge.hearing import hear, sounding_example
from edge.records import Record
from edge.scatter import ridge_term, within_scatter
from edge.space import FeatureSpace, l2_normalize
from edge.statistics import StatisticsAccumulator, SufficientStatistics
from edge.statistics_file import PackedStatistics
from trainer.server.influence import HeldOut, Member

Sounds = Mapping[str, Sequence[NDArray[np.int16]]]
"""Class to the embeddings of its recordings, (n, d) each."""


@dataclass(frozen=True, eq=False)
class Material:
    space: FeatureSpace
    sounds: Sounds
    prior: SufficientStatistics | None = None


def real_sounds(data: Path, *, per_class: int = 24) -> Material:
    """Spoken digits of six speakers, heard with the shipped bundle: a window or so each."""
    bundle = open_bundle(shipped_bundles_path() / "ear")
    embedder, sounds = Embedder(bundle), defaultdict(list)
    with (data / "fsdd" / "meta.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for label in sorted({row["class"] for row in rows}):
        of_class = [row["clip"] for row in rows if row["class"] == label]
        for clip in of_class[:: len(of_class) // per_class][:per_class]:
            samples = read_audio(data / "fsdd" / clip, bundle.space.sample_rate)
            sounds[label].append(sounding_example(hear(samples, embedder), {}).embeddings)
    return Material(FeatureSpace(bundle.space), sounds, bundle.prior())


def drawn_sounds(space: FeatureSpace, *, n_classes: int = 8, per_class: int = 40, seed: int = 0) -> Material:
    """Classes around directions of chance; each recording has a place of its own, its windows lie around that."""
    rng = np.random.default_rng(seed)
    sounds: dict[str, list[NDArray[np.int16]]] = {}
    for label in "abcdefghijklmnop"[:n_classes]:
        centre = rng.standard_normal(space.dim)
        places = centre + 0.35 * rng.standard_normal((per_class, space.dim))
        windows = [place + 0.15 * rng.standard_normal((int(rng.integers(1, 4)), space.dim)) for place in places]
        sounds[label] = [space.embedding.grid.quantize(l2_normalize(w.astype(np.float32)))[0] for w in windows]
    return Material(space, sounds)


@dataclass
class Fleet:
    """taught: (label, embeddings) by device. truth: the same with right labels. asked: sounds that nobody taught."""

    material: Material
    taught: dict[str, list[tuple[str, NDArray[np.int16]]]]
    truth: dict[str, list[tuple[str, NDArray[np.int16]]]]
    asked: list[tuple[str, NDArray[np.int16]]]

    def members(self) -> list[Member]:
        return [self._member(name) for name in self.taught]

    def _member(self, name: str) -> Member:
        known = self.taught[name]
        part = self.sum_of(known)
        return Member(name, name, frozenset(label for label, _ in known), len(known), lambda: part)

    def held_out(self) -> list[HeldOut]:
        """A quarter of what was taught, as where owners share embeddings."""
        return [
            HeldOut(name, label, windows)
            for d, (name, known) in enumerate(self.taught.items())
            for i, (label, windows) in enumerate(known)
            if (i + d) % 4 == 0
        ]

    def records(self, name: str) -> list[Record]:
        return [Record(self.material.space.embedding.sha256, label, rows) for label, rows in self.taught[name]]

    def sum_of(self, known: Sequence[tuple[str, NDArray[np.int16]]]) -> PackedStatistics:
        total = StatisticsAccumulator(SufficientStatistics.zero(self.material.space))
        for label, windows in known:
            total.add(windows, label)
        return PackedStatistics.of(total.snapshot())

    def accuracy(self, *, without: Sequence[str] = (), right: bool = False) -> float:
        """Share of the asked sounds that the fleet's read-out names rightly. right: had nobody erred."""
        known = self.truth if right else self.taught
        stats = self.sum_of([pair for name in known if name not in without for pair in known[name]]).unpacked()
        return accuracy(stats, self.asked, self.material.prior)

    @property
    def flipped(self) -> set[str]:
        return {name for name in self.taught if self.taught[name] is not self.truth[name]}


def fleet_of(
    material: Material, seed: int, *, n_devices: int = 20, n_known: int = 5, n_records: tuple[int, int] = (2, 4)
) -> Fleet:
    """Devices that each know some of the classes, by some recordings each; all labels are right."""
    rng = np.random.default_rng(seed)
    pool = {k: [v[i] for i in rng.permutation(len(v))] for k, v in material.sounds.items()}
    asked = [(label, windows) for label in pool for windows in pool[label][-8:]]
    labels, devices = sorted(pool), {}
    for d in range(n_devices):
        own = [labels[i] for i in rng.permutation(len(labels))[:n_known]]
        devices[f"device {d:02d}"] = [
            (label, pool[label][i])
            for label in own
            for i in rng.permutation(len(pool[label]) - 8)[: int(rng.integers(n_records[0], n_records[1] + 1))]
        ]
    return Fleet(material, devices, dict(devices), asked)


def flip(fleet: Fleet, name: str, names: Mapping[str, str]) -> None:
    """Have a device call its sounds by other names."""
    fleet.taught[name] = [(names.get(label, label), windows) for label, windows in fleet.truth[name]]


def rotate(fleet: Fleet, name: str) -> None:
    """Each class of the device gets the name of its next one."""
    own = sorted({label for label, _ in fleet.truth[name]})
    flip(fleet, name, {label: own[(i + 1) % len(own)] for i, label in enumerate(own)})


def teach_a_lot(fleet: Fleet, name: str, seed: int, *, n_records: int = 12, n_classes: int = 4) -> None:
    """Have a device teach the first classes, right as yet, by many recordings."""
    rng = np.random.default_rng(seed)
    labels = sorted(fleet.material.sounds)[:n_classes]
    kept_out = {windows.tobytes() for _, windows in fleet.asked}
    known = []
    for label in labels:
        free = [w for w in fleet.material.sounds[label] if w.tobytes() not in kept_out]
        known += [(label, free[i]) for i in rng.permutation(len(free))[:n_records]]
    fleet.truth[name] = fleet.taught[name] = known


def swap_pairs(fleet: Fleet, name: str, n_classes: int = 4) -> None:
    """The first class for the second and back, the third for the fourth and back."""
    labels = sorted(fleet.material.sounds)[:n_classes]
    flip(fleet, name, {label: labels[i ^ 1] for i, label in enumerate(labels)})


def accuracy(
    stats: SufficientStatistics, asked: Sequence[tuple[str, NDArray[np.int16]]], prior: SufficientStatistics | None
) -> float:
    """LDA with equal priors, by the textbook; most windows decide about a sound."""
    scatter, n = within_scatter(stats), float(stats.n_samples)
    if prior is not None:
        scatter, n = scatter + within_scatter(prior), n + prior.n_samples
    matrix = scatter + np.eye(stats.dim) * ridge_term(stats.space, 1.0)
    weights = n * np.linalg.solve(matrix, stats.means.T)
    biases = -0.5 * np.sum(stats.means.T * weights, axis=0)
    right = []
    for label, windows in asked:
        said = np.argmax(windows.astype(np.float64) @ weights + biases, axis=1)
        right.append(stats.labels[Counter(said.tolist()).most_common(1)[0][0]] == label)
    return float(np.mean(right))
