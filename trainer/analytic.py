"""The device's exact classifier inside a training run: the same statistics, grid, lift and read-outs.

Statistics of a run may mix the embeddings of several backbones f_1 .. f_T (PACE's multi-session stage never embeds an
old session again), so they live in a ``RunSpace``: they add up like any others, but nothing can write them to a memory
or a bundle. What a device gets is computed anew under the final backbone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from edge.errors import ConfigurationError, MisuseError
from edge.heads import LinearHead, fit_balanced_ridge, fit_lda, fit_ncm, fit_ridge
from edge.scatter import ridge_term
from edge.space import EmbeddingSpace, FeatureSpace, Grid, Lift, canonical_json, l2_normalize
from edge.statistics import BLOCK_ROWS, StatisticsAccumulator, SufficientStatistics, require_exact
from trainer.parallel import World

ReadOut = Literal["ridge", "balanced", "lda", "ncm"]
READ_OUTS: tuple[ReadOut, ...] = ("ridge", "balanced", "lda", "ncm")


@dataclass(frozen=True)
class RunSpace(FeatureSpace):
    """The space of one training run. run: its name. Equal to no space of a bundle, and never stored."""

    storable: ClassVar[bool] = False

    run: str = ""

    @property
    def sha256(self) -> str:
        return hashlib.sha256(canonical_json({"run": self.run, **asdict(self)})).hexdigest()


@dataclass(frozen=True)
class AnalyticSettings:
    """lift_dim: width of the random expansion, None for none; lift_shift: bits it is shifted by (``edge.space.Lift``).

    ridge: isotropic windows, a power of two; ``ncm`` has none. read_out: how the head is read from the statistics.
    """

    lift_dim: int | None = 8192
    lift_shift: int = 3
    ridge: float = 1024.0
    read_out: ReadOut = "ridge"

    def __post_init__(self) -> None:
        if self.read_out not in READ_OUTS:
            raise ConfigurationError(f"read_out is {self.read_out!r}; wanted one of {', '.join(READ_OUTS)}")


class AnalyticClassifier:
    """What ``edge`` learns and reads out, for embeddings (n, dim) float32 of a run. Order changes no bit."""

    def __init__(
        self,
        dim: int,
        *,
        settings: AnalyticSettings = AnalyticSettings(),
        space_name: str,
        device: torch.device | str = "cpu",
    ) -> None:
        lift = None if settings.lift_dim is None else Lift(settings.lift_dim, settings.lift_shift)
        embedding = EmbeddingSpace("0" * 64, 16000, 1, 1, dim, Grid())
        self.space = RunSpace(embedding, lift, run=space_name)
        self.settings = settings
        self.device = torch.device(device)
        self._sums = StatisticsAccumulator(SufficientStatistics.zero(self.space))
        self._on_device = self.device.type != "cpu"
        self._known: SufficientStatistics | None = None
        self._head: LinearHead | None = None

    def features(self, embeddings: NDArray[np.float32]) -> NDArray[np.int16]:
        """Unit length, grid, lift: (n, dim) float32 to (n, d) int16, a block at a time."""
        parts = [np.zeros((0, self.space.dim), dtype=np.int16)]
        for start in range(0, len(embeddings), BLOCK_ROWS):
            quantized, _ = self.space.embedding.grid.quantize(l2_normalize(embeddings[start : start + BLOCK_ROWS]))
            parts.append(self.space.features(quantized)[0])
        return np.concatenate(parts)

    def learn(self, embeddings: NDArray[np.float32], labels: Sequence[str]) -> None:
        """Take in n embeddings (n, dim) float32 with their classes. Raises MisuseError, StatisticsOverflowError."""
        if len(labels) != len(embeddings):
            raise MisuseError(f"{len(embeddings)} embeddings came with {len(labels)} labels; give one label to each")
        names = np.array(labels, dtype=object)
        for label in sorted(set(labels)):
            features = self.features(embeddings[names == label])
            if self._on_device:
                self.add(sums_on_device(self.space, features, label, self.device))
            else:
                self._sums.add(features, label)
        self._known = self._head = None

    def learn_together(self, embeddings: NDArray[np.float32], labels: Sequence[str], world: World) -> None:
        """``learn`` shared out: each process sums a share of the rows, and all end with the same bits."""
        if world.size == 1:
            self.learn(embeddings, labels)
            return
        own = StatisticsAccumulator(SufficientStatistics.zero(self.space))
        mine = np.array(world.mine(len(labels)), dtype=np.int64)
        names = np.array(labels, dtype=object)[mine]
        for label in sorted(set(names.tolist())):
            own.add(self.features(embeddings[mine[names == label]]), label)
        self.add(sum_over_processes(self.space, own.snapshot(), sorted(set(labels)), world))

    def add(self, statistics: SufficientStatistics) -> None:
        """Take in statistics of the same run, those of another process say. Raises SpaceMismatchError."""
        self._sums = StatisticsAccumulator(self._sums.snapshot() + statistics)
        self._known = self._head = None

    @property
    def statistics(self) -> SufficientStatistics:
        """What was learnt so far."""
        if self._known is None:
            self._known = self._sums.snapshot()
        return self._known

    @property
    def head(self) -> LinearHead:
        """The read-out of what was learnt; a cache."""
        if self._head is None:
            self._head = self._fit(self.statistics)
        return self._head

    def scores(self, embeddings: NDArray[np.float32]) -> tuple[tuple[str, ...], NDArray[np.float64]]:
        """Labels (k,) and scores (n, k) of embeddings (n, dim) float32; none of either before anything is learnt."""
        if not self.statistics.labels:
            return (), np.zeros((len(embeddings), 0))
        head = self.head
        parts = [np.zeros((0, len(head.labels)))]
        for start in range(0, len(embeddings), BLOCK_ROWS):
            parts.append(head.scores(self.features(embeddings[start : start + BLOCK_ROWS])))
        return head.labels, np.concatenate(parts)

    @property
    def memory_bytes(self) -> int:
        """Bytes that a learner keeps: counts, sums and one triangle of the gram, in float64; the lift is a seed."""
        d, k = self.space.dim, len(self.statistics.labels)
        return 8 * (k + k * d + d * (d + 1) // 2)

    def _fit(self, statistics: SufficientStatistics) -> LinearHead:
        if self.settings.read_out == "ncm":
            return fit_ncm(statistics)
        if self.settings.read_out == "lda":
            return fit_lda(statistics, ridge=self.settings.ridge)
        if self.settings.read_out == "balanced":
            return fit_balanced_ridge(statistics, ridge=self.settings.ridge)
        if self._on_device:
            return fit_ridge_on(statistics, ridge=self.settings.ridge, device=self.device)
        return fit_ridge(statistics, ridge=self.settings.ridge)


def sums_on_device(
    space: FeatureSpace, features: NDArray[np.int16], label: str, device: torch.device
) -> SufficientStatistics:
    """Statistics of n samples (n, d) int16 of one class, summed on ``device``: the same bits as ``edge`` gives.

    All products and sums are whole numbers below 2^53, so no order of adding rounds. Raises StatisticsOverflowError.
    """
    d = space.dim
    gram = torch.zeros((d, d), dtype=torch.float64, device=device)
    total = torch.zeros(d, dtype=torch.float64, device=device)
    for start in range(0, len(features), BLOCK_ROWS):
        rows = torch.from_numpy(features[start : start + BLOCK_ROWS].copy()).to(device).double()
        gram += rows.T @ rows
        total += rows.sum(dim=0)
    if len(features) == 0:
        return SufficientStatistics.zero(space)
    diagonal = gram.diagonal().cpu().numpy()
    require_exact("gram", diagonal, np.zeros_like(diagonal))
    counts = np.array([float(len(features))])
    return SufficientStatistics(space, (label,), counts, total.cpu().numpy()[None, :], gram.cpu().numpy())


def fit_ridge_on(statistics: SufficientStatistics, *, ridge: float, device: torch.device) -> LinearHead:
    """``edge.heads.fit_ridge`` without a prior, factorised on ``device`` in float64: for lifts of thousands."""
    matrix = torch.from_numpy(statistics.gram.copy()).to(device)
    matrix.diagonal().add_(ridge_term(statistics.space, ridge))
    factor = torch.linalg.cholesky(matrix)
    targets = torch.from_numpy(statistics.sums.copy()).to(device)
    weights = torch.cholesky_solve(targets.T.contiguous(), factor).cpu().numpy()
    return LinearHead(statistics.labels, np.ascontiguousarray(weights), np.zeros(len(statistics.labels)))


def sum_over_processes(
    space: FeatureSpace, own: SufficientStatistics, labels: Sequence[str], world: World
) -> SufficientStatistics:
    """The sum of what each process of ``world`` learnt, equal to the bit in all of them.

    own: of this process's share. labels: every class that any process met, sorted, the same in all; each process calls.
    """
    if world.size == 1:
        return own
    counts, sums = np.zeros(len(labels)), np.zeros((len(labels), space.dim))
    place = {label: i for i, label in enumerate(labels)}
    for i, label in enumerate(own.labels):
        counts[place[label]], sums[place[label]] = own.counts[i], own.sums[i]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    totals = [
        world.sum(torch.from_numpy(a).to(device)).cpu().numpy() for a in (counts, sums, np.array(own.gram, order="C"))
    ]
    require_exact("gram", np.diagonal(totals[2]), np.zeros(space.dim))
    return SufficientStatistics(space, tuple(labels), totals[0], totals[1], totals[2])
