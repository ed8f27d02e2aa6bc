"""The int8 arithmetic of the C code beside one written anew in NumPy, from the words of docs/c_export.md."""

from __future__ import annotations

import ctypes
import functools
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge.errors import BundleError
from edge.space import l2_normalize
from export.c.evaluate import embeddings_of
from export.c.host import HostBuild, pcm_of
from export.c.integers import IntegerAdd, IntegerConv, IntegerNetwork, Rescaling, to_integers
from export.c.library import Library
from export.c.network import Add, Conv
from export.c.plan import plan_arena
from tests.export.c.written import made_windows, written

Int64 = NDArray[np.int64]


def away(value: Int64, shift: int | Int64) -> Int64:
    """value / 2^shift, halves away from zero."""
    half = np.int64(1) << (np.asarray(shift, dtype=np.int64) - 1)
    return np.asarray(np.sign(value) * ((np.abs(value) + half) >> shift))


def down(value: Int64, shift: int | Int64) -> Int64:
    """A wrong one: halves go up, as a plain shift after adding a half does."""
    return np.asarray((value + (np.int64(1) << (np.asarray(shift, dtype=np.int64) - 1))) >> shift)


def cut(value: Int64, shift: int | Int64) -> Int64:
    """Another wrong one: nothing is rounded."""
    return np.asarray(value >> np.asarray(shift, dtype=np.int64))


def reference(integers: IntegerNetwork, features: NDArray[np.int8], rounded: Any = away) -> NDArray[np.float32]:
    """features: (n, bands, frames) int8. Returns (n, dim) float32. Loops over taps; nothing of it is the C's way."""
    network = integers.network
    maps: dict[str, Int64] = {network.front_end.output: features.astype(np.int64)[..., None]}
    for step, numbers in zip(network.steps, integers.steps, strict=True):
        zero = integers.scales[step.input].zero
        target = integers.scales[step.output].zero if step.output != network.output else 0
        x = maps[step.input]
        if isinstance(step, Conv):
            assert isinstance(numbers, IntegerConv)
            rows, columns, _ = network.shapes[step.output]
            total = np.zeros((len(x), rows, columns, len(step.bias)), dtype=np.int64) + numbers.bias.astype(np.int64)
            for y in range(rows):
                for z in range(columns):
                    for i in range(step.weights.shape[2]):
                        for j in range(step.weights.shape[3]):
                            a, b = y * step.stride[0] + i - step.pads[0], z * step.stride[1] + j - step.pads[1]
                            if 0 <= a < x.shape[1] and 0 <= b < x.shape[2]:
                                w = numbers.weights[:, :, i, j].astype(np.int64)
                                total[:, y, z] += (x[:, a, b] - zero) @ w.T
            if numbers.out_scale is not None:
                return np.asarray(total[:, 0, 0].astype(np.float32) * numbers.out_scale)
            factor = np.array([r.multiplier for r in numbers.rescaling], dtype=np.int64)
            shift = np.array([r.shift for r in numbers.rescaling], dtype=np.int64)
            y_ = rounded(total * factor, shift) + target
        elif isinstance(step, Add):
            assert isinstance(numbers, IntegerAdd)
            other = (maps[step.other] - integers.scales[step.other].zero) * numbers.other_factor
            y_ = rounded((x - zero) * numbers.factor + other, numbers.shift) + target
        else:
            assert isinstance(numbers, Rescaling)
            part = x[:, :, step.begin : step.end] - zero
            value = part.sum(axis=(1, 2)) if step.kind == "mean" else part.max(axis=(1, 2))
            y_ = rounded(value * numbers.multiplier, numbers.shift) + target
            vector = maps.setdefault(step.output, np.zeros((len(x), *network.shapes[step.output]), dtype=np.int64))
            vector[:, 0, 0, step.offset : step.offset + x.shape[3]] = np.clip(y_, -128, 127)
            continue
        low = target if step.relu else -128
        maps[step.output] = np.clip(y_, low, 127)
    raise AssertionError("no read-out")


@functools.lru_cache(maxsize=1)
def _in_powers_of_two() -> tuple[IntegerNetwork, HostBuild]:
    """The small student's int8 network, each factor the power of two below it, built."""
    made = written()
    integers = replace(made.integers, steps=tuple(_rounded_down(numbers) for numbers in made.integers.steps))
    folder = made.path.with_name("powers")
    Library(made.bundle, made.network, {"int8": plan_arena(made.network, "int8")}, integers).write(folder)
    return integers, HostBuild(folder, made.bundle.space, "int8")


def _rounded_down(numbers: IntegerConv | IntegerAdd | Rescaling) -> IntegerConv | IntegerAdd | Rescaling:
    if isinstance(numbers, IntegerConv):
        return replace(numbers, rescaling=tuple(Rescaling(2**30, r.shift) for r in numbers.rescaling))
    if isinstance(numbers, IntegerAdd):
        factors = (2 ** (f.bit_length() - 1) for f in (numbers.factor, numbers.other_factor))
        return IntegerAdd(*factors, numbers.shift)
    return Rescaling(2**30, numbers.shift)


@pytest.fixture(scope="module")
def sound() -> NDArray[np.int16]:
    return pcm_of(made_windows(4, seed=2))


def test_c_equals_numpy_to_the_bit(sound: NDArray[np.int16]) -> None:
    made = written()
    build = made.build("int8")
    features = build.features(sound, 64 * 98).reshape(-1, 64, 98)
    assert np.array_equal(build.embed_pcm(sound)[0], reference(made.integers, features))


@pytest.mark.parametrize("rounded", [down, cut])
def test_another_rounding_is_noticed(sound: NDArray[np.int16], rounded: Any) -> None:
    """In a network whose factors are powers of two, where halves are common: in any other they nearly never occur."""
    integers, build = _in_powers_of_two()
    features = build.features(sound, 64 * 98).reshape(-1, 64, 98)
    got = build.embed_pcm(sound)[0]
    assert np.array_equal(got, reference(integers, features))
    assert not np.array_equal(got, reference(integers, features, rounded))


def test_int8_hears_nearly_what_float_hears(sound: NDArray[np.int16]) -> None:
    made = written()
    got = l2_normalize(made.build("int8").embed_pcm(sound)[0])
    wanted = l2_normalize(embeddings_of(made.network, sound.astype(np.float32) / 32768))
    assert np.einsum("ij,ij->i", got, wanted).min() > 0.97


class _Scaling(ctypes.Structure):
    _fields_ = (("multiplier", ctypes.c_int32), ("shift", ctypes.c_uint8))


@given(st.integers(-(2**31) + 1, 2**31 - 1), st.floats(1e-6, 0.99))
def test_rescaling_is_exact_with_halves_away_from_zero(value: int, factor: float) -> None:
    scaling = Rescaling.of(factor)
    library = written().build("int8")._library
    got = library.sk_rescale(ctypes.c_int32(value), _Scaling(scaling.multiplier, scaling.shift))
    exact = Fraction(value) * scaling.multiplier / 2**scaling.shift
    wanted = int(abs(exact) + Fraction(1, 2)) * (1 if exact >= 0 else -1)
    assert got == wanted
    assert abs(scaling.multiplier / 2**scaling.shift / factor - 1.0) < 2.0**-30


def test_halves_go_away_from_zero() -> None:
    library = written().build("int8")._library
    half = _Scaling(2**30, 31)
    assert [library.sk_rescale(ctypes.c_int32(v), half) for v in (-3, -1, 0, 1, 3)] == [-2, -1, 0, 1, 2]


def test_ranges_need_sound() -> None:
    with pytest.raises(BundleError, match="needs windows of sound"):
        to_integers(written().network, np.zeros((0, 16000), dtype=np.float32))


def test_weights_fit_and_use_seven_bits() -> None:
    for numbers in written().integers.steps:
        if hasattr(numbers, "weights"):
            assert np.abs(numbers.weights.astype(int)).max(axis=(1, 2, 3)).min() == 127
