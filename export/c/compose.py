"""A bundle becomes a folder of C: read, proved, planned, written, tried, reported."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.bundle import Bundle, open_bundle
from edge.embedder import Embedder
from edge.errors import BundleError
from edge.space import l2_normalize
from export.c.agreement import agreements, distance
from export.c.cost import TARGETS, check_fits, known_cost, measured_cost
from export.c.evaluate import embeddings_of
from export.c.first_head import head_of_memory, read_head
from export.c.host import HostBuild, compiler, pcm_of
from export.c.integers import to_integers
from export.c.library import Library, refuse_existing
from export.c.network import Network
from export.c.plan import Precision, plan_arena
from export.c.read_graph import read_network
from export.c.report import Report
from export.material import recorded_windows, synthesised_windows

READ_TOLERANCE = 1e-4
N_CALIBRATION, N_CHECK = 192, 64


@dataclass(frozen=True)
class CSettings:
    """data: folders of recordings for ranges and checks; without any, sounds are synthesised. check: sets of
    ``<class>/<clip>`` that answers are counted on, at most ``check_clips`` of each (0: all)."""

    precisions: Sequence[Precision] = ("int8",)
    target: str = "m4"
    data: Mapping[str, Path] = field(default_factory=dict)
    check: Mapping[str, Path] = field(default_factory=dict)
    check_clips: int = 0
    memory: Path | None = None
    head: Path | None = None
    measure: bool = True
    seed: int = 0


def write_library(bundle_path: Path, out: Path, settings: CSettings = CSettings()) -> Report:
    """Write the C library of a bundle to ``out``, with report.json and report.md in it. Raises BundleError."""
    refuse_existing(out)
    bundle = open_bundle(bundle_path)
    manifest = bundle.manifest
    network = read_network(bundle.onnx_bytes(), manifest.input_name, manifest.output_name, manifest.window_length)
    head = _head(bundle_path, bundle, settings)
    arenas = {precision: plan_arena(network, precision) for precision in settings.precisions}
    costs = {p: known_cost(network, p, arena, head) for p, arena in arenas.items()}
    for cost in costs.values():
        check_fits(cost, TARGETS[settings.target], manifest.name)
    calibration, check = _windows(bundle, settings)
    embedder = Embedder(bundle)
    _prove_read(network, embedder, check[:8])
    integers = to_integers(network, calibration) if "int8" in arenas else None
    Library(bundle, network, arenas, integers, head).write(out)
    distances, found = {}, {}
    if settings.measure:
        costs = {p: measured_cost(cost, out, pcm_of(check[:2])) for p, cost in costs.items()}
        for cost in costs.values():
            check_fits(cost, TARGETS[settings.target], manifest.name)
        if compiler() is not None:
            for precision in arenas:
                build = HostBuild(out, bundle.space, precision)
                distances[str(precision)] = distance(embedder, build, check)
                if settings.check:
                    found[str(precision)] = agreements(embedder, build, settings.check, most=settings.check_clips)
    report = Report(
        f"{manifest.name} {manifest.version}",
        bundle.space.sha256,
        network.n_weights,
        tuple(costs.values()),
        distances,
        found,
        ", ".join(settings.data) or "synthesised sounds",
        len(head),
        bool(settings.data),
    )
    (out / "report.json").write_text(json.dumps(report.as_json(), indent=1) + "\n", encoding="utf-8")
    (out / "report.md").write_text(report.as_markdown(), encoding="utf-8")
    return report


def _windows(bundle: Bundle, settings: CSettings) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Windows to take ranges from, and others to check with."""
    space = bundle.space
    n = N_CALIBRATION + N_CHECK
    rng = np.random.default_rng(settings.seed)
    lengths = {
        "sample_rate": space.sample_rate,
        "window_length": space.window_length,
        "hop_length": space.hop_length,
    }
    if settings.data:
        windows = recorded_windows(list(settings.data.values()), n, rng, **lengths)
    else:
        windows = synthesised_windows(n, rng, **lengths)
    windows = windows[rng.permutation(len(windows))]
    n_check = max(1, len(windows) // 4)
    return windows[n_check:], windows[:n_check]


def _prove_read(network: Network, embedder: Embedder, windows: NDArray[np.float32]) -> None:
    """The network as it was read gives the embeddings of the graph."""
    wanted, got = l2_normalize(embedder.embed(windows)), l2_normalize(embeddings_of(network, windows))
    difference = float(np.linalg.norm(wanted - got, axis=1).max())
    if not difference <= READ_TOLERANCE:
        raise BundleError(
            f"the network that was read from the graph differs from it by {difference:.2g} of unit length; wanted at "
            f"most {READ_TOLERANCE:g}: this is a bug of soundkeep-export c"
        )


def _head(bundle_path: Path, bundle: Bundle, settings: CSettings) -> bytes:
    if settings.head is not None:
        return read_head(settings.head, bundle)
    return b"" if settings.memory is None else head_of_memory(settings.memory, bundle_path, bundle)
