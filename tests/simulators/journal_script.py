"""A fixed sequence of commands that reaches every write point of a journal, for processes killed on the way."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

from edge.journal import Journal, Twin
from tests.edge.examples import OTHER_SPACE, SPACE, example, image, origins, teach

Command = Callable[[Journal], object]

COMMANDS: tuple[Command, ...] = (
    lambda journal: teach(journal, example("a", 1), example("a", 2)),
    lambda journal: teach(journal, example("b", 3, n_windows=400)),
    lambda journal: journal.ignore([example("x", 4)], provenance=origins(1)),
    lambda journal: journal.rename("a", "c"),
    lambda journal: journal.merge_classes("b", "c"),
    lambda journal: journal.undo(),
    lambda journal: journal.move(
        [image(example("c", 1), 101), image(example("c", 2), 102, n_windows=90), image(example("b", 3), 103)],
        OTHER_SPACE,
    ),
    lambda journal: journal.set_kv("calibration", {"ridge": 0.5}),
    lambda journal: journal.import_records([example("c", 1), example("d", 5), example("d", 6)]),
    lambda journal: journal.forget("d"),
    lambda journal: journal.undo(),
    lambda journal: journal.enable("d", False),
    lambda journal: journal.forget_record(example("c", 2).id, purge=True),
    lambda journal: journal.teach(
        [example("c", 2)],
        provenance=origins(1),
        twins=[Twin(OTHER_SPACE, example("x", 104, space=OTHER_SPACE).embeddings)],
    ),
)


def run_script(
    state_dir: Path,
    commands: tuple[Command, ...],
    acknowledge: Callable[[int], None],
    crash_point: Callable[[str], None],
) -> None:
    """Open, give each command, and close. ``acknowledge``: called with the number of commands that have returned."""
    with Journal.open(state_dir, space=SPACE, clock=lambda: 1e9, crash_point=crash_point) as journal:
        acknowledge(0)
        for number, command in enumerate(commands, start=1):
            command(journal)
            acknowledge(number)


def killed_child(
    state_dir: Path, commands: tuple[Command, ...], *, kill_at: int | None = None, after_seconds: float | None = None
) -> int:
    """Run the script in a child process that is killed with SIGKILL; return how many commands it acknowledged, or -1.

    kill_at: the number of the write point (from 0) at which it kills itself. after_seconds: an instant to kill it at.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _run_and_die(state_dir, commands, writing, kill_at)
    os.close(writing)
    if after_seconds is not None:
        signal.signal(signal.SIGALRM, lambda *_: os.kill(child, signal.SIGKILL))
        signal.setitimer(signal.ITIMER_REAL, after_seconds)
    acknowledged = -1
    with open(reading, "rb") as pipe:
        for _ in pipe:
            acknowledged += 1
    if after_seconds is not None:
        signal.setitimer(signal.ITIMER_REAL, 0)
    os.waitpid(child, 0)
    return acknowledged


def _run_and_die(state_dir: Path, commands: tuple[Command, ...], writing: int, kill_at: int | None) -> None:
    reached = 0

    def crash_point(point: str) -> None:
        nonlocal reached
        if reached == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        reached += 1

    try:
        run_script(state_dir, commands, lambda number: _say(writing), crash_point)
    finally:
        os._exit(0)


def _say(writing: int) -> None:
    os.write(writing, b"!\n")
