"""Settings: one frozen dataclass per component, a file that overrides them, and where the state lives.

``soundkeep.toml`` in the state directory is written by the owner and only ever read by us. An unknown key is an error
that names it and lists the known ones.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from edge.decision import DecisionSettings
from edge.errors import ConfigurationError
from edge.manifest import DetectionDefaults

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8737
SETTINGS_NAME = "soundkeep.toml"
MAX_SETTINGS_BYTES = 256 * 1024

_T = TypeVar("_T")


@dataclass(frozen=True)
class ListenSettings:
    """The loop: how much of the past stays at hand, and how long its queues are."""

    recent_seconds: float = 60.0
    max_waiting_blocks: int = 64
    max_waiting_commands: int = 32
    max_events_kept: int = 100

    def __post_init__(self) -> None:
        _in_range("listen.recent_seconds", self.recent_seconds, 1.0, 3600.0)
        _in_range("listen.max_waiting_blocks", self.max_waiting_blocks, 1, 10_000)
        _in_range("listen.max_waiting_commands", self.max_waiting_commands, 1, 10_000)
        _in_range("listen.max_events_kept", self.max_events_kept, 1, 10_000)


@dataclass(frozen=True)
class ApiSettings:
    """The live API. Body limits are counted while the body streams in."""

    max_audio_bytes: int = 32 * 2**20
    max_json_bytes: int = 64 * 2**20
    max_memory_bytes: int = 512 * 2**20
    max_waiting_events: int = 256

    def __post_init__(self) -> None:
        for name in ("max_audio_bytes", "max_json_bytes", "max_memory_bytes"):
            _in_range(f"api.{name}", getattr(self, name), 1024, 2**34)
        _in_range("api.max_waiting_events", self.max_waiting_events, 1, 100_000)


@dataclass(frozen=True)
class LearnSettings:
    """Learning. ``ridge`` and ``prior_weight`` replace what the bundle and the calibration record say."""

    ridge: float | None = None
    prior_weight: float | None = None
    calibrate_when_idle: bool = True
    idle_seconds: float = 30.0
    clip_budget_bytes: int = 0

    def __post_init__(self) -> None:
        if self.ridge is not None:
            _in_range("learn.ridge", self.ridge, 2.0**-40, 2.0**40)
        if self.prior_weight is not None:
            _in_range("learn.prior_weight", self.prior_weight, 0.0, 1e6)
        _in_range("learn.idle_seconds", self.idle_seconds, 0.0, 86_400.0)
        _in_range("learn.clip_budget_bytes", self.clip_budget_bytes, 0, 2**40)


@dataclass(frozen=True)
class DecisionOverrides:
    """What the owner sets about deciding; what is None comes from the bundle. The owner's value always wins."""

    threshold: float | None = None
    low_threshold: float | None = None
    rival_share: float | None = None
    rival_windows: int | None = None
    k: int | None = None
    n: int | None = None
    min_ms: int | None = None
    hold_ms: int | None = None
    refractory_ms: int | None = None
    unknown_above_db: float | None = None
    floor_seconds: float | None = None
    per_class: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for label, threshold in self.per_class.items():
            if isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or not math.isfinite(threshold):
                raise ConfigurationError(
                    f"decision.per_class.{label} is {threshold!r}; wanted a finite number; correct {SETTINGS_NAME}"
                )


@dataclass(frozen=True)
class SyncSettings:
    """A new ear. trial_seconds: how much sound it must hear without a fault before it stays."""

    trial_seconds: float = 120.0

    def __post_init__(self) -> None:
        _in_range("sync.trial_seconds", self.trial_seconds, 1.0, 86_400.0)


@dataclass(frozen=True)
class Settings:
    """Everything an owner can set, one field per table of ``soundkeep.toml``."""

    listen: ListenSettings = field(default_factory=ListenSettings)
    api: ApiSettings = field(default_factory=ApiSettings)
    learn: LearnSettings = field(default_factory=LearnSettings)
    decision: DecisionOverrides = field(default_factory=DecisionOverrides)
    sync: SyncSettings = field(default_factory=SyncSettings)


def state_directory(option: str | None, environ: Mapping[str, str] = os.environ) -> Path:
    """Return the option, else SOUNDKEEP_STATE, else systemd's STATE_DIRECTORY, else the user's own folder."""
    if option is not None:
        chosen = option
    elif environ.get("SOUNDKEEP_STATE"):
        chosen = environ["SOUNDKEEP_STATE"]
    elif environ.get("STATE_DIRECTORY"):
        chosen = environ["STATE_DIRECTORY"].split(":")[0]
    else:
        import platformdirs

        return platformdirs.user_state_path("soundkeep")
    if not chosen.strip():
        raise ConfigurationError("the state directory is an empty path; give a directory after --state")
    return Path(chosen).expanduser().absolute()


def load_settings(state_dir: Path) -> Settings:
    """Read ``soundkeep.toml`` in ``state_dir``; without that file, the defaults. Raises ConfigurationError."""
    path = state_dir / SETTINGS_NAME
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SETTINGS_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return Settings()
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read ({error.strerror}); make it readable or remove it") from error
    if len(data) > MAX_SETTINGS_BYTES:
        raise ConfigurationError(f"{path} is larger than {MAX_SETTINGS_BYTES} bytes; settings are a page of text")
    try:
        table = tomllib.loads(data.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"{path} is not TOML: {error}; correct that line") from error
    return _from_table(Settings, table, "")


def decision_settings(bundle: DetectionDefaults, owner: DecisionOverrides) -> DecisionSettings:
    """The owner's word before the bundle's, that before our own. Raises ConfigurationError when they do not fit."""
    known = {entry.name for entry in fields(DecisionSettings)}
    from_bundle = {k: v for k, v in asdict(bundle).items() if k in known and v is not None}
    from_owner = {k: v for k, v in asdict(owner).items() if v is not None}
    return DecisionSettings(**{**from_bundle, **from_owner})


def _from_table(kind: type[_T], table: Mapping[str, Any], where: str) -> _T:
    """Build the dataclass ``kind`` from a TOML table; ``where`` is the dotted prefix used in messages."""
    hints = get_type_hints(kind)
    known = {entry.name: hints[entry.name] for entry in fields(kind)}  # type: ignore[arg-type]
    for name in table:
        if name not in known:
            raise ConfigurationError(
                f"{where}{name} is not a setting; known are {', '.join(where + k for k in known)}; "
                f"correct {SETTINGS_NAME}"
            )
    return kind(**{name: _value(known[name], value, where + name) for name, value in table.items()})


def _value(hint: Any, value: Any, name: str) -> Any:
    if is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, dict):
            raise ConfigurationError(f"{name} is {value!r}; wanted a table [{name}]; correct {SETTINGS_NAME}")
        return _from_table(hint, value, name + ".")
    wanted = str(hint)
    if "Mapping" in wanted:
        ok = isinstance(value, dict)
    elif hint is bool:
        ok = isinstance(value, bool)
    elif "float" in wanted:
        ok = isinstance(value, (int, float)) and not isinstance(value, bool)
    else:
        ok = isinstance(value, int) and not isinstance(value, bool)
    if not ok:
        kind = "true or false" if hint is bool else "a table" if "Mapping" in wanted else "a number"
        raise ConfigurationError(f"{name} is {value!r}; wanted {kind}; correct {SETTINGS_NAME}")
    return value


def _in_range(name: str, value: float, low: float, high: float) -> None:
    if not (math.isfinite(value) and low <= value <= high):
        raise ConfigurationError(f"{name} is {value}; wanted {low:g} to {high:g}; correct {SETTINGS_NAME}")
