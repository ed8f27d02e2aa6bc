"""Embeddings of many samples, whose bits depend on weights and sample alone."""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.backbones.backbone import Backbone
from trainer.pace.memory import Say, in_smaller_batches
from trainer.parallel import World

LARGEST_BATCH = 32
"""Samples at once where nothing is trained."""


def embed_features(
    model: Backbone,
    features: Tensor,
    batch_size: int = LARGEST_BATCH,
    world: World = World(),
    say: Say = lambda words: None,
) -> Tensor:
    """Embeddings (n, dim) float32 on the CPU of features (n, ...), a batch at a time, without gradient.

    Every batch has the same size, the last one filled up with zeros, and several processes divide whole batches: the
    bits of an embedding depend neither on what is embedded with it nor on how many processes there are. One process
    that runs out of memory takes smaller batches. Raises TrainingError when not even one sample fits.
    """
    device = next(model.parameters()).device

    def embed(size: int) -> Tensor:
        found = torch.zeros(len(features), model.dim, device=device)
        starts = range(0, len(features), size)
        with torch.no_grad():
            for k in world.mine(len(starts)):
                x = features[starts[k] : starts[k] + size].to(device).float()
                filled = torch.cat([x, x.new_zeros(size - len(x), *x.shape[1:])])
                found[starts[k] : starts[k] + len(x)] = model.encode(filled)[: len(x)].float()
        return found

    found = embed(batch_size) if world.size > 1 else in_smaller_batches(embed, batch_size, say)
    return world.sum(found).cpu()
