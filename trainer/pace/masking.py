"""Masked copies of a sound: a stretch of time and a band of frequencies are replaced by the sound's own mean."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor


@dataclass(frozen=True)
class Masks:
    """Where n masks begin. time, frequency: (n,) int64 cells; widths: cells that each covers."""

    time: Tensor
    frequency: Tensor
    time_width: int
    frequency_width: int

    def __len__(self) -> int:
        return len(self.time)

    def __getitem__(self, rows: Tensor) -> Masks:
        return Masks(self.time[rows], self.frequency[rows], self.time_width, self.frequency_width)


def draw_masks(n: int, n_time: int, n_frequency: int, shares: tuple[float, float], generator: Generator) -> Masks:
    """Draw n masks that cover ``shares`` of time and of frequency, at places of equal chance.

    Source: Park et al. 2019 (SpecAugment), with fixed widths; PACE's Q(x, r_T, r_F).
    """
    time_width, frequency_width = round(shares[0] * n_time), round(shares[1] * n_frequency)
    return Masks(
        torch.randint(0, n_time - time_width + 1, (n,), generator=generator),
        torch.randint(0, n_frequency - frequency_width + 1, (n,), generator=generator),
        time_width,
        frequency_width,
    )


def masked(features: Tensor, masks: Masks, axes: tuple[int, int]) -> Tensor:
    """Features (n, ...) with the i-th mask applied to the i-th sample. axes: of time and of frequency."""
    time_axis, frequency_axis = axes
    hidden = _inside(features, masks.time, masks.time_width, time_axis)
    hidden = hidden | _inside(features, masks.frequency, masks.frequency_width, frequency_axis)
    mean = features.flatten(1).mean(dim=1).reshape(-1, *[1] * (features.ndim - 1))
    return torch.where(hidden, mean, features)


def _inside(features: Tensor, starts: Tensor, width: int, axis: int) -> Tensor:
    """Cells along ``axis`` that lie in [start, start + width), in a shape that broadcasts against ``features``."""
    shape = [1] * features.ndim
    shape[axis] = features.shape[axis]
    cells = torch.arange(features.shape[axis], device=features.device).reshape(shape)
    first = starts.to(features.device).reshape(-1, *[1] * (features.ndim - 1))
    return (cells >= first) & (cells < first + width)
