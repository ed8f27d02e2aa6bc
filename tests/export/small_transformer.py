"""A transformer small enough to export in a test: patches of log-mels, two blocks, the mean of the tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainer.backbones.log_mel import FrontEndSettings, LogMel

WIDTH, HEADS, DEPTH = 96, 3, 2


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.fc1, self.fc2 = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        n_tokens = int(x.shape[1])
        split = self.qkv(self.norm1(x)).reshape(-1, n_tokens, 3, HEADS, WIDTH // HEADS)
        q, k, v = split.permute(2, 0, 3, 1, 4).unbind(0)
        attended = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        x = x + self.proj(attended.reshape(-1, n_tokens, WIDTH))
        out: Tensor = x + self.fc2(nn.functional.gelu(self.fc1(self.norm2(x))))
        return out


class SmallTransformer(nn.Module):
    """Waveform (n, 16000) to (n, WIDTH)."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.log_mel = LogMel(FrontEndSettings())
        self.patch = nn.Conv2d(1, WIDTH, 16, 16)
        self.positions = nn.Parameter(0.1 * torch.randn(1, 24, WIDTH))
        self.blocks = nn.ModuleList(Block() for _ in range(DEPTH))
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, waveform: Tensor) -> Tensor:
        x = self.patch(self.log_mel(waveform) / 3.0).flatten(2).transpose(1, 2) + self.positions
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.norm(x).mean(dim=1)
        return out


def with_large_channels(model: SmallTransformer) -> SmallTransformer:
    """As training leaves transformers: a few channels far larger than the rest."""
    with torch.no_grad():
        model.patch.weight[:3] *= 30.0
        for block in model.blocks:
            block.norm1.weight[7] *= 20.0  # type: ignore[index, union-attr]
            block.norm2.weight[5] *= 20.0  # type: ignore[index, union-attr]
            block.fc1.bias[3] += 8.0  # type: ignore[index, union-attr]
    return model
