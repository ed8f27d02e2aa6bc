"""Settings from the command line: ``KEY=VALUE`` into the frozen dataclass of the component that has that key."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any, Literal, TypeVar

from edge.errors import ConfigurationError

T = TypeVar("T")


def pairs_of(words: Sequence[str], option: str) -> dict[str, str]:
    """``("ridge=64", ...)`` as a mapping. Raises ConfigurationError for a word without ``=`` or a key twice."""
    found: dict[str, str] = {}
    for word in words:
        key, sign, value = word.partition("=")
        if not sign or not key or not value:
            raise ConfigurationError(f"{option} {word!r} is no KEY=VALUE; write for example {option} ridge=1024")
        if found.get(key, value) != value:
            raise ConfigurationError(f"{option} gives {key} twice, {found[key]} and {value}; leave one out")
        found[key] = value
    return found


def settings_from(kind: type[T], words: Mapping[str, str], defaults: Mapping[str, Any] | None = None) -> T:
    """Build the settings ``kind``, a dataclass; what ``words`` does not say is ``defaults``, then its own default.

    Raises ConfigurationError that names an unknown key or a value that does not fit its field.
    """
    known = keys_of(kind)
    unknown = sorted(set(words) - set(known))
    if unknown:
        raise ConfigurationError(f"{unknown[0]!r} is no setting here; wanted one of {', '.join(known) or 'none'}")
    hints = typing.get_type_hints(kind)
    values = dict(defaults or {}) | {key: _value(key, text, hints[key]) for key, text in words.items()}
    return kind(**values)


def keys_of(kind: type[Any]) -> tuple[str, ...]:
    """Names of the fields that can be given in words: those whose default is a plain value."""
    hints = typing.get_type_hints(kind)
    return tuple(f.name for f in fields(kind) if f.default is not MISSING and _readable(hints[f.name]))


def _readable(hint: Any) -> bool:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return all(_readable(part) for part in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        return all(part is Ellipsis or _readable(part) for part in typing.get_args(hint))
    return hint in (int, float, str, bool, type(None)) or typing.get_origin(hint) is Literal


def _value(key: str, text: str, hint: Any) -> Any:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        parts = typing.get_args(hint)
        if type(None) in parts and text.lower() == "none":
            return None
        for part in (p for p in parts if p is not type(None)):
            try:
                return _value(key, text, part)
            except ConfigurationError:
                continue
        raise _refused(key, text, hint)
    if typing.get_origin(hint) is tuple:
        return tuple(_value(key, part, typing.get_args(hint)[0]) for part in text.split(","))
    if typing.get_origin(hint) is Literal:
        if text not in typing.get_args(hint):
            raise _refused(key, text, hint)
        return text
    if hint is bool:
        if text.lower() not in ("true", "false"):
            raise _refused(key, text, hint)
        return text.lower() == "true"
    try:
        return hint(text)
    except ValueError:
        raise _refused(key, text, hint) from None


def _refused(key: str, text: str, hint: Any) -> ConfigurationError:
    words = {int: "a whole number", float: "a number", bool: "true or false"}
    wanted = words.get(hint) or " or ".join(str(getattr(a, "__name__", a)) for a in typing.get_args(hint))
    return ConfigurationError(f"setting {key} is {text!r}; wanted {wanted}")
