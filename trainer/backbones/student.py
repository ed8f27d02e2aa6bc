"""The default ear: a small residual CNN on level-free log-mels, one window in, 256 standardised numbers out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from edge.errors import BundleError
from trainer.backbones.backbone import Backbone
from trainer.backbones.log_mel import FrontEndSettings, LogMel


@dataclass(frozen=True)
class StudentSettings:
    """Widths of the stem and of the four residual blocks, and the embedding dimension."""

    frontend: FrontEndSettings = field(default_factory=FrontEndSettings)
    widths: tuple[int, ...] = (32, 40, 80, 144, 256)
    strides: tuple[int, ...] = (1, 2, 2, 2)
    dim: int = 256

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> StudentSettings:
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


class Student(Backbone):
    """Waveform (n, window_length) float32 to embedding (n, dim) float32, each number of zero mean and unit variance.

    Its features are level-free log-mels (n, 1, n_mels, n_frames); a block puts out a map (n, channels, f, t); its
    tokens are the cells of the last map, time fastest. The last normalisation has no learnt scale: after training it
    standardises the embedding over the training pool, inside the graph.
    """

    kind = "student"
    EMBEDDINGS = ("projected",)
    lora_targets = ("first", "second", "shortcut.0")
    time_axis, frequency_axis = 3, 2

    def __init__(self, settings: StudentSettings = StudentSettings()) -> None:
        super().__init__()
        self.settings = settings
        self.sample_rate, self.window_length = settings.frontend.sample_rate, settings.frontend.window_length
        self.embedding, self.dim = "projected", settings.dim
        widths = settings.widths
        self.log_mel = LogMel(settings.frontend)
        self.input_norm = nn.BatchNorm2d(1)
        self.stem = nn.Conv2d(1, widths[0], 3, 2, 1, bias=False)
        self.stem_norm = nn.BatchNorm2d(widths[0])
        self.blocks = nn.ModuleList(
            ResidualBlock(a, b, s) for a, b, s in zip(widths[:-1], widths[1:], settings.strides, strict=True)
        )
        self.project = nn.Linear(4 * widths[-1], settings.dim)
        self.standardize = nn.BatchNorm1d(settings.dim, affine=False)

    def features(self, waveform: Tensor) -> Tensor:
        log_mel: Tensor = self.log_mel(waveform)
        return log_mel

    def feature_map(self, log_mel: Tensor) -> Tensor:
        """Log-mels (n, 1, n_mels, n_frames) to what the last block puts out, (n, channels, f, t)."""
        x = torch.relu(self.stem_norm(self.stem(self.input_norm(log_mel))))
        for block in self.blocks:
            x = block(x)
        return x

    def tokens(self, features: Tensor) -> Tensor:
        return self.feature_map(features).flatten(2).transpose(1, 2)

    def pool(self, tokens: Tensor) -> Tensor:
        n_time = -(-self.settings.frontend.n_frames // self._stride())
        return self._read_out(tokens.transpose(1, 2).unflatten(2, (-1, n_time)))

    def encode(self, features: Tensor) -> Tensor:
        return self._read_out(self.feature_map(features))

    def summary(self, block_output: Tensor) -> Tensor:
        return block_output.mean(dim=(2, 3))

    def description(self) -> dict[str, Any]:
        return asdict(self.settings)

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> Student:
        return cls(StudentSettings.from_dict(description))

    def _read_out(self, feature_map: Tensor) -> Tensor:
        embedding: Tensor = self.standardize(self.project(pool_thirds(feature_map)))
        return embedding

    def _stride(self) -> int:
        """Frames in one step of the last map."""
        product = 2
        for stride in self.settings.strides:
            product *= stride
        return product


def pool_thirds(x: Tensor) -> Tensor:
    """(n, c, f, t) -> (n, 4c): the means of three overlapping thirds of time, then the maximum over all of it.

    The thirds keep the order of what was heard (words need it); the maximum keeps short sounds.
    """
    n_time = x.shape[3]
    third = (n_time + 2) // 3
    starts = (0, (n_time - third) // 2, n_time - third)
    means = [x[:, :, :, s : s + third].mean(dim=(2, 3)) for s in starts]
    return torch.cat([*means, x.amax(dim=(2, 3))], dim=1)
