"""Where a figure was measured: the machine, the versions, the load; and how results are written."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PACKAGES = ("numpy", "scipy", "onnxruntime", "scikit-learn", "river", "torch", "soxr", "soundfile")


def describe_machine() -> dict[str, Any]:
    """Return what a reader needs to judge a timing: processor, load, versions, BLAS threads."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load_1min": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": versions,
        "blas_threads": os.environ.get("OPENBLAS_NUM_THREADS", "library default"),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith(("model name", "Model")):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return the arguments that every benchmark takes: ``--out FILE`` and ``--quick``."""
    arguments = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    arguments.add_argument("--out", type=Path, help="write the results here as JSON")
    arguments.add_argument("--quick", action="store_true", help="a small version that shows that it runs")
    return arguments


def single_thread() -> None:
    """Keep BLAS to one thread; call before NumPy is imported."""
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, "1")


def write_results(out: Path | None, name: str, results: Mapping[str, Any]) -> None:
    """Write ``results`` with the machine beside them, through a temporary file."""
    if out is None:
        return
    text = json.dumps({"benchmark": name, "machine": describe_machine(), **results}, indent=1, allow_nan=False)
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = out.with_name(out.name + ".tmp")
    beside.write_text(text + "\n", encoding="utf-8")
    beside.replace(out)


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows with the same keys as an aligned table."""
    if not rows:
        return
    names = list(rows[0])
    cells = [names, *([_cell(row[name]) for name in names] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    for line in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip(), flush=True)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)
