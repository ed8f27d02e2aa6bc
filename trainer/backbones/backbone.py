"""What every backbone is: features of a window, tokens of its blocks, one embedding, and where LoRA may go."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from edge.errors import ConfigurationError


class Backbone(nn.Module, ABC):
    """A network from waveform (n, window_length) float32 in -1..1 to embedding (n, dim) float32.

    kind: the word that ``checkpoint.json`` and the command line use. sample_rate: Hz. window_length: samples; it is
    fixed, so that the exported graph has one shape. embedding: which of ``EMBEDDINGS`` is pooled. dim: its length.
    blocks: the layers from input to output that are compared by CKA and adapted one by one. lora_targets: names of the
    modules inside a block that LoRA adapts unless told otherwise. time_axis, frequency_axis: of the features.

    A backbone is used in evaluation mode throughout, also while it is adapted: nothing in it draws random numbers and
    no running statistic moves, so that an embedding depends on weights and window alone.
    """

    kind: ClassVar[str]
    EMBEDDINGS: ClassVar[tuple[str, ...]]
    lora_targets: ClassVar[tuple[str, ...]]
    time_axis: ClassVar[int] = 1
    frequency_axis: ClassVar[int] = 2

    sample_rate: int
    window_length: int
    embedding: str
    dim: int
    blocks: nn.ModuleList

    @abstractmethod
    def features(self, waveform: Tensor) -> Tensor:
        """Waveform (n, window_length) to time-frequency features; transformers: (n, n_frames, n_mels) natural log."""

    @abstractmethod
    def tokens(self, features: Tensor) -> Tensor:
        """Features to what the last block puts out, (n, n_tokens, width)."""

    @abstractmethod
    def pool(self, tokens: Tensor) -> Tensor:
        """Tokens of the last block to the embedding (n, dim)."""

    @abstractmethod
    def summary(self, block_output: Tensor) -> Tensor:
        """One vector of each sample from what any block puts out, (n, width): what CKA compares."""

    @abstractmethod
    def description(self) -> dict[str, Any]:
        """Everything but the weights, as JSON values: ``from_description`` builds the same network from it."""

    @classmethod
    @abstractmethod
    def from_description(cls, description: Mapping[str, Any]) -> Backbone:
        """Build the network with weights that are not trained. Raises BundleError for unknown or missing keys."""

    def encode(self, features: Tensor) -> Tensor:
        """Features to embedding (n, dim)."""
        return self.pool(self.tokens(features))

    def forward(self, waveform: Tensor) -> Tensor:
        return self.encode(self.features(waveform))

    def n_weights(self) -> int:
        return sum(p.numel() for p in self.parameters())


def block_outputs(backbone: Backbone, features: Tensor) -> list[Tensor]:
    """What each block puts out for ``features``, in order, as ``summary`` sees it: (n, width) each, no gradient."""
    found: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        found.append(backbone.summary(output))

    handles = [block.register_forward_hook(keep) for block in backbone.blocks]
    try:
        with torch.no_grad():
            backbone.tokens(features)
    finally:
        for handle in handles:
            handle.remove()
    return found


def adapted_modules(backbone: Backbone, blocks: Sequence[int], targets: Sequence[str] = ()) -> list[str]:
    """Full names of the modules of some blocks (counted from 0) that LoRA adapts, in order.

    targets: names inside a block, the backbone's own when empty. Raises ConfigurationError for a block without any.
    """
    wanted = tuple(targets) or backbone.lora_targets
    names = []
    for i in blocks:
        found = [name for name, _ in backbone.blocks[i].named_modules() if name in wanted]
        if not found:
            inside = [name for name, m in backbone.blocks[i].named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
            raise ConfigurationError(
                f"block {i} of {backbone.kind} has no module called {' or '.join(wanted)}; it has {', '.join(inside)}"
            )
        names += [f"blocks.{i}.{name}" for name in found]
    return names
