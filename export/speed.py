"""What a window costs: several backbones in turn, milliseconds of the core that runs them, not of the wall clock.

Other work on the machine takes a core away, which the wall would count; what it does to caches hits all in turn alike.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.embedder import Embedder

MIN_ROUNDS, MAX_ROUNDS = 7, 101


def window_ms(
    embedders: Mapping[str, Embedder],
    windows: NDArray[np.float32],
    *,
    budget_s: float = 3.0,
    clock: Callable[[], float] = time.thread_time,
) -> dict[str, float]:
    """Median milliseconds of one core that each backbone takes for one window, by name.

    windows: (n, window_length) float32, n >= 1, used in turn; every round gives all backbones the same one. Rounds go
    on for ``budget_s`` seconds of the core per backbone, ``MIN_ROUNDS`` at least, ``MAX_ROUNDS`` at most.
    """
    taken: dict[str, list[float]] = {name: [] for name in embedders}
    for embedder in embedders.values():
        embedder.embed(windows[:1])
    began = clock()
    for i in range(MAX_ROUNDS):
        if i >= MIN_ROUNDS and clock() - began > budget_s * len(embedders):
            break
        window = windows[i % len(windows)][None]
        for name, embedder in embedders.items():
            start = clock()
            embedder.embed(window)
            taken[name].append(clock() - start)
    return {name: 1e3 * float(np.median(seconds)) for name, seconds in taken.items()}


def processor() -> str:
    """Name of this machine's processor, and whether it multiplies bytes by hardware (VNNI, dot product)."""
    name, flags = "", set()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() in {"model name", "Model"}:
                name = value.strip()
            elif key.strip() in {"flags", "Features"}:
                flags = set(value.split())
    except OSError:
        pass
    name = name or platform.processor() or platform.machine()
    kinds = {"avx512_vnni": "AVX512-VNNI", "avx_vnni": "AVX-VNNI", "asimddp": "dot product"}
    found = [word for flag, word in kinds.items() if flag in flags]
    return f"{name} ({', '.join(found) or 'no int8 dot product'})"
