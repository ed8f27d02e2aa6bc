"""What may leave a device: four levels, in order, and the words that say what each one sends. No I/O.

The words are shown before a level is switched on, and name the names: labels leave together with the sums.
"""

from __future__ import annotations

from collections.abc import Iterable

from edge.errors import LabelError, MisuseError
from edge.records import BACKGROUND, normalize_label

LEVELS = ("nothing", "statistics", "embeddings", "clips")
DEFAULT_LEVEL = "statistics"

_LEAVES = {
    "statistics": (
        "the names of your sounds; for each how many windows were taught and the sum of their numbers, one table of "
        "sums over all of them, and a fingerprint of each example. No sound, and nothing from which one can be rebuilt "
        "exactly; but a sound taught with a single window is its own sum, so the numbers of that window can be read"
    ),
    "embeddings": (
        "for each example, the numbers that the backbone made of it, window by window. They are not sound, but they "
        "tell what kind of sound it was, and with effort something like it can be made from them"
    ),
    "clips": (
        "the recordings themselves, of those examples whose audio is kept on this device (`learn.clip_budget_bytes`). "
        "Whoever runs the server can listen to them"
    ),
}
_CONTACT = (
    "with every contact, this device's name and key, the version of soundkeep, the backbone in use, and, as at any "
    "server, when the device called and from which address"
)
_SHORT = {
    "nothing": "nothing leaves this device, and no backbones come",
    "statistics": "sums, counts and the names of your sounds leave",
    "embeddings": "sums, names, and the numbers of each example leave; no recordings",
    "clips": "sums, names, the numbers of each example and the kept recordings leave",
}
LESS_LATER = (
    "Sending less from now on takes nothing back: what the server has stays there until you forget the sound here and "
    "sync, or its operator removes this device (`soundkeep-trainer devices remove`)."
)


def parse_level(word: str) -> str:
    """Return the level of that name. Raises MisuseError that lists them."""
    if word not in LEVELS:
        raise MisuseError(f"{word[:40]!r} is no level of sharing; choose one of {', '.join(LEVELS)}")
    return word


def words_of(level: str) -> str:
    """Say to a person exactly what leaves the device at ``level``."""
    if parse_level(level) == "nothing":
        return "Nothing leaves this device, and it does not ask for new backbones."
    leaves = [_LEAVES[name] for name in LEVELS[1 : LEVELS.index(level) + 1]]
    return "\n".join(["What leaves this device:", *(f"  * {words}." for words in [*leaves, _CONTACT])])


def short_words_of(level: str) -> str:
    """The same in one line, for somebody who has read the long form."""
    return _SHORT[parse_level(level)]


def allows(level: str, kind: str) -> bool:
    """Whether ``level`` lets an upload of ``kind`` (state, embeddings, clips) leave."""
    return LEVELS.index(level) >= {"state": 1, "embeddings": 2, "clips": 3}[kind]


def private_words(labels: Iterable[str]) -> str:
    """Say which names are kept back."""
    listed = sorted(labels)
    if not listed:
        return "No name is kept private: `soundkeep sync private LABEL` keeps one, and all that was taught under it."
    return f"Kept private, name and all: {', '.join(map(repr, listed))}."


def parse_label(text: str) -> str:
    """Return a label that can be kept private: any label, or the reserved one of ignored sounds. Raises LabelError."""
    return BACKGROUND if text == BACKGROUND else normalize_label(text)


def understood_labels(listed: object) -> frozenset[str]:
    """Read the private labels that a server names; what is no label is left out."""
    labels = set()
    for entry in listed if isinstance(listed, list) else []:
        try:
            labels.add(parse_label(entry))
        except LabelError:
            continue
    return frozenset(labels)
