"""The C library of a small random student in both precisions, written once for all tests that build or run it."""

from __future__ import annotations

import functools
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from edge.bundle import Bundle, write_bundle
from edge.space import Grid
from export.c.host import HostBuild, compiler, pcm_of
from export.c.integers import IntegerNetwork, to_integers
from export.c.library import Library
from export.c.network import Network
from export.c.plan import Precision, plan_arena
from export.c.read_graph import read_network
from export.graph import to_onnx
from export.material import recorded_windows, synthesised_windows
from tests.export.small_student import DIM, small_student
from trainer.backbones.student import Student, StudentSettings

LENGTHS = {"sample_rate": 16000, "window_length": 16000, "hop_length": 4000}
_KEPT: list[tempfile.TemporaryDirectory[str]] = []


@dataclass(frozen=True, eq=False)
class Written:
    path: Path
    bundle: Bundle
    network: Network
    integers: IntegerNetwork

    def build(self, precision: Precision) -> HostBuild:
        return _build(precision)


@functools.lru_cache(maxsize=1)
def small_bundle() -> Bundle:
    _KEPT.append(tempfile.TemporaryDirectory())
    return write_bundle(
        Path(_KEPT[-1].name) / "bundle",
        name="small",
        version=1,
        onnx=to_onnx(small_student(), 16000),
        input_name="waveform",
        output_name="embedding",
        dim=DIM,
        grid=Grid(),
        licence="Apache-2.0",
        model_card="# small\n",
        **LENGTHS,
    )


@functools.lru_cache(maxsize=1)
def written() -> Written:
    bundle = small_bundle()
    network = read_network(bundle.onnx_bytes(), "waveform", "embedding", 16000)
    integers = to_integers(network, made_windows(24, seed=5))
    path = Path(_KEPT[-1].name) / "library"
    arenas = {precision: plan_arena(network, precision) for precision in ("int8", "float32")}
    Library(bundle, network, arenas, integers).write(path)  # type: ignore[arg-type]
    return Written(path, bundle, network, integers)


@functools.lru_cache(maxsize=1)
def sibling() -> Network:
    """The shape of the ear for microcontrollers, 122,000 random weights."""
    torch.manual_seed(0)
    student = Student(StudentSettings(widths=(8, 16, 24, 40, 64), dim=96)).eval()
    return read_network(to_onnx(student, 16000), "waveform", "embedding", 16000)


@functools.lru_cache(maxsize=2)
def _build(precision: Precision) -> HostBuild:
    if compiler() is None:
        pytest.skip("needs a C compiler")
    made = written()
    return HostBuild(made.path, made.bundle.space, precision)


def made_windows(n: int, seed: int = 0) -> NDArray[np.float32]:
    """Windows of synthesised sounds, (n, 16000) float32."""
    return synthesised_windows(n, np.random.default_rng(seed), **LENGTHS)


def real_windows(shared_data: Path, n: int, seed: int = 0) -> NDArray[np.int16]:
    """Windows of real recordings, half everyday sounds, half words, (n, 16000) int16."""
    sets = [shared_data / "esc50", shared_data / "speech_commands_test"]
    return pcm_of(recorded_windows(sets, n, np.random.default_rng(seed), **LENGTHS))
