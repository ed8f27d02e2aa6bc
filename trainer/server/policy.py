"""When the backbone is adapted to what the fleet heard, and what the new one must be worth. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from edge.errors import ConfigurationError

POLICY_KEY = "policy"
DAY_SECONDS = 86_400.0
GATES = ("min_canary_cosine", "max_size_ratio", "max_latency_ratio", "min_map_cosine")


@dataclass(frozen=True)
class Policy:
    """What the operator decided; kept in the server's settings under ``POLICY_KEY``.

    on: whether the server begins jobs by itself. min_clips: new clips since the last job that ask for another, None:
    never. every_days: days after the last job that do, None: never. min_classes, min_clips_per_class: below these
    there is nothing to adapt to; a class with fewer clips is left out.

    classes_per_session, max_windows (of a clip), epochs, settings (KEY=VALUE), threads, n_gpus: of the adaptation.
    pools: recordings by set name, of which the new ear's prior is made. backbone: folder of the bundle that a fleet
    without a published one starts from, None: the one that ships with soundkeep.

    min_canary_cosine, max_size_ratio, max_latency_ratio (to the current bundle), min_map_cosine: the gates.
    """

    on: bool = True
    min_clips: int | None = 50
    every_days: float | None = None
    min_classes: int = 2
    min_clips_per_class: int = 4
    classes_per_session: int = 5
    max_windows: int | None = 8
    epochs: int = 10
    settings: tuple[str, ...] = ()
    threads: int = 1
    n_gpus: int = 0
    pools: Mapping[str, str] = field(default_factory=dict)
    backbone: str | None = None
    min_canary_cosine: float = 0.999
    max_size_ratio: float = 2.0
    max_latency_ratio: float = 1.5
    min_map_cosine: float = 0.5

    def __post_init__(self) -> None:
        whole = {"min_classes": 2, "min_clips_per_class": 2, "classes_per_session": 1, "epochs": 1, "threads": 1}
        for name, least in {**whole, "n_gpus": 0, "min_clips": 1, "max_windows": 1}.items():
            value = getattr(self, name)
            if value is None and name in ("min_clips", "max_windows"):
                continue
            if type(value) is not int or value < least:
                raise ConfigurationError(f"the policy has {name} {value!r:.40}; wanted a whole number from {least}")
        for name in (*GATES, *(() if self.every_days is None else ("every_days",))):
            value = getattr(self, name)
            if type(value) not in (int, float) or not math.isfinite(value) or value <= 0.0:
                raise ConfigurationError(f"the policy has {name} {value!r:.40}; wanted a number above 0")
        words = type(self.settings) is tuple and all(isinstance(word, str) and "=" in word for word in self.settings)
        named = isinstance(self.pools, Mapping) and all(isinstance(w, str) for pair in self.pools.items() for w in pair)
        if type(self.on) is not bool or not words or not named or not isinstance(self.backbone, str | None):
            raise ConfigurationError("the policy has settings, pools or a backbone that are no texts; set them again")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Policy:
        """Return the defaults with ``values`` in their place. Raises ConfigurationError for an unknown name."""
        known = [f.name for f in fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ConfigurationError(f"the policy has no {unknown[0]!r}; wanted one of {', '.join(known)}")
        given = dict(values)
        if "settings" in given:
            given["settings"] = tuple(given["settings"])
        return cls(**given)

    def to_mapping(self) -> dict[str, Any]:
        """As JSON values."""
        return {**asdict(self), "settings": list(self.settings), "pools": dict(self.pools)}

    @property
    def deciding(self) -> dict[str, Any]:
        """What decides which bundle a job makes, as JSON values.

        When it is begun, on how many threads, and what the gates want of the bundle does not.
        """
        left_out = {"on", "min_clips", "every_days", "threads", "n_gpus", "backbone", *GATES}
        return {k: v for k, v in self.to_mapping().items() if k not in left_out}


@dataclass(frozen=True)
class Situation:
    """What the policy looks at. Times are seconds since 1970.

    n_new: usable clips that the last finished job did not have. n_per_class: usable clips of each class.
    last_job_at: when that job was asked for, None without one. busy: a job is queued or running.
    """

    now: float
    n_new: int
    n_per_class: Mapping[str, int]
    last_job_at: float | None
    busy: bool


def reason_to_begin(policy: Policy, now: Situation) -> str | None:
    """Return in words why a job should begin, None when it should not.

    A clock that was set back delays a job that goes by days; it never begins one too many.
    """
    if not policy.on or now.busy or now.n_new == 0 or why_not(policy, now.n_per_class) is not None:
        return None
    if policy.min_clips is not None and now.n_new >= policy.min_clips:
        return f"policy: {now.n_new} new clips"
    if policy.every_days is not None and now.last_job_at is not None:
        days = (now.now - now.last_job_at) / DAY_SECONDS
        if days >= policy.every_days:
            return f"policy: {days:.0f} days since the last job, {now.n_new} new clips"
    if policy.every_days is not None and now.last_job_at is None:
        return f"policy: no job yet, {now.n_new} clips"
    return None


def why_not(policy: Policy, n_per_class: Mapping[str, int]) -> str | None:
    """Return in words what is missing for any job, None when nothing is."""
    enough = [label for label, n in n_per_class.items() if n >= policy.min_clips_per_class]
    if len(enough) >= policy.min_classes:
        return None
    return (
        f"{len(enough)} classes of the fleet have {policy.min_clips_per_class} clips or more; an adaptation wants "
        f"{policy.min_classes} such classes: let devices share clips, or change 'soundkeep-trainer jobs policy'"
    )
