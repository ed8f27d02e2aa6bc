"""What the student is asked: read-outs from its embedding to every teacher's answer, and how wrong they are.

Smooth L1 + cosine to each teacher's standardised embedding, binary cross-entropy to the sound teacher's class scores,
and cross-entropy to the labels of sounds and words where the data names them.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.distillation.schedule import DistilSettings
from trainer.distillation.shards import MOMENT_ROWS, Bank

TARGET_CLIP = 5.0


class Answers(nn.Module):
    """Linear read-outs from the embedding to every target; thrown away after training."""

    def __init__(self, dim: int, bank: Bank) -> None:
        super().__init__()
        self.heads = nn.ModuleDict()
        for key in ("sound", "sound_scores", "speech"):
            if key in bank.arrays:
                self.heads[key] = head = nn.Linear(dim, bank.arrays[key].shape[1])
                if key == "sound_scores":
                    rate = np.clip(bank.arrays[key][:MOMENT_ROWS].astype(np.float32).mean(axis=0), 1e-4, 0.5)
                    head.bias.data = torch.from_numpy(np.log(rate / (1.0 - rate)))
                else:
                    mean, deviation = bank.moments(key)
                    self.register_buffer(f"{key}_mean", torch.from_numpy(mean))
                    self.register_buffer(f"{key}_deviation", torch.from_numpy(deviation))
        if bank.n_sounds:
            self.heads["sound_label"] = nn.Linear(dim, bank.n_sounds)
        if bank.n_words:
            self.heads["word_label"] = nn.Linear(dim, bank.n_words)

    def standardized(self, key: str, target: Tensor) -> Tensor:
        """A teacher's embedding (n, m) with the bank's mean and deviation taken out, clipped to +-5."""
        z: Tensor = (target - getattr(self, f"{key}_mean")) / getattr(self, f"{key}_deviation")
        return z.clamp(-TARGET_CLIP, TARGET_CLIP)

    def losses(self, embedding: Tensor, batch: Mapping[str, Tensor], s: DistilSettings) -> dict[str, Tensor]:
        """Return the weighted terms of the loss, each a scalar; terms of weight 0 or without a row are absent.

        embedding: (n, dim). batch: what ``Bank.batch`` gave, on the same device.
        """
        terms: dict[str, Tensor] = {}
        for key, weight in (("sound", s.sound_weight), ("speech", s.speech_weight)):
            if key in self.heads and weight > 0.0:
                rows = batch["speech_mask"] if key == "speech" else torch.ones_like(batch["share"], dtype=torch.bool)
                if not bool(rows.any()):
                    continue
                target = self.standardized(key, batch[key][rows])
                answer = self.heads[key](embedding[rows])
                cosine = 1.0 - functional.cosine_similarity(answer, target, dim=1).mean()
                terms[key] = weight * (functional.smooth_l1_loss(answer, target) + cosine)
        if "sound_scores" in self.heads and s.scores_weight > 0.0:
            logits = self.heads["sound_scores"](embedding)
            bce = functional.binary_cross_entropy_with_logits(logits, batch["sound_scores"])
            terms["sound_scores"] = s.scores_weight * bce
        for key, weight in (("sound_label", s.sound_label_weight), ("word_label", s.word_label_weight)):
            if key in self.heads and weight > 0.0:
                term = shared_cross_entropy(self.heads[key](embedding), batch[key], batch["share"], s.label_smoothing)
                terms[key] = weight * term
        return terms


def shared_cross_entropy(logits: Tensor, labels: Tensor, share: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy to up to two labels a window, weighted by each one's share; -1 is no label.

    logits: (n, k), labels: (n, 2) int64, share: (n,) of the first label. Returns the sum divided by the labelled
    weight, or by 1 where that is less, so that a batch with hardly a label has little to say.
    """
    log_p = functional.log_softmax(logits, dim=1)
    weights = torch.stack([share, 1.0 - share], dim=1) * (labels >= 0)
    chosen = log_p.gather(1, labels.clamp(min=0))
    uniform = log_p.mean(dim=1, keepdim=True)
    loss = -(weights * ((1.0 - smoothing) * chosen + smoothing * uniform)).sum()
    return loss / weights.sum().clamp(min=1.0)
