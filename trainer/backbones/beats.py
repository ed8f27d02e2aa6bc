"""BEATs (Chen et al. 2022): a deep-norm transformer on patches, with gated relative positions along the tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edge.errors import AudioError, ConfigurationError
from trainer.backbones.backbone import Backbone
from trainer.backbones.described import check_embedding, check_sizes, settings_from
from trainer.backbones.kaldi import KaldiFilterbank

EMBEDDINGS = ("mean",)


@dataclass(frozen=True)
class BeatsSettings:
    """What the field ``cfg`` of a published file says, in our words; the defaults are those of BEATs iter3+ AS2M.

    deep_norm and max_distance change every number without changing a key or a shape: take them from the file.
    mean, deviation: of the log filter bank of int16 samples; the input is (x - mean) / (2 deviation).
    """

    sample_rate: int = 16000
    window_length: int = 160000
    n_mels: int = 128
    patch: int = 16
    patch_width: int = 512
    patch_bias: bool = False
    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp_width: int = 3072
    deep_norm: bool = True
    position_kernel: int = 128
    position_groups: int = 16
    relative_positions: bool = True
    gated_positions: bool = True
    n_buckets: int = 320
    max_distance: int = 800
    norm_epsilon: float = 1e-5
    mean: float = 15.41663
    deviation: float = 6.55582
    embedding: str = "mean"

    def __post_init__(self) -> None:
        sizes = ("window_length", "n_mels", "patch", "patch_width", "width", "depth", "heads", "mlp_width")
        check_sizes(self, *sizes, "position_kernel", "position_groups", "n_buckets", "max_distance")
        check_embedding(self.embedding, EMBEDDINGS)
        if self.width % self.heads or self.width % self.position_groups or self.n_mels % self.patch:
            raise ConfigurationError(
                f"BEATs of width {self.width}, {self.heads} heads, {self.position_groups} groups, {self.n_mels} bands "
                f"in patches of {self.patch} cannot be; wanted sizes that divide"
            )

    @property
    def residual_gain(self) -> float:
        """alpha = (2 depth)^(1/4) of deep norm (Wang et al. 2022), or 1."""
        return float((2.0 * self.depth) ** 0.25) if self.deep_norm else 1.0


def position_buckets(n_tokens: int, n_buckets: int, max_distance: int) -> NDArray[np.int64]:
    """Return the bucket (n_tokens, n_tokens) of each query row and key column (Raffel et al. 2020, bidirectional).

    Half the buckets are for keys behind the query. Of each half the first half are single steps, the rest widen
    logarithmically up to ``max_distance``. A step is one flat token, so it mixes time and frequency.
    """
    relative = np.arange(n_tokens)[None, :] - np.arange(n_tokens)[:, None]
    distance, half = np.abs(relative), n_buckets // 2
    exact = half // 2
    steps = np.log(np.maximum(distance, exact) / exact) / np.log(max_distance / exact) * (half - exact)
    wide = np.minimum(half - 1, exact + np.trunc(steps).astype(np.int64))
    return np.asarray(np.where(distance < exact, distance, wide) + half * (relative > 0))


class _PositionConvolution(nn.Module):
    """Grouped convolution over the token axis, each kernel tap normalised to the length ``weight_g`` (1, 1, kernel)."""

    def __init__(self, settings: BeatsSettings) -> None:
        super().__init__()
        self.groups, kernel = settings.position_groups, settings.position_kernel
        self.weight_g = nn.Parameter(torch.ones(1, 1, kernel))
        shape = (settings.width, settings.width // self.groups, kernel)
        self.weight_v = nn.Parameter((4.0 / (kernel * settings.width)) ** 0.5 * torch.randn(*shape))
        self.bias = nn.Parameter(torch.zeros(settings.width))

    def forward(self, x: Tensor) -> Tensor:
        n_tokens, kernel = int(x.shape[1]), int(self.weight_g.shape[2])
        # torch.norm over axes traces into an operator that the exporter folds; a root of a sum of squares would not.
        weight = self.weight_g * (self.weight_v / torch.norm(self.weight_v, p=2, dim=(0, 1), keepdim=True))
        y = nn.functional.conv1d(x.transpose(1, 2), weight, self.bias, padding=kernel // 2, groups=self.groups)
        return nn.functional.gelu(y[:, :, :n_tokens]).transpose(1, 2)


class _Attention(nn.Module):
    """Self-attention with a relative bias per head that each query gates for itself.

    grep_linear, grep_a: the gate. relative_attention_bias: one table (n_buckets, heads) that all blocks share.
    """

    def __init__(self, settings: BeatsSettings, relative: nn.Embedding | None) -> None:
        super().__init__()
        s = self.settings = settings
        self.q_proj, self.k_proj = nn.Linear(s.width, s.width), nn.Linear(s.width, s.width)
        self.v_proj, self.out_proj = nn.Linear(s.width, s.width), nn.Linear(s.width, s.width)
        self.relative_attention_bias = relative
        if relative is not None and s.gated_positions:
            self.grep_linear = nn.Linear(s.width // s.heads, 8)
            self.grep_a = nn.Parameter(torch.ones(1, s.heads, 1, 1))

    def bias(self, n_tokens: int) -> Tensor | None:
        """The relative bias (1, heads, n_tokens, n_tokens) before any gate."""
        if self.relative_attention_bias is None:
            return None
        buckets = torch.from_numpy(position_buckets(n_tokens, self.settings.n_buckets, self.settings.max_distance))
        weight = self.relative_attention_bias.weight
        return nn.functional.embedding(buckets.to(weight.device), weight).permute(2, 0, 1)[None]

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        n_tokens, width = int(x.shape[1]), int(x.shape[2])
        shape = (-1, n_tokens, self.settings.heads, width // self.settings.heads)
        q, k, v = (f(x).reshape(*shape).transpose(1, 2) for f in (self.q_proj, self.k_proj, self.v_proj))
        if bias is not None and self.settings.gated_positions:
            bias = self._gate(q) * bias
        attended = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        out: Tensor = self.out_proj(attended.transpose(1, 2).reshape(-1, n_tokens, width))
        return out

    def _gate(self, q: Tensor) -> Tensor:
        """(n, heads, n_tokens, 1) from queries that are not scaled yet."""
        shape = (-1, self.settings.heads, int(q.shape[2]), 2, 4)
        first, second = torch.sigmoid(self.grep_linear(q).reshape(*shape).sum(dim=4)).split(1, dim=3)
        gate: Tensor = first * (second * self.grep_a - 1.0) + 2.0
        return gate


class BeatsBlock(nn.Module):
    """x = norm(alpha x + attention(x)), then norm(alpha x + mlp(x)): tokens (n, n_tokens, width) to the same."""

    def __init__(self, settings: BeatsSettings, relative: nn.Embedding | None) -> None:
        super().__init__()
        s = settings
        self.gain = s.residual_gain
        self.self_attn = _Attention(s, relative)
        self.self_attn_layer_norm = nn.LayerNorm(s.width, s.norm_epsilon)
        self.fc1, self.fc2 = nn.Linear(s.width, s.mlp_width), nn.Linear(s.mlp_width, s.width)
        self.final_layer_norm = nn.LayerNorm(s.width, s.norm_epsilon)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """bias: what ``self_attn.bias`` gives, so that it is made once for all blocks; made here when left out."""
        if bias is None:
            bias = self.self_attn.bias(int(x.shape[1]))
        x = self.self_attn_layer_norm(self.gain * x + self.self_attn(x, bias))
        inner = self.fc2(nn.functional.gelu(self.fc1(x)))
        out: Tensor = self.final_layer_norm(self.gain * x + inner)
        return out


class Beats(Backbone):
    """Waveform (n, window_length) to the mean of the tokens of the last block, (n, width).

    Token 8 t + f is the patch at time t and band f; frames behind the last whole patch are dropped.
    """

    kind = "beats"
    EMBEDDINGS = EMBEDDINGS
    lora_targets = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")

    def __init__(self, settings: BeatsSettings = BeatsSettings()) -> None:
        super().__init__()
        s = self.settings = settings
        self.sample_rate, self.window_length = s.sample_rate, s.window_length
        self.embedding, self.dim = s.embedding, s.width
        self.filterbank = KaldiFilterbank("povey", scale=32768.0, n_mels=s.n_mels, sample_rate=s.sample_rate)
        self.patch_embedding = nn.Conv2d(1, s.patch_width, s.patch, s.patch, bias=s.patch_bias)
        self.layer_norm = nn.LayerNorm(s.patch_width, s.norm_epsilon)
        # The published files have no projection where the two widths are equal.
        same = s.patch_width == s.width
        self.post_extract_proj: nn.Module = nn.Identity() if same else nn.Linear(s.patch_width, s.width)
        self.pos_conv = _PositionConvolution(s)
        self.input_norm = nn.LayerNorm(s.width, s.norm_epsilon)
        relative = nn.Embedding(s.n_buckets, s.heads) if s.relative_positions else None
        self.blocks = nn.ModuleList(BeatsBlock(s, relative) for _ in range(s.depth))

    def features(self, waveform: Tensor) -> Tensor:
        features: Tensor = self.filterbank(waveform)
        return features

    def tokens(self, features: Tensor) -> Tensor:
        s = self.settings
        if int(features.shape[1]) < s.patch:
            raise AudioError(
                f"{int(features.shape[1])} frames fill no patch of BEATs; wanted {s.patch} or more, "
                f"which is {400 + 160 * (s.patch - 1)} samples"
            )
        x = self.patch_embedding(((features - s.mean) / (2.0 * s.deviation))[:, None])
        x = self.post_extract_proj(self.layer_norm(x.flatten(2).transpose(1, 2)))
        x = self.input_norm(x + self.pos_conv(x))
        first = self.blocks[0]
        assert isinstance(first, BeatsBlock)
        bias = first.self_attn.bias(int(x.shape[1]))
        for block in self.blocks:
            x = block(x, bias)
        out: Tensor = x
        return out

    def pool(self, tokens: Tensor) -> Tensor:
        return tokens.mean(dim=1)

    def summary(self, block_output: Tensor) -> Tensor:
        return block_output.mean(dim=1)

    def description(self) -> dict[str, Any]:
        return asdict(self.settings)

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> Beats:
        return cls(settings_from(BeatsSettings, description))
