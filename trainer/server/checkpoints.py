"""Whether what an interrupted adaptation kept is whole: told without torch, before ``adapt --resume`` reads it.

A file of tensors that a power cut left short would stop every later start at the same place. It is removed: the run
then goes on from what was kept before it, one session back at most, to the same bits.
"""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

_LENGTH = struct.Struct("<Q")
_MAX_HEADER_BYTES = 100 << 20


def is_whole(path: Path) -> bool:
    """Whether a safetensors file has the length that its header promises."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            (n_header,) = _LENGTH.unpack(file.read(_LENGTH.size))
            if n_header > min(_MAX_HEADER_BYTES, size):
                return False
            header = json.loads(file.read(n_header))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        return bool(size == _LENGTH.size + n_header + max(ends, default=0))
    except (OSError, struct.error, ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        return False


def mend(run: Path) -> list[str]:
    """Remove what is cut off in the folder of an adaptation; returns the names. Without its recipe it begins again."""
    state = run / "state"
    if not run.exists():
        return []
    try:
        json.loads((state / "recipe.json").read_bytes())
    except (OSError, ValueError):
        shutil.rmtree(run)
        return [run.name]
    torn = [path for path in sorted(state.glob("*.safetensors")) if not is_whole(path)]
    for path in torn:
        path.unlink()
    return [path.name for path in torn]


def is_finished(run: Path) -> bool:
    """Whether the adaptation in ``run`` wrote its result, which it does last."""
    try:
        json.loads((run / "result.json").read_bytes())
    except (OSError, ValueError):
        return False
    return is_whole(run / "model.safetensors") and (run / "checkpoint.json").is_file()
