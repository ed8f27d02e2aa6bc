"""How often a fault is injected: a few times in every run, the full number of the fault table with `make faults`."""

from __future__ import annotations

import os


def repetitions(few: int, full: int) -> int:
    """Return ``full`` when SOUNDKEEP_FAULTS=full is set, else ``few``."""
    return full if os.environ.get("SOUNDKEEP_FAULTS") == "full" else few
