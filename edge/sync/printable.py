"""What the other end says, made fit for a terminal and a log: one line, bounded, nothing that moves a cursor."""

from __future__ import annotations

import unicodedata

MAX_CHARACTERS = 500
_UNPRINTABLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def printable(text: str, *, max_characters: int = MAX_CHARACTERS) -> str:
    """Return ``text`` with a question mark for each character that has no shape of its own, cut at a length."""
    shown = "".join("?" if unicodedata.category(c) in _UNPRINTABLE else c for c in text[:max_characters])
    return shown if len(text) <= max_characters else shown + "..."
