"""LoRA on chosen blocks of a backbone, by peft, and back out of it as matrices."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from trainer.backbones.backbone import Backbone, adapted_modules
from trainer.backbones.checkpoint import Adapter


@dataclass(frozen=True, eq=False)
class LiveLora:
    """A copy of a backbone with one trainable adapter in it; everything else is frozen.

    model: in evaluation mode. down, up: A (r, ...) and B (out, r, ...) by full module name. scaling: alpha / rank.
    """

    name: str
    model: Backbone
    down: Mapping[str, nn.Parameter]
    up: Mapping[str, nn.Parameter]
    scaling: float

    def parameters(self) -> list[nn.Parameter]:
        """All that is trained, in a fixed order."""
        return [p for n in self.down for p in (self.down[n], self.up[n])]

    def adapter(self) -> Adapter:
        """The matrices as they are now, copied to the CPU in float32."""

        def copied(matrices: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
            return {n: p.detach().float().cpu().clone() for n, p in matrices.items()}

        return Adapter(self.name, self.scaling, copied(self.down), copied(self.up))


def with_lora(
    backbone: Backbone,
    name: str,
    blocks: Sequence[int],
    *,
    rank: int,
    alpha: int,
    seed: int,
    targets: Sequence[str] = (),
) -> LiveLora:
    """Copy ``backbone`` and put fresh LoRA on some of its blocks: B = 0, A from ``seed``. The original is not touched.

    Raises ConfigurationError for a block without the modules named by ``targets``. Source: Hu et al. 2021.
    """
    names = adapted_modules(backbone, blocks, targets)
    model = copy.deepcopy(backbone)
    model.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, bias="none", target_modules=names)
        inject_adapter_in_model(config, model, adapter_name=name)
    model.eval()
    device = next(backbone.parameters()).device
    model.to(device)
    layers = {n: model.get_submodule(n) for n in names}
    down = {n: layer.get_parameter(f"lora_A.{name}.weight") for n, layer in layers.items()}
    up = {n: layer.get_parameter(f"lora_B.{name}.weight") for n, layer in layers.items()}
    for parameter in (*down.values(), *up.values()):
        parameter.requires_grad_(True)
    return LiveLora(name, model, down, up, alpha / rank)
