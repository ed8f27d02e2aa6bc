"""Whether the backbone of a table ever heard what the table asks.

The record is what the trainer wrote beside the weights: which sets were heard, and whether the held-out groups were
left out. From it follows for each test clip whether it was heard.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edge.errors import ConfigurationError
from trainer.datasets import Clip, is_held_out
from trainer.protocols import Split

OUR_DATA = ("background_long", "esc50", "fsdd", "running_speech", "speech_commands_test")
OUR_BUNDLES: dict[str, tuple[str, bool]] = {
    "f0af8f860637fe224d1e7a71d7c6a793894b8ad853bf27e06d6fb03937018fb3": ("ear", False),
    "08ce3fe720f9fdc1393610e6c6fc522439e53e1572498709f88db46daa26bc77": ("ear-int8", False),
    "80636b3ddee1ded407a6755e77da0f4fd482586689f7c9261e0d48d19aa3691f": ("evaluation", True),
}


@dataclass(frozen=True)
class Hearing:
    """n_heard: test clips that the backbone heard while it was trained, None when no record says. words: a sentence."""

    n_heard: int | None
    n_asked: int
    kept_out: bool
    words: str


def record_of(source: Path) -> dict[str, Any]:
    """What a backbone's folder says of its training: keys ``data`` and ``kept_out``; empty when it says nothing."""
    checkpoint, manifest = _read(source / "checkpoint.json"), _read(source / "manifest.json")
    if "data" in checkpoint:
        return {"data": list(checkpoint["data"]), "kept_out": bool(checkpoint.get("kept_out", False))}
    if manifest.get("sha256") in OUR_BUNDLES:
        return {"data": list(OUR_DATA), "kept_out": OUR_BUNDLES[manifest["sha256"]][1]}
    return {}


def heard_test_groups(record: Mapping[str, Any], asked: Sequence[Clip]) -> Hearing:
    """Count the test clips that were heard.

    record: of ``record_of``. asked: the test clips as the trainer lists them (label: class folder; group: fold,
    speaker, file), whatever the benchmark calls their classes.
    """
    if "data" not in record:
        return Hearing(None, len(asked), False, "No record says which recordings the backbone heard in training.")
    kept_out, n_heard = bool(record.get("kept_out")), 0
    for clip in asked:
        same = [name for name in record["data"] if _same_recordings(name, clip.set_name)]
        n_heard += any(not kept_out or not is_held_out(replace(clip, set_name=name)) for name in same)
    if not n_heard:
        return Hearing(0, len(asked), kept_out, "The backbone never heard a test clip.")
    words = f"The backbone heard {n_heard} of the {len(asked)} test clips when it was trained."
    return Hearing(n_heard, len(asked), kept_out, words)


def warnings_of(hearing: Hearing, split: Split) -> list[str]:
    """Sentences to print with every table of this split."""
    leaks = (
        "Split by clip, as PACE: clips of one source recording lie on both sides, and the backbone may have heard "
        "other windows of a test clip's recording."
    )
    return [*([leaks] if split == "clip" else []), *([hearing.words] if hearing.n_heard != 0 else [])]


def refuse_heard(hearing: Hearing, split: Split, *, allow: bool) -> None:
    """Raise ConfigurationError when test clips were heard, unless that is allowed.

    A split by clip mixes all groups; there only a backbone that kept nothing out is refused, the rest is said.
    """
    if allow or not hearing.n_heard or (split == "clip" and hearing.kept_out):
        return
    raise ConfigurationError(
        f"the backbone's record says that it heard {hearing.n_heard} of the {hearing.n_asked} clips that the split by "
        f"{split} asks; give one trained with --keep-out, or --allow-heard, and every table will say so"
    )


def _same_recordings(a: str, b: str) -> bool:
    """Whether two names of sets are one, or one a part of the other, such as speech_commands_test."""
    first, second = sorted((re.sub("[^a-z0-9]", "", name.lower()) for name in (a, b)), key=len)
    return len(first) > 3 and second.startswith(first)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
