"""The smallest ear: a transformer of about 6,000 weights on level-free log-mels, for the smallest processors.

Of the size that Elliott et al. 2021 ("Tiny Transformers for Environmental Sound Classification at the Edge") found
possible; the layers are our own, for their table was not at hand.
"""

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
class TinyTransformerSettings:
    """frames_per_token: frames whose mean is one token (5: 50 ms). width: of a token, a multiple of ``heads``. depth:
    blocks. hidden: width of the perceptron in a block. dim: of the embedding."""

    frontend: FrontEndSettings = field(default_factory=FrontEndSettings)
    frames_per_token: int = 5
    width: int = 16
    heads: int = 2
    depth: int = 2
    hidden: int = 32
    dim: int = 24

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TinyTransformerSettings:
        known = ("frontend", "frames_per_token", "width", "heads", "depth", "hidden", "dim")
        if set(values) != set(known):
            differing = sorted(set(values) ^ set(known))
            raise BundleError(
                f"the settings hold or lack {differing}; wanted {', '.join(known)}; "
                "read it with the trainer that wrote it"
            )
        numbers = {name: int(values[name]) for name in known[1:]}
        return cls(frontend=FrontEndSettings(**values["frontend"]), **numbers)


class TinyBlock(nn.Module):
    """Attention and a perceptron, each behind its norm and around a shortcut (pre-norm; Xiong et al. 2020)."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        n_tokens, width = int(x.shape[1]), int(x.shape[2])
        split = self.qkv(self.norm1(x)).reshape(-1, n_tokens, 3, self.heads, width // self.heads)
        q, k, v = split.permute(2, 0, 3, 1, 4).unbind(0)
        attended = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        x = x + self.proj(attended.reshape(-1, n_tokens, width))
        out: Tensor = x + self.fc2(torch.relu(self.fc1(self.norm2(x))))
        return out


class TinyTransformer(Backbone):
    """Waveform (n, window_length) float32 to embedding (n, dim) float32, each number of zero mean and unit variance.

    Its features are level-free log-mels (n, 1, n_mels, n_frames), its tokens (n, n_tokens, width). As in the student,
    the last normalisation has no learnt scale and standardises the embedding over the training pool.
    """

    kind = "tiny_transformer"
    EMBEDDINGS = ("projected",)
    lora_targets = ("qkv", "proj", "fc1", "fc2")
    time_axis, frequency_axis = 3, 2

    positions: Tensor

    def __init__(self, settings: TinyTransformerSettings = TinyTransformerSettings()) -> None:
        super().__init__()
        self.settings = settings
        self.sample_rate, self.window_length = settings.frontend.sample_rate, settings.frontend.window_length
        self.embedding, self.dim = "projected", settings.dim
        self.log_mel = LogMel(settings.frontend)
        self.input_norm = nn.BatchNorm2d(1)
        self.embed = nn.Linear(settings.frontend.n_mels, settings.width)
        self.register_buffer("positions", sinusoids(self.n_tokens, settings.width), persistent=False)
        self.blocks = nn.ModuleList(
            TinyBlock(settings.width, settings.heads, settings.hidden) for _ in range(settings.depth)
        )
        self.norm = nn.LayerNorm(settings.width)
        self.project = nn.Linear(2 * settings.width, settings.dim)
        self.standardize = nn.BatchNorm1d(settings.dim, affine=False)

    @property
    def n_tokens(self) -> int:
        return self.settings.frontend.n_frames // self.settings.frames_per_token

    def features(self, waveform: Tensor) -> Tensor:
        log_mel: Tensor = self.log_mel(waveform)
        return log_mel

    def tokens(self, features: Tensor) -> Tensor:
        step = self.settings.frames_per_token
        frames = self.input_norm(features)[:, 0, :, : step * self.n_tokens]
        averaged = frames.reshape(-1, self.settings.frontend.n_mels, self.n_tokens, step).mean(dim=3)
        x: Tensor = self.embed(averaged.transpose(1, 2)) + self.positions
        for block in self.blocks:
            x = block(x)
        return x

    def pool(self, tokens: Tensor) -> Tensor:
        x = self.norm(tokens)
        embedding: Tensor = self.standardize(self.project(torch.cat([x.mean(dim=1), x.amax(dim=1)], dim=1)))
        return embedding

    def summary(self, block_output: Tensor) -> Tensor:
        return block_output.mean(dim=1)

    def description(self) -> dict[str, Any]:
        return asdict(self.settings)

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> TinyTransformer:
        return cls(TinyTransformerSettings.from_dict(description))


def sinusoids(n: int, width: int) -> Tensor:
    """Positions (n, width): sines and cosines of wavelengths from 2 pi to 10,000 times that (Vaswani et al. 2017)."""
    angle = torch.arange(n)[:, None] / 10_000.0 ** (torch.arange(0, width, 2) / width)
    return torch.stack([torch.sin(angle), torch.cos(angle)], dim=2).flatten(1)[:, :width]
