"""`soundkeep benchmark`: quick figures of this device with the backbone in use. Seconds of work, nothing is kept."""

from __future__ import annotations

import itertools
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edge.bundle import Bundle
from edge.embedder import Embedder, probe_window, runtime_version
from edge.hearing import Example, Levels
from edge.journal import Journal
from edge.learner import Learner
from edge.space import FeatureSpace

N_CLASSES = 10
N_EXAMPLES = 5
N_WINDOWS = 9
"""Windows of a taught example: 3 s at 4 windows a second."""


def measure_device(bundle: Bundle, *, n_windows: int = 100, n_imports: int = 3) -> dict[str, Any]:
    """Run everything once in a temporary state directory.

    Times in ms are medians; ``p99`` where named. ``cpu_share_live``: of one core, at the backbone's hop, embedding and
    judging only. Memory is this process's, in MB.
    """
    began = time.perf_counter()
    embedder = Embedder(bundle)
    start_s = time.perf_counter() - began
    window = probe_window(bundle.space.window_length)
    embedding = _times(lambda: embedder.quantized(window), n_windows)
    with (
        tempfile.TemporaryDirectory(prefix="soundkeep-") as folder,
        Journal.open(Path(folder), space=bundle.space) as journal,
    ):
        learner = Learner(journal, FeatureSpace(bundle.space), prior=bundle.prior(), live=True)
        rng = np.random.default_rng(0)
        turns = itertools.cycle(f"class {c}" for c in range(N_CLASSES))
        teaching = _times(lambda: learner.teach(next(turns), [_example(bundle, rng)]), N_CLASSES * N_EXAMPLES)
        embeddings, _ = embedder.quantized(window)
        judging = _times(lambda: learner.judge(embeddings), n_windows)
        fitting = _times(learner.fitted_anew, 3)
        forgetting = _times(lambda: learner.forget("class 0"), 1)
    hop_s = bundle.space.hop_length / bundle.space.sample_rate
    import_times = [_import_seconds() for _ in range(n_imports)]
    return {
        "backbone": bundle.name,
        "dim": bundle.space.dim,
        "embedding_ms": _median(embedding),
        "embedding_p99_ms": round(1e3 * float(np.percentile(embedding, 99)), 3),
        "judging_ms": _median(judging),
        "cpu_share_live": round((float(np.median(embedding)) + float(np.median(judging))) / hop_s, 4),
        "teach_example_ms": _median(teaching),
        "forget_class_ms": _median(forgetting),
        "fit_head_ms": _median(fitting),
        "open_backbone_ms": round(1e3 * start_s, 1),
        "import_edge_ms": _median(import_times),
        "memory_mb": _resident_mb(),
        "onnxruntime": runtime_version(),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    }


def _example(bundle: Bundle, rng: np.random.Generator) -> Example:
    shape = (N_WINDOWS, bundle.space.dim)
    x = rng.standard_normal(shape)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    embeddings, _ = bundle.space.grid.quantize(x)
    levels = Levels(np.full(N_WINDOWS, 0.1), np.full(N_WINDOWS, 0.5), np.zeros(N_WINDOWS))
    return Example(bundle.space, embeddings, levels)


def _times(work: Callable[[], object], n: int) -> list[float]:
    seconds = []
    for _ in range(n):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return seconds


def _median(seconds: list[float]) -> float:
    return round(1e3 * float(np.median(seconds)), 3)


def _import_seconds() -> float:
    package = str(Path(__file__).resolve().parent.parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))}
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import edge"], check=True, env=environment)
    return time.perf_counter() - began


def _resident_mb() -> float | None:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)
