"""Which device's labels harm a class: what it calls A is what the others call B.

Two kinds of evidence, both with the device taken out of the fleet's sum exactly:

* ``sums``: its class A is plainly nearer to B of the others, and it lies about as near to B as the classes of other
  devices lie to their own. Needs no embedding; A and B are known to at least two other devices each. Where a class of
  the others lies, no device counts with more windows than the median one: else a few that teach wrongly and a lot would
  make all the others look wrong.
* ``held out``: sounds of B from other devices, kept out of all sums, are lost by more than 2 points to the device's A.

An unusual sound of an honest device lies near no other class: ``sums`` does not accuse it, and what it costs the others
is reported as ``unusual``, never as a reason for quarantine. Nor can ``sums`` tell a wrong label from an odd recording
where a device taught fewer than two examples a class: that too is said as ``unusual``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.heads import TINY, LinearHead
from edge.records import BACKGROUND
from edge.scatter import ridge_term, within_scatter
from edge.space import FeatureSpace
from edge.statistics import StatisticsAccumulator, SufficientStatistics
from edge.statistics_file import PackedStatistics
from edge.symmetric import Array, kernels
from trainer.server.fleet_sum import FleetSum

MAX_DROP = 0.02
MIN_RECORDS = 3
"""So many held-out records more must be lost than won: fewer can be chance."""
MIN_OTHERS = 2
MIN_EXAMPLES = 2.0
"""Examples a class, on the average of a device. Of honest devices with one each about 2 % would be accused; of those
with two, none of 1,440 (ESC-50, shipped bundle)."""
PLAIN, PLAIN_TWICE = 0.4, 0.67
"""The squared distance to B is at most this share of that to A; the second where two labels of a device agree in it."""
TYPICAL = 1.5
"""The squared distance to B is at most this many times the median one of a device's class to the others'."""
RIDGE = 1.0
SUMS, HELD_OUT, UNUSUAL = "sums", "held out", "unusual"


@dataclass(frozen=True, eq=False)
class HeldOut:
    """One record kept out of the sums. label: the fleet's. embeddings: (n, d) int16."""

    device_id: str
    label: str
    embeddings: NDArray[np.int16]


@dataclass(frozen=True, eq=False)
class Member:
    """One device, by the fleet's labels. load: its packed statistics; called again rather than kept.

    n_records: with those of what it ignores.
    """

    device_id: str
    name: str
    labels: frozenset[str]
    n_records: int
    load: Callable[[], PackedStatistics]


@dataclass(frozen=True)
class Finding:
    """evidence: ``sums``, ``held out`` or ``unusual``. heard_as: class B. strength: above 1 is over the limit."""

    device_id: str
    device: str
    label: str
    heard_as: str
    evidence: str
    strength: float
    words: str
    quarantined: bool = False

    def to_json(self) -> dict[str, Any]:
        return {
            "device_id": self.device_id,
            "device": self.device,
            "label": self.label,
            "heard_as": self.heard_as,
            "evidence": self.evidence,
            "words": self.words,
            "quarantined": self.quarantined,
        }


@dataclass(frozen=True, eq=False)
class _Geometry:
    """Distances under the covariance within classes of a sum. whitened: (k, d) class means, L^-1 mu, A = L L'."""

    labels: tuple[str, ...]
    whitened: Array
    factor: Array
    mass: float

    @classmethod
    def of(
        cls,
        stats: SufficientStatistics,
        prior_scatter: Array | None,
        prior_mass: float,
        centres: Mapping[str, Array] | None = None,
    ) -> _Geometry:
        """centres: where the classes lie, each (d,); None: the means of ``stats``."""
        matrix = np.array(within_scatter(stats), order="F")
        if prior_scatter is not None:
            matrix += prior_scatter
        matrix[np.diag_indices_from(matrix)] += ridge_term(stats.space, RIDGE)
        factor = kernels().cholesky(matrix)
        if centres is None:
            centres = {k: mean for k, mean in zip(stats.labels, stats.means, strict=True) if k != BACKGROUND}
        places = np.ascontiguousarray(np.array(list(centres.values()), dtype=np.float64).T)
        whitened = kernels().lower_solve(factor, places).T
        return cls(tuple(centres), whitened, factor, stats.n_samples + prior_mass + RIDGE)

    def distances(self, points: Array) -> Array:
        """points: (m, d). Returns squared Mahalanobis distances to the class means (m, k)."""
        moved = kernels().lower_solve(self.factor, np.ascontiguousarray(points.T, dtype=np.float64)).T
        return np.asarray(self.mass * np.sum((moved[:, None, :] - self.whitened[None]) ** 2, axis=2))

    def head(self) -> LinearHead:
        """LDA with equal priors, as ``edge.heads.fit_lda``."""
        weights = self.mass * np.linalg.solve(self.factor.T, self.whitened.T)
        biases = np.asarray(-0.5 * self.mass * np.sum(self.whitened**2, axis=1), dtype=np.float64)
        return LinearHead(self.labels, np.asarray(weights, dtype=np.float64), biases)


@dataclass(frozen=True, eq=False)
class _Taught:
    """One class of one device. mean: (d,) of its windows."""

    n_windows: int
    mean: NDArray[np.float32]


@dataclass(frozen=True)
class _Near:
    """A class of a device under the head of the others: squared distances to that class and to the nearest other."""

    label: str
    other: str
    own: float
    others: float


@dataclass(frozen=True, eq=False)
class _Look:
    """What the fleet without one device says of it. heard: its labels to the class that its mean is nearest to.

    n_examples: how many it taught a class, on the average.
    """

    n_examples: float
    near: tuple[_Near, ...]
    heard: Mapping[str, str]
    drops: tuple[tuple[str, float, str], ...]
    """Class of the others' held-out sounds, share that is lost with the device in, and the class that most go to."""


class Examination:
    """The sum of some members, from which each is taken out in turn. prior: of the bundle, for its scatter only.

    Held-out records of a member must be part of what it loads.
    """

    def __init__(
        self,
        space: FeatureSpace,
        members: Sequence[Member],
        held_out: Sequence[HeldOut] = (),
        prior: SufficientStatistics | None = None,
    ) -> None:
        self.space = space
        self.members = {member.device_id: member for member in members}
        self._held_out = [record for record in held_out if record.label != BACKGROUND]
        self._prior_scatter = None if prior is None or prior.n_samples == 0 else within_scatter(prior)
        self._prior_mass = 0.0 if prior is None else float(prior.n_samples)
        self._total, self._learnt = FleetSum(space), FleetSum(space)
        self._own_held_out: dict[str, PackedStatistics] = {}
        self._taught: dict[str, dict[str, _Taught]] = {}
        for member in members:
            part = member.load()
            self._total.add(part)
            self._learnt.add(part)
            kept_out = [record for record in self._held_out if record.device_id == member.device_id]
            self._own_held_out[member.device_id] = sum_of(space, kept_out)
            self._learnt.subtract(self._own_held_out[member.device_id])
            self._taught[member.device_id] = _taught(part)
        self._known_by = Counter(label for member in members for label in member.labels)
        self._centres: dict[str, Array] = {}
        self._typical = float("inf")

    def remove(self, device_id: str) -> None:
        """Leave a device out from here on."""
        member = self.members.pop(device_id)
        part = member.load()
        self._total.subtract(part)
        self._learnt.add(self._own_held_out.pop(device_id))
        self._learnt.subtract(part)
        self._held_out = [record for record in self._held_out if record.device_id != device_id]
        self._known_by.subtract(member.labels)
        for label in self._taught.pop(device_id):
            self._centres.pop(label, None)

    def findings(self, suspects: Iterable[str] | None = None) -> list[Finding]:
        """Examine the suspects (ids; None: all), each against all others."""
        with_all = self._geometry(self._learnt).head() if self._held_out and self._learnt.labels else None
        looks = {i: self._look(self.members[i], with_all) for i in (self.members if suspects is None else suspects)}
        if suspects is None:
            own = [near.own for look in looks.values() for near in look.near]
            self._typical = float(np.median(own)) if own else float("inf")
        return [finding for i, look in looks.items() for finding in self._judged(self.members[i], look)]

    def _look(self, member: Member, with_all: LinearHead | None) -> _Look:
        part = member.load()
        self._total.subtract(part)
        near, heard = self._near(member, part)
        self._total.add(part)
        if with_all is None:
            return _Look(_examples(member, part), near, heard, ())
        own = self._own_held_out[member.device_id]
        self._learnt.add(own)
        self._learnt.subtract(part)
        drops = self._drops(member, with_all)
        self._learnt.add(part)
        self._learnt.subtract(own)
        return _Look(_examples(member, part), near, heard, drops)

    def _near(self, member: Member, part: PackedStatistics) -> tuple[tuple[_Near, ...], dict[str, str]]:
        """Where the device's class means lie among the others'; ``_total`` is without it at present."""
        if not set(self._total.labels) - {BACKGROUND}:
            return (), {}
        geometry = self._geometry(self._total, self._centres_without(member.device_id))
        place = {label: i for i, label in enumerate(geometry.labels)}
        taught = [label for label in part.labels if label != BACKGROUND]
        rows = [part.labels.index(label) for label in taught]
        squared = geometry.distances(part.sums[rows] / part.counts[rows, None])
        heard = {label: geometry.labels[int(np.argmin(row))] for label, row in zip(taught, squared, strict=True)}
        witnessed = [label for label in geometry.labels if self._others(member, label) >= MIN_OTHERS]
        near = []
        for label, row in zip(taught, squared, strict=True):
            rivals = [other for other in witnessed if other != label]
            if label in witnessed and rivals:
                other = min(rivals, key=lambda name: float(row[place[name]]))
                near.append(_Near(label, other, float(row[place[label]]), float(row[place[other]])))
        return tuple(near), heard

    def _drops(self, member: Member, with_all: LinearHead) -> tuple[tuple[str, float, str], ...]:
        """Which classes lose held-out sounds of the others by the device; ``_learnt`` is without it at present."""
        records = [r for r in self._held_out if r.device_id != member.device_id and r.label in self._learnt.labels]
        if not records or not set(self._learnt.labels) - {BACKGROUND}:
            return ()
        windows = np.concatenate([record.embeddings for record in records])
        owner = np.repeat(np.arange(len(records)), [len(record.embeddings) for record in records])
        truth = np.array([record.label for record in records], dtype=object)[owner]
        said = _said(with_all, windows)
        lost = (_said(self._geometry(self._learnt).head(), windows) == truth) * 1.0 - (said == truth)
        by_record = np.bincount(owner, lost, len(records)) / np.bincount(owner, minlength=len(records))
        drops = []
        for label in sorted({record.label for record in records}):
            of_class = by_record[[record.label == label for record in records]]
            drop, net = float(np.mean(of_class)), int(np.sum(np.sign(of_class)))
            if drop > MAX_DROP and net >= MIN_RECORDS:
                ((most, _),) = Counter(said[(truth == label) & (lost > 0)]).most_common(1)
                drops.append((label, drop, most))
        return tuple(drops)

    def _judged(self, member: Member, look: _Look) -> list[Finding]:
        found = []
        typical = [near for near in look.near if near.others <= TYPICAL * self._typical]
        suspicious = [near for near in typical if near.others <= PLAIN_TWICE * near.own]
        for near in suspicious:
            if len(suspicious) > 1 or near.others <= PLAIN * near.own:
                strength = near.own / max(near.others, TINY)
                words = (
                    f"device {member.name!r}: its {near.label!r} is what the other devices call {near.other!r} "
                    f"({strength:.1f} times nearer)"
                )
                evidence = SUMS
                if look.n_examples < MIN_EXAMPLES:
                    evidence, words = UNUSUAL, f"{words}; it taught too few examples to tell, so it stays in the sum"
                found.append(self._finding(member, near.label, near.other, evidence, strength, words))
        for label, drop, most in look.drops:
            points = f"{100 * drop:.1f} points"
            taken = most in member.labels and most != label and look.heard.get(most) == label
            if taken and self._others(member, most) >= 1:
                words = f"device {member.name!r}: its {most!r} costs {label!r} of the other devices {points}"
                found.append(self._finding(member, most, label, HELD_OUT, drop / MAX_DROP, words))
            elif taken:
                words = (
                    f"device {member.name!r} alone has {most!r}, which sounds like {label!r} of the others and costs "
                    f"it {points}; if it is the same sound, merge them with 'labels merge'"
                )
                found.append(self._finding(member, most, label, UNUSUAL, drop / MAX_DROP, words))
            elif label in member.labels:
                words = (
                    f"device {member.name!r} has an unusual {label!r}, which costs the others' {points}; if it is "
                    "another sound, give it a class of its own with 'labels split'"
                )
                found.append(self._finding(member, label, most, UNUSUAL, drop / MAX_DROP, words))
        return found

    def _finding(
        self, member: Member, label: str, heard_as: str, evidence: str, strength: float, words: str
    ) -> Finding:
        return Finding(member.device_id, member.name, label, heard_as, evidence, strength, words)

    def _geometry(self, total: FleetSum, centres: Mapping[str, Array] | None = None) -> _Geometry:
        return _Geometry.of(total.statistics(), self._prior_scatter, self._prior_mass, centres)

    def _centres_without(self, device_id: str) -> dict[str, Array]:
        """Where the classes of all devices but one lie, each (d,) float64."""
        own = self._taught[device_id]
        centres = {}
        for label in sorted({label for taught in self._taught.values() for label in taught}):
            if label in own:
                others = [taught[label] for i, taught in self._taught.items() if i != device_id and label in taught]
                if others:
                    centres[label] = self.centre_of(others)
            else:
                if label not in self._centres:
                    everyone = [taught[label] for taught in self._taught.values() if label in taught]
                    self._centres[label] = self.centre_of(everyone)
                centres[label] = self._centres[label]
        return centres

    @staticmethod
    def centre_of(taught: Sequence[_Taught]) -> Array:
        """Where a class lies by its devices, of which none counts with more windows than the median of them."""
        n = np.array([own.n_windows for own in taught], dtype=np.float64)
        weights = np.minimum(n, np.median(n))
        return np.asarray(weights @ np.array([own.mean for own in taught], dtype=np.float64) / weights.sum())

    def _others(self, member: Member, label: str) -> int:
        """How many other devices know a class."""
        return self._known_by[label] - (label in member.labels)


def accuse(examination: Examination) -> tuple[list[Finding], list[Finding]]:
    """Take out the worst offender, look again at those accused with it, until nobody is accused.

    One by one, because several that err alike hide each other and make honest devices look odd. Returns the evidence
    against each offender, and what was unusual in the end. The offenders are removed from ``examination``.
    """
    proven: list[Finding] = []
    while True:
        findings = examination.findings()
        unusual = [finding for finding in findings if finding.evidence == UNUSUAL]
        accused = [finding for finding in findings if finding.evidence != UNUSUAL]
        if not accused:
            return proven, unusual
        while accused:
            worst = max(accused, key=lambda finding: (finding.strength, finding.device_id)).device_id
            proven += [finding for finding in accused if finding.device_id == worst]
            examination.remove(worst)
            again = sorted({finding.device_id for finding in accused} - {worst})
            accused = [finding for finding in examination.findings(again) if finding.evidence != UNUSUAL]


def sum_of(space: FeatureSpace, records: Sequence[HeldOut]) -> PackedStatistics:
    """Return the sums of some records."""
    accumulator = StatisticsAccumulator(SufficientStatistics.zero(space))
    for record in records:
        accumulator.add(record.embeddings, record.label)
    return PackedStatistics.of(accumulator.snapshot())


def _taught(part: PackedStatistics) -> dict[str, _Taught]:
    """What a device taught by class, without what it ignores."""
    pairs = zip(part.labels, part.counts.tolist(), part.sums, strict=True)
    return {label: _Taught(n, (total / n).astype(np.float32)) for label, n, total in pairs if label != BACKGROUND and n}


def _examples(member: Member, part: PackedStatistics) -> float:
    """How many examples a class a device taught; those of what it ignores are told by their windows."""
    taught = [label != BACKGROUND for label in part.labels]
    share = float(part.counts[taught].sum()) / max(1, int(part.counts.sum()))
    return member.n_records * share / max(1, sum(taught))


def _said(head: LinearHead, windows: NDArray[np.int16]) -> NDArray[Any]:
    return np.asarray(np.array(head.labels, dtype=object)[np.argmax(head.scores(windows), axis=1)])
