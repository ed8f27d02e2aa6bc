"""Request bodies of the live API: size counted while they stream in, JSON checked field by field."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Mapping
from typing import Any

from edge.errors import MisuseError


class BodyTooLargeError(MisuseError):
    """A request body passes its limit."""


async def read_body(pieces: AsyncIterator[bytes], announced: str | None, *, max_bytes: int) -> bytes:
    """Join a streamed body. announced: its Content-Length header, believed only when it is too large.

    Raises BodyTooLargeError as soon as ``max_bytes`` is passed.
    """
    too_large = BodyTooLargeError(f"the body is larger than {max_bytes} bytes, the limit here; send less at once")
    if announced is not None and announced.isdigit() and int(announced) > max_bytes:
        raise too_large
    kept: list[bytes] = []
    n_bytes = 0
    async for piece in pieces:
        n_bytes += len(piece)
        if n_bytes > max_bytes:
            raise too_large
        kept.append(piece)
    return b"".join(kept)


class Fields:
    """A JSON object whose every key must be asked for: a wrong type or an unknown key is a MisuseError."""

    def __init__(self, body: bytes) -> None:
        try:
            value: Any = json.loads(body.decode("utf-8")) if body.strip() else {}
        except (UnicodeDecodeError, ValueError, RecursionError) as error:
            raise MisuseError("the body is not JSON; send one JSON object") from error
        if not isinstance(value, dict):
            raise MisuseError(f"the body is a JSON {type(value).__name__}; send one JSON object")
        self._value: dict[str, Any] = value
        self._asked: list[str] = []

    def text(self, name: str) -> str:
        value = self._take(name)
        if not isinstance(value, str):
            raise MisuseError(f"{name!r} is {_shown(value)}; wanted text")
        return value

    def optional_text(self, name: str) -> str | None:
        if self._value.get(name) is None:
            self._asked.append(name)
            return None
        return self.text(name)

    def seconds(self, name: str, *, max_seconds: float) -> float:
        value = self._take(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise MisuseError(f"{name!r} is {_shown(value)}; wanted a number of seconds")
        if not 0.0 < value <= max_seconds:
            raise MisuseError(f"{name!r} is {value:g}; wanted more than 0 and at most {max_seconds:g} seconds")
        return float(value)

    def flag(self, name: str, *, default: bool | None = None) -> bool:
        if default is not None and name not in self._value:
            self._asked.append(name)
            return default
        value = self._take(name)
        if not isinstance(value, bool):
            raise MisuseError(f"{name!r} is {_shown(value)}; wanted true or false")
        return value

    def objects(self, name: str) -> list[Mapping[str, Any]]:
        value = self._take(name)
        if not isinstance(value, list) or not value or not all(isinstance(item, dict) for item in value):
            raise MisuseError(f"{name!r} is {_shown(value)}; wanted a list of one or more objects")
        return value

    def has(self, name: str) -> bool:
        return name in self._value

    def done(self) -> None:
        """Refuse what nobody asked for."""
        unknown = sorted(set(self._value) - set(self._asked))
        if unknown:
            raise MisuseError(f"{unknown[0][:80]!r} is not a field here; known are {', '.join(self._asked) or 'none'}")

    def _take(self, name: str) -> Any:
        self._asked.append(name)
        if name not in self._value:
            raise MisuseError(f"{name!r} is missing; send it in the JSON object")
        return self._value[name]


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
