"""Short texts that come from outside: what may be kept and shown of them. Pure."""

from __future__ import annotations

import unicodedata
from typing import Any

_FORBIDDEN = frozenset({"Cc", "Cs", "Zl", "Zp"})


def plain_text(value: Any, max_length: int) -> str:
    """Return a printable text of at most ``max_length`` characters as it is. Raises ValueError, TypeError."""
    if not isinstance(value, str):
        raise TypeError(f"a {type(value).__name__} stands where a text belongs")
    if len(value) > max_length:
        raise ValueError(f"a text of {len(value)} characters, at most {max_length} are kept")
    if any(unicodedata.category(character) in _FORBIDDEN for character in value):
        raise ValueError(f"the text {value[:40]!a} holds characters that cannot be printed")
    return value


def whole_number(value: Any, least: int, most: int) -> int:
    """Return a whole number from ``least`` to ``most`` as it is. Raises ValueError, TypeError."""
    if type(value) is not int:
        raise TypeError(f"a {type(value).__name__} stands where a whole number belongs")
    if not least <= value <= most:
        raise ValueError(f"the number {value!r:.30} is not from {least} to {most}")
    return value
