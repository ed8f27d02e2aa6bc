"""EAT (Chen et al. 2024) and SSLAM, which shares its network: a post-norm vision transformer on Kaldi filter banks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edge.errors import ConfigurationError
from trainer.backbones.backbone import Backbone
from trainer.backbones.described import check_embedding, check_sizes, settings_from
from trainer.backbones.kaldi import KaldiFilterbank, fit_frames, padded_frames

EMBEDDINGS = ("cls", "mean")


@dataclass(frozen=True)
class EatSettings:
    """window_length: samples. target_frames: frames the network sees; None: as many as the sound has, filled up.

    n_time_positions: rows of patches that the position table has room for. mean, deviation: of the log filter bank over
    the pre-training set; the input is (x - mean) / (2 deviation).
    """

    sample_rate: int = 16000
    window_length: int = 160000
    target_frames: int | None = None
    n_mels: int = 128
    patch: int = 16
    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp_width: int = 3072
    norm_epsilon: float = 1e-6
    n_time_positions: int = 768
    mean: float = -4.268
    deviation: float = 4.569
    embedding: str = "cls"

    def __post_init__(self) -> None:
        check_sizes(
            self, "window_length", "n_mels", "patch", "width", "depth", "heads", "mlp_width", "n_time_positions"
        )
        check_embedding(self.embedding, EMBEDDINGS)
        if self.width % self.heads or self.width % 4 or self.n_mels % self.patch:
            raise ConfigurationError(
                f"EAT of width {self.width}, {self.heads} heads, {self.n_mels} bands in patches of {self.patch} cannot "
                f"be; wanted a width that 4 and the heads divide, and bands that the patch divides"
            )
        if self.target_frames is not None and (self.target_frames < 1 or self.target_frames % self.patch):
            raise ConfigurationError(f"EAT cannot see {self.target_frames} frames; wanted a multiple of {self.patch}")


def position_table(n_time: int, n_bands: int, width: int) -> NDArray[np.float64]:
    """Return fixed positions (n_time * n_bands, width), time major: the first half of a row tells the band, then time.

    Each half is [sin(p w), cos(p w)] with w_i = 10000^(-4 i / width) (Vaswani et al. 2017, in two dimensions).
    """
    frequencies = 10000.0 ** (-4.0 * np.arange(width // 4) / width)

    def half(positions: NDArray[np.int64]) -> NDArray[np.float64]:
        angles = np.outer(positions, frequencies)
        return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)

    time, band = np.divmod(np.arange(n_time * n_bands), n_bands)
    return np.concatenate([half(band), half(time)], axis=1)


class _Attention(nn.Module):
    """Self-attention whose queries, keys and values are one matrix, in that order."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n_tokens, width = int(x.shape[1]), int(x.shape[2])
        split = self.qkv(x).reshape(-1, n_tokens, 3, self.heads, width // self.heads)
        q, k, v = split.permute(2, 0, 3, 1, 4).unbind(0)
        attended = nn.functional.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.proj(attended.transpose(1, 2).reshape(-1, n_tokens, width))
        return out


class _Mlp(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, inner)
        self.fc2 = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(nn.functional.gelu(self.fc1(x)))
        return out


class EatBlock(nn.Module):
    """u = norm1(x + attention(x)), then norm2(u + mlp(u)): tokens (n, n_tokens, width) to the same."""

    def __init__(self, settings: EatSettings) -> None:
        super().__init__()
        self.attn = _Attention(settings.width, settings.heads)
        self.norm1 = nn.LayerNorm(settings.width, settings.norm_epsilon)
        self.mlp = _Mlp(settings.width, settings.mlp_width)
        self.norm2 = nn.LayerNorm(settings.width, settings.norm_epsilon)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(x + self.attn(x))
        out: Tensor = self.norm2(x + self.mlp(x))
        return out


class Eat(Backbone):
    """Waveform (n, window_length) to the CLS token or the mean of the patch tokens of the last block, (n, width).

    Token 0 is CLS, token 1 + 8 t + f the patch at time t and band f. There is no norm after the last block.
    """

    kind = "eat"
    EMBEDDINGS = EMBEDDINGS
    lora_targets = ("attn.qkv",)

    def __init__(self, settings: EatSettings = EatSettings()) -> None:
        super().__init__()
        s = self.settings = settings
        self.sample_rate, self.window_length = s.sample_rate, s.window_length
        self.embedding, self.dim = s.embedding, s.width
        self.filterbank = KaldiFilterbank("hanning", n_mels=s.n_mels, sample_rate=s.sample_rate)
        self.patch = nn.Conv2d(1, s.width, s.patch, s.patch)
        self.cls_token = nn.Parameter(0.02 * torch.randn(1, 1, s.width))
        table = position_table(s.n_time_positions, s.n_mels // s.patch, s.width)
        self.register_buffer("positions", torch.tensor(table, dtype=torch.float32)[None])
        self.input_norm = nn.LayerNorm(s.width, s.norm_epsilon)
        self.blocks = nn.ModuleList(EatBlock(s) for _ in range(s.depth))

    positions: Tensor

    def features(self, waveform: Tensor) -> Tensor:
        features: Tensor = self.filterbank(waveform)
        return features

    def frames_seen(self, n_frames: int) -> int:
        """Frames the network sees of ``n_frames``: what was set, or whole patches as they are, or filled up to 32s."""
        if self.settings.target_frames is not None:
            return self.settings.target_frames
        return n_frames if n_frames > 0 and n_frames % self.settings.patch == 0 else padded_frames(n_frames)

    def tokens(self, features: Tensor) -> Tensor:
        s = self.settings
        x = fit_frames(features, self.frames_seen(int(features.shape[1])))
        x = self.patch(((x - s.mean) / (2.0 * s.deviation))[:, None]).flatten(2).transpose(1, 2)
        n_patches = int(x.shape[1])
        if n_patches > self.positions.shape[1]:
            raise ConfigurationError(
                f"{n_patches} patches are more than the {self.positions.shape[1]} positions of this EAT; "
                f"wanted {s.n_time_positions * s.patch} frames at most"
            )
        # A padded row plus a table, because expanding the token to the batch would fix the batch in a traced graph.
        table = torch.cat([self.cls_token[0], self.positions[0, :n_patches]])
        x = self.input_norm(nn.functional.pad(x, (0, 0, 1, 0)) + table)
        for block in self.blocks:
            x = block(x)
        out: Tensor = x
        return out

    def pool(self, tokens: Tensor) -> Tensor:
        return tokens[:, 0] if self.embedding == "cls" else tokens[:, 1:].mean(dim=1)

    def summary(self, block_output: Tensor) -> Tensor:
        return self.pool(block_output)

    def description(self) -> dict[str, Any]:
        return asdict(self.settings)

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> Eat:
        return cls(settings_from(EatSettings, description))
