"""What a person reads, and a program, before a microcontroller is flashed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from export.c.agreement import Distance, SetAgreement
from export.c.cost import Cost


@dataclass(frozen=True)
class Report:
    """costs, distances, agreements: of each precision. distances: of the C code on this machine from the bundle."""

    name: str
    space: str
    n_weights: int
    costs: Sequence[Cost]
    distances: dict[str, Distance]
    agreements: dict[str, list[SetAgreement]]
    windows_from: str
    head_bytes: int
    windows_are_recorded: bool = False

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "space": self.space,
            "n_weights": self.n_weights,
            "windows_from": self.windows_from,
            "head_bytes": self.head_bytes,
            "costs": {
                c.precision: {**asdict(c), "ram_bytes": c.ram_bytes, "device_ram_bytes": c.device_ram_bytes}
                for c in self.costs
            },
            "beside_the_bundle": {name: asdict(d) for name, d in self.distances.items()},
            "sets": {name: [asdict(a) for a in found] for name, found in self.agreements.items()},
        }

    def as_markdown(self) -> str:
        """Two tables and a sentence or two."""
        rows = [
            (
                "flash, bytes, ear and head",
                [_n(c.flash_bytes) + ("" if c.flash_measured else " (estimate)") for c in self.costs],
            ),
            ("of it weights and tables", [_n(c.constants_bytes) for c in self.costs]),
            ("RAM, bytes, all of the below", [_n(c.ram_bytes) for c in self.costs]),
            ("arena", [_n(c.arena_bytes) for c in self.costs]),
            ("arena, no plan can go below", [_n(c.arena_least_bytes) for c in self.costs]),
            ("arena, without sharing (not used)", [_n(c.arena_naive_bytes) for c in self.costs]),
            ("head, two banks and scratch", [_n(c.head_bytes) for c in self.costs]),
            ("context", [_n(c.context_bytes) for c in self.costs]),
            ("one window of sound", [_n(c.window_bytes) for c in self.costs]),
            ("stack of the ear, measured", [_n(c.stack_bytes) for c in self.costs]),
            ("with the link: flash", [_n(c.device_flash_bytes) for c in self.costs]),
            ("with the link: RAM", [_n(c.device_ram_bytes) for c in self.costs]),
            ("multiply-adds of a window", [_n(c.multiply_adds) for c in self.costs]),
            ("instructions of a window, measured", [_n(c.instructions) for c in self.costs]),
            ("seconds at 168 MHz, 1 to 2 cycles each", [_seconds(c.instructions) for c in self.costs]),
        ]
        lines = [
            f"# {self.name} as C\n",
            f"{self.n_weights:,} weights, embedding space {self.space[:16]}.\n",
            "| | " + " | ".join(c.precision for c in self.costs) + " |",
            "|---|" + "---:|" * len(self.costs),
            *("| " + " | ".join([name, *cells]) + " |" for name, cells in rows),
            "",
        ]
        for name, d in self.distances.items():
            lines.append(
                f"* {name} beside the bundle on {d.n_windows} windows of {self.windows_from}: cosine of the "
                f"embeddings {d.mean_cosine:.6f} in the mean, {d.least_cosine:.6f} at worst; largest difference "
                f"{d.largest:.2g} of unit length."
            )
        for name, found in self.agreements.items():
            lines += [
                f"* {name} on {a.set_name}, a read-out of {a.n_clips - a.n_kept_out:,} clips asked about "
                f"{a.n_kept_out:,} of other groups: the same answer as the bundle for {100 * a.agreement:.1f} %; right "
                f"{100 * a.accuracy_c:.1f} %, the bundle {100 * a.accuracy_bundle:.1f} %; with a read-out of its own "
                f"{100 * a.accuracy_c_own_readout:.1f} %."
                for a in found
            ]
        if not self.windows_are_recorded and "int8" in self.distances:
            lines.append(
                "* The ranges of int8 were taken from synthesised sounds; recordings of what it will hear (--data) "
                "bring it closer."
            )
        lines += ["", *self._next()]
        return "\n".join(lines) + "\n"

    def _next(self) -> list[str]:
        """What to do with the folder."""
        first = self.costs[0]
        head = (
            f"It starts with the head that is built in ({self.head_bytes:,} bytes)."
            if self.head_bytes
            else "It starts without a head, and `sk_classify` answers 0 classes until one comes over the link."
        )
        return [
            "Compile every file of `src/` with `-Iinclude -std=c99 -O2 -ffp-contract=off`, and give `sk_init` "
            "`SK_MEMORY(SK_MODEL_ARENA, SK_MODEL_DIM, SK_MODEL_BANK)` bytes, which are "
            f"{first.arena_bytes + first.head_bytes:,}. {head}",
        ]


def _n(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _seconds(instructions: int | None) -> str:
    return "-" if instructions is None else f"{instructions / 168e6:.2f} to {2 * instructions / 168e6:.2f}"
