"""What one device may ask of the server; the operator's numbers, with defaults that suit a few thousand devices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from edge.errors import ConfigurationError

CHUNK_BYTES = 256 * 1024
DAY_SECONDS = 86_400
MINUTE_SECONDS = 60
LIMITS_KEY = "limits"


@dataclass(frozen=True)
class ServerSettings:
    """Limits of each device, and how often the server looks after itself.

    max_windows: of one statement. max_header_bytes: JSON of the labels of one statement. max_clip_bytes: one WAV file.
    stale_upload_seconds: when an unfinished upload is dropped. moving_clips_seconds: how long clips wait for the
    embeddings of a device that moved to another space. keep_seconds: between two rounds of the keeper.
    """

    max_upload_bytes: int = 64 << 20
    max_bytes_per_day: int = 1 << 30
    max_requests_per_minute: int = 600
    max_unfinished_uploads: int = 8
    max_windows: int = 1 << 22
    max_header_bytes: int = 1 << 20
    max_clip_bytes: int = 8 << 20
    stale_upload_seconds: int = 7 * DAY_SECONDS
    moving_clips_seconds: int = DAY_SECONDS
    keep_seconds: float = 60.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0:
                raise ConfigurationError(f"the server's limit {field.name} is {value!r}; wanted a number above 0")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> ServerSettings:
        """Return the defaults with ``values`` in their place. Raises ConfigurationError for an unknown name."""
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown:
            known = ", ".join(field.name for field in fields(cls))
            raise ConfigurationError(f"the server knows no limit {unknown[0]!r}; it knows {known}")
        return cls(**values)
