"""The default ear: a small residual CNN on level-free log-mels, one window in, 256 standardised numbers out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from edge.errors import BundleError
from trainer.frontend import FrontEndSettings, LogMel

CHECKPOINT_SCHEMA = 1


@dataclass(frozen=True)
class StudentSettings:
    """Widths of the stem and of the four residual blocks, and the embedding dimension."""

    frontend: FrontEndSettings = field(default_factory=FrontEndSettings)
    widths: tuple[int, ...] = (32, 40, 80, 144, 256)
    strides: tuple[int, ...] = (1, 2, 2, 2)
    dim: int = 256

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> StudentSettings:
        unknown = set(values) - {"frontend", "widths", "strides", "dim"}
        if unknown:
            raise BundleError(
                f"the settings hold unknown keys {sorted(unknown)}; wanted frontend, widths, strides, dim; "
                f"read it with the trainer that wrote it"
            )
        return cls(
            frontend=FrontEndSettings(**values["frontend"]),
            widths=tuple(values["widths"]),
            strides=tuple(values["strides"]),
            dim=int(values["dim"]),
        )


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions with batch norm and a projected shortcut (He et al. 2016)."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(n_out)
        self.second = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False)
        self.second_norm = nn.BatchNorm2d(n_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or n_in != n_out:
            self.shortcut = nn.Sequential(nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.first_norm(self.first(x)))
        return torch.relu(self.second_norm(self.second(y)) + self.shortcut(x))


class Student(nn.Module):
    """Waveform (n, window_length) float32 to embedding (n, dim) float32, each dimension of zero mean and unit variance.

    ``features`` is the front end, ``encode`` the network; ``forward`` is both. The last normalisation has no learnt
    scale: after training it standardises the embedding over the training pool, inside the graph.
    """

    def __init__(self, settings: StudentSettings = StudentSettings()) -> None:
        super().__init__()
        self.settings = settings
        widths = settings.widths
        self.features = LogMel(settings.frontend)
        self.input_norm = nn.BatchNorm2d(1)
        self.stem = nn.Conv2d(1, widths[0], 3, 2, 1, bias=False)
        self.stem_norm = nn.BatchNorm2d(widths[0])
        self.blocks = nn.ModuleList(
            ResidualBlock(a, b, s) for a, b, s in zip(widths[:-1], widths[1:], settings.strides, strict=True)
        )
        self.project = nn.Linear(4 * widths[-1], settings.dim)
        self.standardize = nn.BatchNorm1d(settings.dim, affine=False)

    def encode(self, log_mel: Tensor) -> Tensor:
        x = torch.relu(self.stem_norm(self.stem(self.input_norm(log_mel))))
        for block in self.blocks:
            x = block(x)
        embedding: Tensor = self.standardize(self.project(pool_thirds(x)))
        return embedding

    def forward(self, waveform: Tensor) -> Tensor:
        return self.encode(self.features(waveform))

    def n_weights(self) -> int:
        return sum(p.numel() for p in self.parameters())


def pool_thirds(x: Tensor) -> Tensor:
    """(n, c, f, t) -> (n, 4c): the means of three overlapping thirds of time, then the maximum over all of it.

    The thirds keep the order of what was heard (words need it); the maximum keeps short sounds.
    """
    n_time = x.shape[3]
    third = (n_time + 2) // 3
    starts = (0, (n_time - third) // 2, n_time - third)
    means = [x[:, :, :, s : s + third].mean(dim=(2, 3)) for s in starts]
    return torch.cat([*means, x.amax(dim=(2, 3))], dim=1)


def embed_windows(model: Student, windows: NDArray[np.float32], *, batch_size: int = 64) -> NDArray[np.float32]:
    """Embed windows (n, window_length) with a model in evaluation mode, a batch at a time. Returns (n, dim) float32."""
    with torch.no_grad():
        parts = [
            model(torch.from_numpy(np.array(windows[i : i + batch_size], dtype=np.float32))).numpy()
            for i in range(0, len(windows), batch_size)
        ]
    return np.concatenate([np.zeros((0, model.settings.dim), dtype=np.float32), *parts])


def save_checkpoint(directory: Path, model: Student, meta: Mapping[str, Any]) -> None:
    """Write ``model.safetensors`` and ``checkpoint.json`` (settings, data, figures), each of them whole or not."""
    directory.mkdir(parents=True, exist_ok=True)
    weights, description = directory / "model.safetensors", directory / "checkpoint.json"
    values = {"schema": CHECKPOINT_SCHEMA, "kind": "student", "settings": asdict(model.settings), **meta}
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, weights.with_suffix(".tmp"))
    text = json.dumps(values, indent=1, sort_keys=True) + "\n"
    description.with_suffix(".tmp").write_text(text, encoding="utf-8")
    weights.with_suffix(".tmp").replace(weights)
    description.with_suffix(".tmp").replace(description)


def load_checkpoint(directory: Path) -> tuple[Student, dict[str, Any]]:
    """Read what ``save_checkpoint`` wrote. Returns the model in evaluation mode, on the CPU, and its description.

    Raises BundleError when the folder holds no checkpoint, or a damaged or a newer one.
    """
    try:
        meta = json.loads((directory / "checkpoint.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise BundleError(
            f"{directory} is no checkpoint ({e}); give the folder that `soundkeep-trainer distil` wrote"
        ) from e
    if not isinstance(meta, dict) or meta.get("schema") != CHECKPOINT_SCHEMA or meta.get("kind") != "student":
        got = (meta.get("kind"), meta.get("schema")) if isinstance(meta, dict) else (type(meta).__name__, None)
        raise BundleError(
            f"{directory} holds a checkpoint of kind {got[0]!r}, schema {got[1]}; "
            f"wanted 'student', schema {CHECKPOINT_SCHEMA}"
        )
    try:
        model = Student(StudentSettings.from_dict(meta["settings"]))
        model.load_state_dict(load_file(directory / "model.safetensors"))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as e:
        reason = " ".join(str(e).split())[:200]
        raise BundleError(f"{directory} is a damaged checkpoint ({reason}); train or copy it again") from e
    return model.eval(), meta
