"""Every number of PACE in one place: which the paper gives, and which are ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from edge.errors import ConfigurationError

FirstSession = Literal["improved", "naive", "none"]
Projection = Literal["leading", "complement", "none"]
Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class PaceSettings:
    """First session (FSA), the sessions after it (MSA), the boundary loss and the optimiser. (P): the paper's value.

    first_session: ``improved`` probes for the layer boundary, warms the head up and freezes it; ``naive`` trains LoRA
    on all blocks together with the head, which was warmed up as well; ``none`` leaves the backbone alone.
    cka_threshold (P 0.94): the first block whose CKA to the untouched backbone falls below it is the lowest that is
    adapted; None adapts all blocks and makes no probe. At least the last block is adapted.
    adapted_sessions: T3, how many sessions may change the backbone; None derives it from stop_samples (P 220): the
    first session at which more clips than that were seen.
    subtraction (P): covariances are taken under W0 - sum of the earlier adapters; without it under the current model.
    projection (P): ``leading`` keeps updates in the leading subspace of that covariance, ``complement`` out of it.
    kept_share (P 0.99): share of the covariance's trace in the leading subspace.
    project_initial: replace A by A P at the start, so that no part of the adapter is left outside.
    project_up: project B too, where a module's fan-out is a multiple of its fan-in.
    covariance_windows: windows of a session, evenly spaced, that the covariance is taken over.
    boundary_weight: weight of the boundary loss; 0 leaves it out, with everything that it needs.
    views (P 20), misread_share (P 0.3), margin (P 0.25): masked copies of each sample, share of them that must be
    misread to make it boundary-prone, and the margin delta on unit-length embeddings.
    step_views: masked copies of a sample in a training step. time_masked, frequency_masked: share of an axis that a
    mask covers. most_boundary_points: B_t is thinned to so many, and to one for each sample.
    rank, alpha: LoRA adds alpha / rank * B A. targets: modules of a block, the backbone's own when empty.
    backbone_learning_rate (P 0.05), head_learning_rate (P 0.01): peaks. later_learning_rate: of the backbone from the
    second session on.
    epochs (E_0), head_epochs (P 1), batch_size (P 24; samples are windows), momentum, weight_decay: SGD with a cosine
    to zero. probe_epochs: epochs when None. micro_batch: samples at once, None for the whole batch. precision: of the
    forward pass in training. label_smoothing: of the cross-entropy. max_gradient_norm: clipped above. seed: of
    everything drawn.
    """

    first_session: FirstSession = "improved"
    cka_threshold: float | None = 0.94
    adapted_sessions: int | None = None
    stop_samples: int = 220
    subtraction: bool = True
    projection: Projection = "leading"
    kept_share: float = 0.99
    project_initial: bool = True
    project_up: bool = False
    covariance_windows: int = 256
    boundary_weight: float = 0.1
    views: int = 20
    misread_share: float = 0.3
    margin: float = 0.25
    step_views: int = 1
    time_masked: float = 0.3
    frequency_masked: float = 0.3
    most_boundary_points: int = 512
    rank: int = 8
    alpha: int = 8
    targets: tuple[str, ...] = ()
    backbone_learning_rate: float = 0.05
    later_learning_rate: float = 0.01
    head_learning_rate: float = 0.01
    epochs: int = 10
    probe_epochs: int | None = None
    head_epochs: int = 1
    batch_size: int = 24
    micro_batch: int | None = None
    momentum: float = 0.9
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    max_gradient_norm: float = 5.0
    precision: Precision = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        _require("first_session", self.first_session in ("improved", "naive", "none"), "improved, naive or none", self)
        _require(
            "projection", self.projection in ("leading", "complement", "none"), "leading, complement or none", self
        )
        _require("precision", self.precision in ("float32", "bfloat16"), "float32 or bfloat16", self)
        for name in (
            "rank",
            "alpha",
            "epochs",
            "batch_size",
            "views",
            "step_views",
            "covariance_windows",
            "most_boundary_points",
        ):
            _require(name, getattr(self, name) >= 1, "1 or more", self)
        for name in ("kept_share", "misread_share", "time_masked", "frequency_masked", "momentum", "label_smoothing"):
            _require(name, 0.0 <= getattr(self, name) <= 1.0, "0 to 1", self)
        for name in (
            "backbone_learning_rate",
            "later_learning_rate",
            "head_learning_rate",
            "margin",
            "boundary_weight",
            "head_epochs",
            "stop_samples",
            "weight_decay",
            "seed",
        ):
            _require(name, getattr(self, name) >= 0.0, "0 or more", self)
        _require("max_gradient_norm", self.max_gradient_norm > 0.0, "more than 0", self)
        _require("probe_epochs", self.probe_epochs is None or self.probe_epochs >= 0, "0 or more, or none", self)
        _require("micro_batch", self.micro_batch is None or self.micro_batch >= 1, "1 or more, or none", self)
        _require(
            "adapted_sessions", self.adapted_sessions is None or self.adapted_sessions >= 0, "0 or more, or none", self
        )


def _require(name: str, holds: bool, wanted: str, settings: PaceSettings) -> None:
    if not holds:
        raise ConfigurationError(f"{name} is {getattr(settings, name)!r}; wanted {wanted}")


def with_settings(settings: PaceSettings, changes: Mapping[str, Any]) -> PaceSettings:
    """A copy with some settings replaced. Raises ConfigurationError that names an unknown one."""
    known = {f.name for f in fields(PaceSettings)}
    for name in changes:
        if name not in known:
            raise ConfigurationError(f"PACE has no setting {name!r}; wanted one of {', '.join(sorted(known))}")
    return replace(settings, **changes)
