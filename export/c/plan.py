"""Where each tensor of a network lies while a window is computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from export.c.liveness import Tensor, least, naive, pack, peak
from export.c.network import Add, Network, size_of

Precision = Literal["float32", "int8"]
SCRATCH = "scratch of the front end"


@dataclass(frozen=True)
class Arena:
    """offsets: bytes, by tensor of the network and ``SCRATCH``. tensors: what was packed; one stands for those that
    are made in its place. least_bytes: what is alive at once; naive_bytes: without sharing."""

    offsets: Mapping[str, int]
    tensors: tuple[Tensor, ...]
    n_bytes: int
    least_bytes: int
    naive_bytes: int


def plan_arena(network: Network, precision: Precision, *, in_place: bool = True, share: bool = True) -> Arena:
    """Plan the arena. in_place: sums are written over one of their inputs. share: places are used again."""
    fe = network.front_end
    n_steps = len(network.steps)
    first: dict[str, int] = {fe.output: 0}
    last: dict[str, int] = {fe.output: 0, network.output: n_steps + 1}
    root: dict[str, str] = {}
    for i, step in enumerate(network.steps, start=1):
        first.setdefault(step.output, i)
        for name in (step.input, *([step.other] if isinstance(step, Add) else [])):
            last[name] = max(last.get(name, 0), i)
    for name, made in first.items():
        last.setdefault(name, made)
    if in_place:
        for i, step in enumerate(network.steps, start=1):
            if isinstance(step, Add):
                for name in (step.input, step.other):
                    if last[name] == i and name != fe.output:
                        root[step.output] = root.get(name, name)
                        break
    groups: dict[str, Tensor] = {}
    for name, made in first.items():
        top = root.get(name, name)
        whole = Tensor(top, _bytes(network, name, precision), made, last[name])
        groups[top] = _joined(groups.get(top, whole), whole)
    tensors = (*groups.values(), Tensor(SCRATCH, 4 * (fe.n_fft + fe.n_fft // 2 + 1), 0, 0))
    if not share:
        tensors = tuple(Tensor(t.name, t.n_bytes, 0, n_steps + 1) for t in tensors)
    packed = pack(tensors)
    offsets = {SCRATCH: packed[SCRATCH]}
    offsets |= {name: packed[root.get(name, name)] for name in first}
    return Arena(offsets, tensors, peak(tensors, packed), least(tensors), naive(tensors))


def _joined(a: Tensor, b: Tensor) -> Tensor:
    """One place for two tensors, the second of which is made of the first."""
    return Tensor(a.name, max(a.n_bytes, b.n_bytes), min(a.first, b.first), max(a.last, b.last))


def _bytes(network: Network, name: str, precision: Precision) -> int:
    """The front end's powers and the embedding are float in either precision."""
    floats = precision == "float32" or name in (network.front_end.output, network.output)
    return size_of(network.shapes[name]) * (4 if floats else 1)
