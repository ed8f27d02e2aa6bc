"""What `soundkeep-export bundle` tells a person: the few figures by which to keep the bundle or make it otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from edge.bundle import Bundle
from export.pack import PackReport


def summary(path: Path, bundle: Bundle, report: PackReport) -> Iterator[str]:
    """Yield the lines, most important first."""
    measured, parity, precision = report.measured, report.parity, report.precision
    size = report.onnx_bytes[precision] / 1e6
    yield (
        f"{path}: {bundle.name} {bundle.version}, {precision}, {size:.1f} MB; the graph differs from the network by "
        f"{parity.max_difference:.1e} on {parity.n_windows} windows of {report.material}"
    )
    if (near := measured.to_float32) is not None:
        yield (
            f"{precision} beside float32: {size:.1f} for {report.onnx_bytes['float32'] / 1e6:.1f} MB, "
            f"mean cosine {near.mean_cosine:.5f}, worst {near.min_cosine:.5f} of {near.n_windows} windows"
        )
    for name, by_precision in measured.readout.items():
        figures = ", ".join(f"{value:.4f} in {p}" for p, value in by_precision.items())
        yield f"read-out of {name} ({measured.n_tested[name]} clips kept out): {figures}"
    for name, why in measured.left_out.items():
        yield f"{name} gives no read-out: {why}"
    if measured.window_ms:
        times = ", ".join(f"{value:.2f} ms in {p}" for p, value in measured.window_ms.items())
        yield f"one window costs a core {times} ({measured.processor})"
        yield from too_slow(bundle, measured.window_ms[precision])


def too_slow(bundle: Bundle, window_ms: float) -> Iterator[str]:
    """Warn of an ear that cannot keep up with the microphone on one core of this machine."""
    hop_ms = 1e3 * bundle.space.hop_length / bundle.space.sample_rate
    if window_ms > hop_ms:
        yield (
            f"a window takes {window_ms:.0f} ms but the next begins after {hop_ms:.0f} ms: this machine cannot listen "
            f"live with it; choose a larger --hop, --precision int8 or a smaller backbone"
        )
