"""What only the trainer refuses; the rest comes from ``edge.errors``."""

from __future__ import annotations

from edge.errors import SoundkeepError


class TrainingError(SoundkeepError):
    """A training cannot go on: a damaged bank or run, a missing tool, a loss that is not finite, a wish to stop."""


class ExecutorError(SoundkeepError):
    """Work in shards cannot go on: workers die again and again, or the cluster cannot be reached."""
