"""The student inside a bundle, as a network that can be adapted: a bundle is enough to go on from.

Export folds the batch normalisation behind each convolution into its weights. Here each convolution gets the folded
weights and each normalisation becomes "add the bias", so that the network computes what the bundle computes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import nn

from edge.bundle import Bundle, open_bundle
from edge.errors import BundleError
from trainer.backbones.log_mel import FrontEndSettings
from trainer.backbones.student import ResidualBlock, Student, StudentSettings

TOLERANCE = 1e-3

Weights = Mapping[str, NDArray[np.float32]]


def student_of_bundle(path: Path) -> Student:
    """Rebuild the student that a float32 bundle of ours holds, in evaluation mode, on the CPU.

    Its canary is the proof: the rebuilt student answers as the bundle did when it was made, to ``TOLERANCE``.
    Raises BundleError when the bundle is damaged, is not float32, or holds another network or no canary.
    """
    bundle = open_bundle(path)
    graph = onnx.load_from_string(bundle.onnx_bytes()).graph
    tensors = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    folded = {
        _module_of(node.output[0]): (tensors[node.input[1]], tensors[node.input[2]])
        for node in graph.node
        if node.op_type == "Conv" and len(node.input) == 3 and node.input[1] in tensors
    }
    try:
        student = Student(_settings(bundle, folded, tensors))
        state = student.state_dict()
        for name, norm in _convolutions(student):
            weight, bias = folded[name]
            state |= _as_state(name, weight) | _adding(norm, bias, student)
        state |= {k: torch.from_numpy(tensors[k].copy()) for k in state if k in tensors}
        student.load_state_dict(state)
    except (KeyError, ValueError, RuntimeError, IndexError, AttributeError, TypeError) as e:
        reason = " ".join(str(e).split())[:160]
        raise BundleError(
            f"{path} holds no float32 student of ours ({reason}); give the checkpoint that it was made of, or a "
            f"float32 bundle that soundkeep-export wrote"
        ) from e
    student.eval()
    _prove(student, bundle)
    return student


def _module_of(output: str) -> str:
    """``/blocks.0/shortcut/shortcut.0/Conv_output_0`` -> ``blocks.0.shortcut.0``: the last name holds its parent's."""
    first, *rest = output.strip("/").split("/")[:-1]
    return ".".join([first, *rest[-1:]]) if rest else first


def _settings(bundle: Bundle, folded: Mapping[str, Any], tensors: Weights) -> StudentSettings:
    n_blocks = len({name.split(".")[1] for name in folded if name.startswith("blocks.")})
    widths = (folded["stem"][0].shape[0], *(folded[f"blocks.{i}.second"][0].shape[0] for i in range(n_blocks)))
    usual = StudentSettings()
    if n_blocks != len(usual.strides):
        raise ValueError(f"it has {n_blocks} blocks")
    space = bundle.space
    frontend = FrontEndSettings(sample_rate=space.sample_rate, window_length=space.window_length)
    return StudentSettings(frontend, widths, usual.strides, tensors["project.weight"].shape[0])


def _convolutions(student: Student) -> Iterator[tuple[str, str]]:
    """Names of each convolution and of the normalisation that was folded into it."""
    yield "stem", "stem_norm"
    for i, block in enumerate(student.blocks):
        assert isinstance(block, ResidualBlock)
        yield f"blocks.{i}.first", f"blocks.{i}.first_norm"
        yield f"blocks.{i}.second", f"blocks.{i}.second_norm"
        if not isinstance(block.shortcut, nn.Identity):
            yield f"blocks.{i}.shortcut.0", f"blocks.{i}.shortcut.1"


def _as_state(name: str, weight: NDArray[np.float32]) -> dict[str, torch.Tensor]:
    return {f"{name}.weight": torch.from_numpy(weight.copy())}


def _adding(name: str, bias: NDArray[np.float32], student: Student) -> dict[str, torch.Tensor]:
    """The state of a batch normalisation that adds ``bias`` and does nothing else."""
    norm = student.get_submodule(name)
    assert isinstance(norm, nn.BatchNorm2d)
    one = torch.ones(len(bias))
    return {
        f"{name}.weight": one,
        f"{name}.bias": torch.from_numpy(bias.copy()),
        f"{name}.running_mean": torch.zeros(len(bias)),
        f"{name}.running_var": one - norm.eps,
    }


def _prove(student: Student, bundle: Bundle) -> None:
    canary = bundle.canary()
    if canary is None:
        raise BundleError(f"{bundle.path} has no canary to prove a rebuilt network with; give the checkpoint instead")
    waveforms, wanted = canary
    with torch.no_grad():
        got = student(torch.from_numpy(waveforms.copy())).numpy()
    worst = float(np.abs(got - wanted).max())
    if not worst <= TOLERANCE:
        raise BundleError(
            f"the network rebuilt from {bundle.path} differs from its canary by {worst:.2g}; wanted at most "
            f"{TOLERANCE:g}: its front end or layers are not those of this soundkeep; give the checkpoint instead"
        )
