"""A command that ends when its parent does: ``python -m trainer.server.leashed PARENT_PID COMMAND...`` becomes COMMAND.

On Linux the kernel sends SIGTERM to it when the parent is gone, by kill -9 too. Elsewhere it is only in a process group
of its own, and a server that was killed leaves it to run to its end; its result is then found by the next start.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    parent, command = int(arguments[0]), arguments[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:  # it died before the leash was on
        sys.exit(1)
    os.execv(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
