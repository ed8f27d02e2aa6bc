"""``python -m tests.simulators.journal_process ROOT [careless]``: the journal script in a process, for a recorder.

careless: without waiting for the disk, to show what the waiting is for.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import edge.journal_file
from edge.journal_store import Store
from tests.simulators.journal_script import COMMANDS, run_script


def main(root: Path, *, careless: bool) -> None:
    """Write one byte to ROOT/said whenever a command is acknowledged."""
    edge.journal_file.LOG_BYTES = 40_000
    if careless:
        opened = Store.open_writer

        def in_a_hurry(path: Path) -> Store:
            store = opened(path)
            store._connection.execute("PRAGMA synchronous = OFF")
            return store

        Store.open_writer = in_a_hurry
    said = os.open(root / "said", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    run_script(root / "state", COMMANDS, lambda number: _say(said), lambda point: None)


def _say(said: int) -> None:
    os.write(said, b"!")


if __name__ == "__main__":
    main(Path(sys.argv[1]), careless="careless" in sys.argv[2:])
