"""What a library asks of a microcontroller, known before anyone flashes one; and whether it fits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.errors import BundleError
from export.c.emulated import Firmware, emulator, sizes, toolchain
from export.c.first_head import bank_bytes
from export.c.network import Conv, Network, multiply_adds
from export.c.plan import Arena, Precision

CONTEXT_BYTES = 320
CODE_BYTES = 6000
"""Program without constants, where no cross compiler is there to say it."""
RING_BYTES = 8192
"""What waits for the line, as in ports/mps2_an386."""


@dataclass(frozen=True)
class Target:
    """What there is for the ear: bytes of flash and RAM."""

    name: str
    flash_bytes: int
    ram_bytes: int


TARGETS: Mapping[str, Target | None] = {"m4": Target("Cortex-M4F class", 1 << 20, 256 << 10), "host": None}


@dataclass(frozen=True)
class Cost:
    """Bytes, operations of one window. flash_bytes: of ear and head, without the C library. window_bytes: the samples
    of a window, which the caller keeps. head_bytes: two banks of ``bank_bytes`` and an embedding. The rest is measured,
    None where there is no cross compiler or emulator; device_flash_bytes, device_bytes: with the link, the context of a
    whole device."""

    precision: Precision
    flash_bytes: int
    flash_measured: bool
    constants_bytes: int
    arena_bytes: int
    arena_least_bytes: int
    arena_naive_bytes: int
    context_bytes: int
    bank_bytes: int
    head_bytes: int
    window_bytes: int
    multiply_adds: int
    stack_bytes: int | None = None
    instructions: int | None = None
    device_flash_bytes: int | None = None
    device_bytes: int | None = None

    @property
    def ram_bytes(self) -> int:
        return self.arena_bytes + self.context_bytes + self.head_bytes + self.window_bytes + (self.stack_bytes or 0)

    @property
    def device_ram_bytes(self) -> int | None:
        """With the link's context instead of the recogniser's, and what waits for the line."""
        if self.device_bytes is None:
            return None
        return self.ram_bytes - self.context_bytes + self.device_bytes + RING_BYTES


def known_cost(network: Network, precision: Precision, arena: Arena, head: bytes = b"") -> Cost:
    """What arithmetic says, before anything is built."""
    fe = network.front_end
    tables = 4 * (fe.frame_length + fe.n_fft + int(np.count_nonzero(fe.filters)) + fe.n_bands)
    of_weight, of_output = (4, 4) if precision == "float32" else (1, 12)
    constants = sum(of_weight * s.weights.size + of_output * s.bias.size for s in network.steps if isinstance(s, Conv))
    constants += tables + 76 * len(network.steps) + len(head)
    bank = bank_bytes(network.dim, head)
    return Cost(
        precision,
        constants + CODE_BYTES,
        False,
        constants,
        arena.n_bytes,
        arena.least_bytes,
        arena.naive_bytes,
        CONTEXT_BYTES,
        bank,
        4 * network.dim + 2 * bank,
        2 * fe.window_length,
        sum(multiply_adds(network).values()),
    )


def measured_cost(cost: Cost, folder: Path, windows: NDArray[np.int16]) -> Cost:
    """Replace estimates by what cross compiler and emulator say, where they are installed."""
    if not toolchain():
        return cost
    found = sizes(folder, cost.precision)
    cost = replace(
        cost,
        flash_bytes=found.flash_bytes,
        flash_measured=True,
        context_bytes=found.context_bytes,
        device_flash_bytes=found.device_flash_bytes,
        device_bytes=found.device_bytes,
    )
    if emulator() and cost.flash_bytes < 3 << 20 and cost.arena_bytes < 3 << 20:
        run = Firmware(folder, cost.precision).run(windows[:2], count=True)
        cost = replace(cost, stack_bytes=run.stack_bytes, instructions=int(run.instructions.max()))
    return cost


def check_fits(cost: Cost, target: Target | None, name: str) -> None:
    """Raises BundleError with a sentence that says how large it is and what fits."""
    if target is None or (cost.flash_bytes <= target.flash_bytes and cost.ram_bytes <= target.ram_bytes):
        return
    advice = "train a smaller student (--widths 8,16,24,40,64 --dim 96, 124,000 weights, need 140,000 and 115,000)"
    if cost.precision == "float32":
        advice = "write it in int8 (without --precision)"
    raise BundleError(
        f"{name} in {cost.precision} needs {cost.flash_bytes:,} bytes of flash and {cost.ram_bytes:,} bytes of RAM; "
        f"a {target.name} has {target.flash_bytes:,} and {target.ram_bytes:,}: {advice}, or say --target "
        "host for a machine that has room"
    )
