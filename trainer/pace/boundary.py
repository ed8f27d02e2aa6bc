"""The boundary-aware loss: pull masked copies to their class, push a sound from where classes get confused."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from trainer.backbones.backbone import Backbone
from trainer.pace.masking import Masks, draw_masks, masked
from trainer.pace.settings import PaceSettings, Precision


@dataclass(frozen=True, eq=False)
class BoundarySet:
    """B_t: masked copies that the temporary model misread. sample: (m,) int64, whose copies they are. masks: m."""

    sample: Tensor
    masks: Masks

    def __len__(self) -> int:
        return len(self.sample)


@dataclass(frozen=True, eq=False)
class Landmarks:
    """What the loss measures distances to, on unit length, refreshed once an epoch and without gradient.

    centres: mu_c (k, dim). points: b (m, dim) of the boundary set. owner: (m,) whose copies they are.
    """

    centres: Tensor
    points: Tensor
    owner: Tensor


def in_precision(device: torch.device, precision: Precision) -> torch.autocast:
    """A context in which a forward pass runs in ``precision``; weights stay as they are."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


def axes_of(backbone: Backbone) -> tuple[int, int]:
    """Axes of time and frequency of the features."""
    return backbone.time_axis, backbone.frequency_axis


def masks_for(backbone: Backbone, features: Tensor, n: int, settings: PaceSettings, generator: Generator) -> Masks:
    """Draw n masks that fit ``features``."""
    time_axis, frequency_axis = axes_of(backbone)
    shares = settings.time_masked, settings.frequency_masked
    return draw_masks(n, features.shape[time_axis], features.shape[frequency_axis], shares, generator)


def boundary_set(
    temporary: Backbone,
    head: nn.Module,
    features: Tensor,
    targets: Tensor,
    settings: PaceSettings,
    generator: Generator,
    *,
    batch_size: int = 64,
) -> BoundarySet:
    """Find the boundary-prone samples and their misread copies.

    temporary: the model of the moment with a ``head`` that knows the session's classes (theta_temp; the backbone before
    the session with the warmed-up head is our reading). features (n, ...), targets (n,) int64. A sample is prone when
    more than ``misread_share`` of its ``views`` masked copies are misread. Source: PACE, boundary-aware perturbations.
    """
    n, device = len(features), next(temporary.parameters()).device
    masks = masks_for(temporary, features, n * settings.views, settings, generator)
    sample = torch.arange(n).repeat_interleave(settings.views)
    misread = torch.zeros(len(sample), dtype=torch.bool)
    with torch.no_grad():
        for start in range(0, len(sample), batch_size):
            rows = slice(start, start + batch_size)
            part = Masks(masks.time[rows], masks.frequency[rows], masks.time_width, masks.frequency_width)
            copies = masked(features[sample[rows]].to(device).float(), part, axes_of(temporary))
            with in_precision(device, settings.precision):
                z = temporary.encode(copies)
            answer = head(z.float()).argmax(dim=1).cpu()
            misread[rows] = answer != targets[sample[rows]]
    share = misread.reshape(n, settings.views).float().mean(dim=1)
    kept = torch.nonzero(misread & (share > settings.misread_share)[sample]).flatten()
    most = min(settings.most_boundary_points, n)
    if len(kept) > most:
        chosen = torch.randperm(len(kept), generator=generator)[:most]
        kept = kept[chosen.sort().values]
    return BoundarySet(sample[kept], masks[kept])


def landmarks(
    model: Backbone,
    features: Tensor,
    targets: Tensor,
    n_classes: int,
    boundary: BoundarySet,
    *,
    batch_size: int = 64,
    precision: Precision = "float32",
) -> Landmarks:
    """Class centres of the training embeddings and the embeddings of the boundary points, under the model of now."""
    device = next(model.parameters()).device

    def embedded(rows: Tensor, masks: Masks | None) -> Tensor:
        parts = []
        with torch.no_grad():
            for start in range(0, len(rows), batch_size):
                part = slice(start, start + batch_size)
                x = features[rows[part]].to(device).float()
                if masks is not None:
                    own = Masks(masks.time[part], masks.frequency[part], masks.time_width, masks.frequency_width)
                    x = masked(x, own, axes_of(model))
                with in_precision(device, precision):
                    z = model.encode(x)
                parts.append(nn.functional.normalize(z.float(), dim=1))
        return torch.cat([torch.zeros(0, model.dim, device=device), *parts])

    z = embedded(torch.arange(len(features)), None)
    centres = torch.zeros(n_classes, model.dim, device=device)
    centres.index_add_(0, targets.to(device), z)
    counts = torch.bincount(targets, minlength=n_classes).clamp(min=1).to(device)
    points = embedded(boundary.sample, boundary.masks)
    return Landmarks(centres / counts[:, None], points, boundary.sample.to(device))


def boundary_loss(z: Tensor, views: Tensor, targets: Tensor, sample: Tensor, marks: Landmarks, margin: float) -> Tensor:
    """L_reg of each of n samples, (n,).

    max(0, delta + mean over the sample's views u of |f(u) - mu_c|^2 - min over boundary points b of |f(x) - b|^2), all
    on unit length; the sample itself is one of its views, and its own copies are no boundary to it. Zero without a
    boundary set. z: f(x) (n, dim). views: f(u) (n, v, dim). targets, sample: (n,). Source: PACE, eq. of L_reg.
    """
    if len(marks.points) == 0:
        return torch.zeros(len(z), device=z.device)
    z, views = nn.functional.normalize(z, dim=1), nn.functional.normalize(views, dim=2)
    own = torch.cat([z[:, None], views], dim=1)
    pull = (own - marks.centres[targets][:, None]).square().sum(dim=2).mean(dim=1)
    away = (2.0 - 2.0 * (z @ nn.functional.normalize(marks.points, dim=1).T)).clamp(min=0.0)
    away = torch.where(marks.owner[None, :] == sample[:, None], torch.inf, away)
    nearest = away.min(dim=1).values
    return torch.where(torch.isfinite(nearest), (margin + pull - nearest).clamp(min=0.0), torch.zeros_like(pull))
