"""The exported graph answers as the trained network does, on sound and at its edges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from edge.errors import BundleError
from export.graph import INPUT, OUTPUT
from export.material import edge_case_windows

TOLERANCE = 1e-4
EDGE_TOLERANCE = 1e-2
BATCH = 8


@dataclass(frozen=True)
class ParityReport:
    """Largest absolute differences of an embedding's numbers, torch to ONNX Runtime.

    max_edge_difference: on silence, impulses and full-scale noise, where a logarithm of nearly nothing magnifies the
    rounding of float32. max_batch_difference: one window at a time to all at once.
    """

    n_windows: int
    max_difference: float
    max_edge_difference: float
    max_batch_difference: float
    largest_value: float


def check_parity(
    model: torch.nn.Module, onnx_bytes: bytes, windows: NDArray[np.float32], *, tolerance: float = TOLERANCE
) -> ParityReport:
    """Run both on ``windows`` (n, window_length) float32 and on the edges of sound.

    Raises BundleError when they differ by more than ``tolerance`` (``EDGE_TOLERANCE`` at the edges), when the batch is
    not free, or when a number is not finite: an exporter that drops a tiny constant is found here.
    """
    n = len(windows)
    x = np.concatenate([np.asarray(windows, dtype=np.float32), edge_case_windows(windows.shape[1])])
    session = onnxruntime.InferenceSession(onnx_bytes)
    with torch.no_grad():
        wanted = np.concatenate([model.eval()(torch.from_numpy(row[None].copy())).numpy() for row in x])
    alone = np.concatenate([session.run([OUTPUT], {INPUT: row[None]})[0] for row in x])
    together = _all_at_once(session, x)
    if not (np.isfinite(wanted).all() and np.isfinite(alone).all()):
        raise BundleError("the embedding of silence or of an extreme sound is not finite; mend the network's front end")
    report = ParityReport(
        n_windows=n,
        max_difference=float(np.abs(alone - wanted)[:n].max()),
        max_edge_difference=float(np.abs(alone - wanted)[n:].max()),
        max_batch_difference=float(np.abs(alone - together).max()),
        largest_value=float(np.abs(wanted).max()),
    )
    if (
        max(report.max_difference, report.max_batch_difference) > tolerance
        or report.max_edge_difference > EDGE_TOLERANCE
    ):
        raise BundleError(
            f"the exported graph differs from the network by {report.max_difference:.2g}, at the edges of sound by "
            f"{report.max_edge_difference:.2g} and over a batch by {report.max_batch_difference:.2g}; "
            f"wanted at most {tolerance:g}, {EDGE_TOLERANCE:g} and {tolerance:g}: the export changed the computation"
        )
    return report


def _all_at_once(session: Any, windows: NDArray[np.float32]) -> NDArray[np.float32]:
    """In batches of ``BATCH``: as many as prove that the batch is free, as few as fit into memory."""
    try:
        parts = [session.run([OUTPUT], {INPUT: windows[i : i + BATCH]})[0] for i in range(0, len(windows), BATCH)]
    except Exception as e:  # ONNX Runtime raises classes of its own that share no public base
        raise BundleError("the exported graph takes one window only; write its reshapes with -1 for the batch") from e
    return np.concatenate(parts)


@dataclass(frozen=True)
class AgreementReport:
    """How near the embeddings of two backbones are: cosines between a float32 one and one of lower precision."""

    n_windows: int
    mean_cosine: float
    p5_cosine: float
    min_cosine: float


def agreement(first: NDArray[np.float32], second: NDArray[np.float32]) -> AgreementReport:
    """first, second: (n, d) float32 embeddings of the same windows."""
    a, b = first.astype(np.float64), second.astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosine = np.einsum("ij,ij->i", a, b) / np.where(norms > 0.0, norms, 1.0)
    return AgreementReport(len(a), float(cosine.mean()), float(np.quantile(cosine, 0.05)), float(cosine.min()))
