"""A network in whole numbers: int8 weights for each output channel, int8 maps with one zero point, int32 sums.

A map's number is (stored - zero) * scale. Weights are symmetric, -127..127, with a scale for each output channel. A sum
becomes a map's number again by one multiplication with a 31-bit whole number and one shift, halves away from zero, so
that any processor gives the same bits (after Jacob et al. 2018, with rounding that needs no special instruction).
The last matrix product puts out float: its sums times a factor each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edge.errors import BundleError
from export.c.evaluate import evaluate
from export.c.network import Add, Conv, Network, Pool

TAILS = 1e-5
"""Share of a map's numbers that may lie beyond its range on either side, and is held at the end of it."""
BATCH = 16
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Scale:
    """real = (stored - zero) * step."""

    step: float
    zero: int


@dataclass(frozen=True)
class Rescaling:
    """round(value * multiplier / 2^shift), halves away from zero."""

    multiplier: int
    shift: int

    @classmethod
    def of(cls, factor: float) -> Rescaling:
        mantissa, exponent = math.frexp(factor)
        multiplier = round(mantissa * 2**31)
        if multiplier == 2**31:
            multiplier, exponent = 2**30, exponent + 1
        if not 1 <= 31 - exponent <= 62:
            raise BundleError(f"a map would have to be rescaled by {factor:.3g}; this network is no good in int8")
        return cls(multiplier, 31 - exponent)


@dataclass(frozen=True, eq=False)
class IntegerConv:
    """weights: (outputs, inputs, rows, columns) int8. bias: (outputs,) int32. out_scale: of the last product only."""

    weights: NDArray[np.int8]
    bias: NDArray[np.int32]
    rescaling: tuple[Rescaling, ...]
    out_scale: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class IntegerAdd:
    """(a - zero) * factor + (b - zero) * other_factor, over 2^shift, halves away from zero."""

    factor: int
    other_factor: int
    shift: int


@dataclass(frozen=True, eq=False)
class IntegerNetwork:
    """scales: of every map. steps: numbers of each step, in the order of ``network.steps``."""

    network: Network
    scales: Mapping[str, Scale]
    steps: tuple[IntegerConv | IntegerAdd | Rescaling, ...]
    n_windows: int = 0
    pool_steps: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)


def to_integers(network: Network, windows: NDArray[np.float32]) -> IntegerNetwork:
    """Choose scales on ``windows`` (n, window_length) float32 of sound. Raises BundleError."""
    if len(windows) == 0:
        raise BundleError("int8 needs windows of sound to take its ranges from; got none: give --data")
    ranges = _ranges(network, windows)
    vectors = {step.output for step in network.steps if isinstance(step, Pool)}
    scales = {n: _scale(float(low[0]), float(high[0])) for n, (low, high) in ranges.items() if n not in vectors}
    pooled = {name: _pool_scale(*ranges[name]) for name in vectors}
    steps: list[IntegerConv | IntegerAdd | Rescaling] = []
    for step in network.steps:
        if isinstance(step, Conv):
            columns = pooled[step.input][0] if step.input in pooled else None
            source = Scale(1.0, pooled[step.input][1]) if step.input in pooled else scales[step.input]
            target = None if step.output == network.output else scales[step.output]
            steps.append(_conv(step, source, columns, target))
        elif isinstance(step, Add):
            steps.append(_add(scales[step.input], scales[step.other], scales[step.output]))
        else:
            share = 1.0
            if step.kind == "mean":
                share /= network.shapes[step.input][0] * (step.end - step.begin)
            steps.append(Rescaling.of(share * scales[step.input].step / pooled[step.output][0][step.offset]))
    scales |= {name: Scale(1.0, zero) for name, (_, zero) in pooled.items()}
    return IntegerNetwork(network, scales, tuple(steps), len(windows), {n: s for n, (s, _) in pooled.items()})


def _ranges(network: Network, windows: NDArray[np.float32]) -> dict[str, tuple[Array, Array]]:
    """The least and the largest number of each map without its tails, (1,) each; of a vector of pools, (channels,), for
    each pool alike."""
    found: dict[str, list[NDArray[np.float32]]] = {}
    for begin in range(0, len(windows), BATCH):
        for name, values in evaluate(network, windows[begin : begin + BATCH]).items():
            found.setdefault(name, []).append(values)
    ranges: dict[str, tuple[Array, Array]] = {}
    pools: dict[str, list[Pool]] = {}
    for step in network.steps:
        if isinstance(step, Pool):
            pools.setdefault(step.output, []).append(step)
    for name, parts in found.items():
        values = np.concatenate(parts)
        if name in pools:
            low, high = np.zeros(values.shape[3]), np.zeros(values.shape[3])
            for pool in pools[name]:
                channels = slice(pool.offset, pool.offset + network.shapes[pool.input][2])
                low[channels], high[channels] = _without_tails(values[..., channels])
            ranges[name] = (low, high)
        else:
            ends = _without_tails(values)
            ranges[name] = (np.array(ends[:1]), np.array(ends[1:]))
    return ranges


def _without_tails(values: NDArray[np.float32]) -> tuple[float, float]:
    flat = np.sort(values, axis=None)
    n = int(TAILS * len(flat))
    return float(flat[n]), float(flat[-1 - n])


def _scale(low: float, high: float) -> Scale:
    least, most = min(0.0, low), max(0.0, high)
    step = max(most - least, 1e-6) / 255.0
    return Scale(step, int(np.clip(round(-128 - least / step), -128, 127)))


def _pool_scale(low: Array, high: Array) -> tuple[Array, int]:
    """A step for each channel of a vector of pools, and one zero point for all of it."""
    least, most = np.minimum(0.0, low), np.maximum(0.0, high)
    if not least.any():
        return np.maximum(most, 1e-6) / 255.0, -128
    return np.maximum(np.maximum(-least, most), 1e-6) / 127.0, 0


def _conv(step: Conv, source: Scale, columns: NDArray[np.float64] | None, target: Scale | None) -> IntegerConv:
    weights = step.weights.astype(np.float64)
    if columns is not None:
        weights = weights * columns[None, :, None, None]
    each = np.maximum(np.abs(weights).max(axis=(1, 2, 3)), 1e-12) / 127.0
    stored = np.clip(np.rint(weights / each[:, None, None, None]), -127, 127)
    unit = each * source.step
    bias = np.rint(step.bias.astype(np.float64) / unit)
    most = np.abs(stored).sum(axis=(1, 2, 3)) * 255.0 + np.abs(bias)
    if most.max() >= 2**31:
        raise BundleError(f"sums of {step.name!r} may reach {most.max():.3g}; wanted below 2^31: use float32")
    bias32 = bias.astype(np.int32)
    if target is None:
        return IntegerConv(stored.astype(np.int8), bias32, (), unit.astype(np.float32))
    factors = unit / target.step
    if (most * factors).max() >= 2**30:
        raise BundleError(f"{step.name!r} puts out numbers far beyond the range that it was seen to have; use float32")
    return IntegerConv(stored.astype(np.int8), bias32, tuple(Rescaling.of(float(f)) for f in factors))


def _add(a: Scale, b: Scale, target: Scale) -> IntegerAdd:
    """Factors below 2^21, so that two products of nine bits and half a unit stay below 2^31."""
    ratios = (a.step / target.step, b.step / target.step)
    shift = 20 - math.frexp(max(ratios))[1]
    if not 1 <= shift <= 30:
        raise BundleError(f"a sum would have to be rescaled by {max(ratios):.3g}; this network is no good in int8")
    return IntegerAdd(round(ratios[0] * 2**shift), round(ratios[1] * 2**shift), shift)
