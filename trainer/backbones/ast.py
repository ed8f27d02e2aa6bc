"""AST (Gong et al. 2021): the layers of transformers' ASTModel behind our front end, positions cut for short sounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edge.errors import ConfigurationError
from trainer.backbones.backbone import Backbone
from trainer.backbones.described import check_embedding, check_sizes, settings_from
from trainer.backbones.kaldi import KaldiFilterbank, fit_frames

EMBEDDINGS = ("cls", "mean")


@dataclass(frozen=True)
class AstSettings:
    """window_length: samples. target_frames: frames that the network sees of a sound, cut or filled up with 0.0.

    max_frames: what the position table was made for; with fewer target frames its grid is cut centrally in time.
    mean, deviation: of the log filter bank over AudioSet; the input is (x - mean) / (2 deviation).
    """

    sample_rate: int = 16000
    window_length: int = 160000
    target_frames: int = 1024
    max_frames: int = 1024
    n_mels: int = 128
    patch: int = 16
    frequency_stride: int = 10
    time_stride: int = 10
    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp_width: int = 3072
    norm_epsilon: float = 1e-12
    mean: float = -4.2677393
    deviation: float = 4.5689974
    embedding: str = "cls"

    def __post_init__(self) -> None:
        sizes = ("window_length", "n_mels", "patch", "frequency_stride", "time_stride", "width", "depth", "heads")
        check_sizes(self, *sizes, "mlp_width")
        check_embedding(self.embedding, EMBEDDINGS)
        if self.width % self.heads:
            raise ConfigurationError(f"AST of width {self.width} has no {self.heads} equal heads; wanted a divisor")
        if not self.patch <= self.target_frames <= self.max_frames:
            raise ConfigurationError(
                f"AST cannot see {self.target_frames} frames; wanted {self.patch} to {self.max_frames}, which its "
                f"position table has room for"
            )

    @property
    def n_bands(self) -> int:
        return (self.n_mels - self.patch) // self.frequency_stride + 1

    def n_steps(self, n_frames: int) -> int:
        """Patches along time in ``n_frames``."""
        return (n_frames - self.patch) // self.time_stride + 1


class Ast(Backbone):
    """Waveform (n, window_length) to the mean of its two class tokens, or of its patch tokens, (n, width).

    Tokens 0 and 1 are CLS and distillation; token 2 + f n_steps + t is the patch at band f and time t: frequency major.
    ``tokens`` ends with the last LayerNorm, as ``last_hidden_state`` of transformers does; blocks put out what comes
    before it.
    """

    kind = "ast"
    EMBEDDINGS = EMBEDDINGS
    lora_targets = ("attention.q_proj", "attention.k_proj", "attention.v_proj")

    def __init__(self, settings: AstSettings = AstSettings()) -> None:
        super().__init__()
        from transformers import ASTConfig, ASTModel

        s = self.settings = settings
        self.sample_rate, self.window_length = s.sample_rate, s.window_length
        self.embedding, self.dim = s.embedding, s.width
        self.filterbank = KaldiFilterbank("hanning", n_mels=s.n_mels, sample_rate=s.sample_rate)
        config = ASTConfig(
            hidden_size=s.width,
            num_hidden_layers=s.depth,
            num_attention_heads=s.heads,
            intermediate_size=s.mlp_width,
            layer_norm_eps=s.norm_epsilon,
            patch_size=s.patch,
            frequency_stride=s.frequency_stride,
            time_stride=s.time_stride,
            max_length=s.max_frames,
            num_mel_bins=s.n_mels,
        )
        network = ASTModel(config)
        self.embeddings, self.blocks, self.layernorm = network.embeddings, network.layers, network.layernorm

    def features(self, waveform: Tensor) -> Tensor:
        features: Tensor = self.filterbank(waveform)
        return features

    def tokens(self, features: Tensor) -> Tensor:
        s = self.settings
        x = (fit_frames(features, s.target_frames) - s.mean) / (2.0 * s.deviation)
        x = self.embeddings.patch_embeddings(x)
        # Two padded rows plus a table, because expanding tokens to the batch would fix the batch in a traced graph.
        x = nn.functional.pad(x, (0, 0, 2, 0)) + self._table()
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.layernorm(x)
        return out

    def _table(self) -> Tensor:
        """Class tokens with their positions, then the positions of the patches seen, (n_tokens, width)."""
        s, parts = self.settings, self.embeddings
        positions = parts.position_embeddings[0]
        special = torch.cat([parts.cls_token[0], parts.distillation_token[0]]) + positions[:2]
        room, steps = s.n_steps(s.max_frames), s.n_steps(s.target_frames)
        start = room // 2 - steps // 2
        grid = positions[2:].reshape(s.n_bands, room, s.width)[:, start : start + steps]
        return torch.cat([special, grid.reshape(s.n_bands * steps, s.width)])

    def pool(self, tokens: Tensor) -> Tensor:
        return tokens[:, :2].mean(dim=1) if self.embedding == "cls" else tokens[:, 2:].mean(dim=1)

    def summary(self, block_output: Tensor) -> Tensor:
        return self.pool(block_output)

    def description(self) -> dict[str, Any]:
        return asdict(self.settings)

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> Ast:
        return cls(settings_from(AstSettings, description))
