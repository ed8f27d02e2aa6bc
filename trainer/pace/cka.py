"""Where a backbone begins to change: linear CKA of each block before and after a probe, and the boundary it gives."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def linear_cka(x: Tensor, y: Tensor) -> float:
    """Similarity of two representations (n, d1) and (n, d2) of the same n samples, in [0, 1].

    ||Y'X||_F^2 / (||X'X||_F ||Y'Y||_F) on centred columns: 1 up to rotation and scale, 1.0 where both are constant,
    0.0 where one is. Source: Kornblith et al. 2019.
    """
    x, y = (z.double() - z.double().mean(dim=0) for z in (x, y))
    if len(x) < x.shape[1]:  # the same norms from n x n matrices
        a, b = x @ x.T, y @ y.T
        cross, own = (a * b).sum(), torch.linalg.norm(a) * torch.linalg.norm(b)
    else:
        cross = (y.T @ x).square().sum()
        own = torch.linalg.norm(x.T @ x) * torch.linalg.norm(y.T @ y)
    if float(own) == 0.0:
        return float(not bool(x.any()) and not bool(y.any()))
    return min(float(cross / own), 1.0)


def boundary_block(similarities: Sequence[float], threshold: float) -> int:
    """The first block (from 0) less similar than ``threshold``; the last one when none is.

    Source: PACE, stage A; what happens when no block passes is our choice: something must be adapted.
    """
    below = [k for k, s in enumerate(similarities) if s < threshold]
    return below[0] if below else len(similarities) - 1
