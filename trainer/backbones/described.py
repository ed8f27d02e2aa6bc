"""A dataclass of settings from the JSON values that describe it: each key known, each key there, each of its type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar, get_type_hints

from edge.errors import BundleError, ConfigurationError

Settings = TypeVar("Settings")


def settings_from(kind: type[Settings], values: Mapping[str, Any]) -> Settings:
    """Build flat settings. Raises BundleError naming keys that are unknown, missing or of a wrong type."""
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    unknown, missing = sorted(set(values) - set(names)), sorted(set(names) - set(values))
    if unknown or missing:
        found = [f"unknown {', '.join(unknown)}"] * bool(unknown) + [f"missing {', '.join(missing)}"] * bool(missing)
        raise BundleError(
            f"the description of {kind.__name__} does not fit: {'; '.join(found)}; read it with the trainer that "
            f"wrote it"
        )
    types = get_type_hints(kind)
    for name in names:
        if not _is(values[name], types[name]):
            raise BundleError(f"{kind.__name__} has {name} = {values[name]!r}; wanted {_words(types[name])}")
    try:
        return kind(**values)
    except ConfigurationError as e:
        raise BundleError(str(e)) from e


def check_sizes(settings: object, *names: str) -> None:
    """Raise ConfigurationError naming the first of some whole-number settings that is not positive."""
    for name in names:
        value = getattr(settings, name)
        if value < 1:
            raise ConfigurationError(f"{type(settings).__name__} has {name} = {value}; wanted 1 or more")


def check_embedding(embedding: str, choices: tuple[str, ...]) -> None:
    if embedding not in choices:
        raise ConfigurationError(f"there is no embedding {embedding!r} here; wanted {' or '.join(choices)}")


def _is(value: object, wanted: Any) -> bool:
    if wanted is bool:
        return isinstance(value, bool)
    if wanted is float:
        return isinstance(value, float | int) and not isinstance(value, bool)
    if wanted is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, wanted)


def _words(wanted: Any) -> str:
    return str(getattr(wanted, "__name__", wanted))
