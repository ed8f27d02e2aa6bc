"""Hypothesis strategies for features on the grid and the space that they live in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from edge.space import EmbeddingSpace, FeatureSpace, Grid

LABELS = ("bell", "dog", "kettle", "rain")


def feature_space(dim: int, *, backbone: str = "0", fraction_bits: int = 14) -> FeatureSpace:
    """A space of ``dim`` numbers without a lift."""
    return FeatureSpace(EmbeddingSpace(backbone * 64, 16_000, 16_000, 4_000, dim, Grid(fraction_bits)))


@dataclass(frozen=True, eq=False)
class Samples:
    """features: (n, d) int16. labels: n names."""

    space: FeatureSpace
    features: NDArray[np.int16]
    labels: tuple[str, ...]

    def take(self, order: Any) -> Samples:
        index = np.asarray(order, dtype=np.intp)
        return Samples(self.space, self.features[index], tuple(self.labels[i] for i in index))

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"Samples(d={self.space.dim}, labels={self.labels}, features={self.features.tolist()})"


@st.composite
def samples(draw: st.DrawFn, *, min_size: int = 0, max_size: int = 24, dim: int | None = None) -> Samples:
    """Any int16 whatever, also the extremes, zeros and duplicates."""
    d = draw(st.integers(1, 6)) if dim is None else dim
    n = draw(st.integers(min_size, max_size))
    features = draw(hnp.arrays(np.int16, (n, d), elements=st.integers(-32767, 32767), fill=st.just(0)))
    labels = draw(st.lists(st.sampled_from(LABELS), min_size=n, max_size=n))
    return Samples(feature_space(d), features, tuple(labels))
