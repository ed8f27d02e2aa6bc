"""Settings: the paper's values, and what cannot be."""

from __future__ import annotations

from typing import Any

import pytest

from edge.errors import ConfigurationError
from trainer.pace.settings import PaceSettings, with_settings


def test_the_values_of_the_paper() -> None:
    s = PaceSettings()
    assert (s.cka_threshold, s.stop_samples, s.kept_share) == (0.94, 220, 0.99)
    assert (s.views, s.misread_share, s.margin) == (20, 0.3, 0.25)
    assert (s.backbone_learning_rate, s.head_learning_rate, s.head_epochs, s.batch_size) == (0.05, 0.01, 1, 24)
    assert (s.first_session, s.projection, s.subtraction) == ("improved", "leading", True)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("first_session", "better"), ("projection", "trailing"), ("precision", "float16"), ("rank", 0), ("epochs", 0),
        ("batch_size", 0), ("views", 0), ("step_views", 0), ("covariance_windows", 0), ("most_boundary_points", 0),
        ("kept_share", 1.1), ("misread_share", -0.1), ("time_masked", 2.0), ("frequency_masked", float("nan")),
        ("backbone_learning_rate", -1.0), ("later_learning_rate", float("nan")), ("margin", -0.1),
        ("boundary_weight", -1.0), ("head_epochs", -1), ("micro_batch", 0), ("adapted_sessions", -1),
        ("alpha", 0), ("momentum", -0.1), ("momentum", 1.5), ("weight_decay", -1.0), ("label_smoothing", 1.5),
        ("max_gradient_norm", 0.0), ("probe_epochs", -1), ("stop_samples", -1), ("seed", -1),
    ],
)  # fmt: skip
def test_what_cannot_be_is_named(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"{name} is {value!r}; wanted"):
        PaceSettings(**{name: value})


def test_edges_that_can_be() -> None:
    PaceSettings(kept_share=0.0, misread_share=1.0, adapted_sessions=0, micro_batch=1, cka_threshold=None, momentum=0.0)
    PaceSettings(head_epochs=0, probe_epochs=0, boundary_weight=0.0, max_gradient_norm=float("inf"), stop_samples=0)


def test_changes_by_name_and_an_unknown_name() -> None:
    assert with_settings(PaceSettings(), {"rank": 3}).rank == 3
    with pytest.raises(ConfigurationError, match="PACE has no setting 'ranks'; wanted one of adapted_sessions"):
        with_settings(PaceSettings(), {"ranks": 3})
