"""What a backbone costs: milliseconds of one core per second of sound and per decision, and bytes, by precision.

ONNX Runtime as a device runs it: one thread, no spinning, one window at a time. The precisions of one network take
turns on the same windows. A bundle is measured as it is; a checkpoint and a kind (its base size with random weights,
which cost as much as trained ones) are exported here in float32, float16 and int8.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import parser, print_table, single_thread, write_results

single_thread()

import numpy as np  # noqa: E402
import torch  # noqa: E402

from edge.bundle import Bundle, open_bundle, shipped_bundles_path, write_bundle  # noqa: E402
from edge.embedder import Embedder  # noqa: E402
from edge.errors import SoundkeepError  # noqa: E402
from edge.space import Grid  # noqa: E402
from export.graph import INPUT, OUTPUT, to_onnx  # noqa: E402
from export.half import to_float16  # noqa: E402
from export.material import synthesised_windows  # noqa: E402
from export.quantize import quantize_int8  # noqa: E402
from export.speed import processor, window_ms  # noqa: E402
from trainer.backbones.backbone import Backbone  # noqa: E402
from trainer.backbones.checkpoint import load_checkpoint  # noqa: E402
from trainer.backbones.kinds import KINDS, backbone_class  # noqa: E402

EVALUATION = Path(__file__).resolve().parent / "bundles" / "evaluation"
LARGE = ("eat", "beats", "ast")
N_WINDOWS = 16


@dataclass(frozen=True)
class Ear:
    """One network in one or more precisions, which are measured in turn."""

    name: str
    bundles: Mapping[str, Bundle]


def default_ears() -> Iterator[Ear]:
    """The evaluation ear, and the shipped ear in float32 and int8."""
    yield Ear("evaluation", {"float32": open_bundle(EVALUATION)})
    shipped = shipped_bundles_path()
    yield Ear("ear", {"float32": open_bundle(shipped / "ear"), "int8": open_bundle(shipped / "ear-int8")})


def ear_of(what: str, folder: Path) -> Ear:
    """The ear that a word names: a bundle's folder, a checkpoint's folder, or a kind. ``folder``: for exports."""
    path = Path(what)
    if (path / "manifest.json").is_file():
        bundle = open_bundle(path)
        export = bundle.manifest.extra.get("export", {})
        return Ear(bundle.name, {str(export.get("precision", "as it is")): bundle})
    if what in KINDS and not path.exists():
        print(f"exporting {what}", file=sys.stderr, flush=True)
        torch.manual_seed(0)
        return exported(f"{what}, random weights", backbone_class(what)().eval(), folder)
    model, _ = load_checkpoint(path)
    return exported(path.name, model, folder)


def exported(name: str, model: Backbone, folder: Path) -> Ear:
    """Export a network in every precision to bundles under ``folder``, at a hop of a quarter window."""
    graph = to_onnx(model, model.window_length)
    windows = _windows(model.sample_rate, model.window_length)
    graphs = {"float32": graph, "float16": to_float16(graph, windows), "int8": quantize_int8(graph, windows)}
    return Ear(name, {precision: _write(model, g, folder / precision) for precision, g in graphs.items()})


def rows_of(ear: Ear, budget_s: float) -> list[dict[str, Any]]:
    """A row for each precision. ``budget_s``: seconds of measuring for each."""
    space = next(iter(ear.bundles.values())).space
    windows = _windows(space.sample_rate, space.window_length)
    print(f"measuring {ear.name}: {', '.join(ear.bundles)}", file=sys.stderr, flush=True)
    times = window_ms({p: Embedder(b) for p, b in ear.bundles.items()}, windows, budget_s=budget_s)
    print(", ".join(f"{precision} {ms:.3g} ms" for precision, ms in times.items()), file=sys.stderr, flush=True)
    rows = []
    for precision, bundle in ear.bundles.items():
        hop_s, window_s = space.hop_length / space.sample_rate, space.window_length / space.sample_rate
        rows.append(
            {
                "backbone": ear.name,
                "precision": precision,
                "MB": len(bundle.onnx_bytes()) / 1e6,
                "window s": window_s,
                "ms a decision": times[precision],
                "ms a second, end to end": times[precision] / window_s,
                "hop s": hop_s,
                "ms a second, at the hop": times[precision] / hop_s,
                "of float32": times[precision] / times["float32"] if "float32" in times else None,
            }
        )
    return rows


def _windows(sample_rate: int, window_length: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return synthesised_windows(
        N_WINDOWS,
        np.random.default_rng(0),
        sample_rate=sample_rate,
        window_length=window_length,
        hop_length=window_length // 4,
    )


def _write(model: Backbone, graph: bytes, folder: Path) -> Bundle:
    return write_bundle(
        folder,
        name="measured",
        version=1,
        onnx=graph,
        input_name=INPUT,
        output_name=OUTPUT,
        sample_rate=model.sample_rate,
        window_length=model.window_length,
        hop_length=model.window_length // 4,
        dim=model.dim,
        grid=Grid(),
        licence="not for use",
        model_card="Made by a benchmark.\n",
    )


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("what", nargs="*", help=f"folders of bundles or checkpoints, or kinds: {', '.join(KINDS)}")
    arguments.add_argument("--large", action="store_true", help=f"base-size {', '.join(LARGE)} too; minutes, 7 GB")
    arguments.add_argument("--seconds", type=float, default=10.0, help="of measuring, for each backbone and precision")
    options = arguments.parse_args()
    budget_s = 0.2 if options.quick else options.seconds
    rows: list[dict[str, Any]] = []
    torch.set_num_threads(1)
    try:
        if not options.what:
            for ear in default_ears():
                rows += rows_of(ear, budget_s)
        for what in (*options.what, *(LARGE if options.large else ())):
            with tempfile.TemporaryDirectory(prefix="soundkeep-") as folder:
                rows += rows_of(ear_of(what, Path(folder)), budget_s)
    except SoundkeepError as error:
        raise SystemExit(f"backbone_latency: {error}") from error
    print(f"\none core of {processor()}, ONNX Runtime on the CPU, median of processor time\n")
    print_table(rows)
    write_results(options.out, "backbone_latency", {"processor": processor(), "rows": rows})


if __name__ == "__main__":
    main()
