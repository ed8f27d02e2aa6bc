"""``soundkeep-trainer serve`` that kills itself (-9) at a named point of its work, once a file arms it.

``python -m tests.simulators.crashing_server serve ...`` with SOUNDKEEP_CRASH=POINT:N in the environment dies when it
comes to POINT for the Nth time after the file DATA/armed was made. Nothing of this is in the server itself.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from sqlalchemy.engine.default import DefaultDialect

from trainer.cli import main
from trainer.server.blobs import BlobStore

POINTS = ("before commit", "after commit", "before blob", "after blob", "before removal", "after removal")


class _Bomb:
    def __init__(self, point: str, nth: int, armed: Path) -> None:
        self._point, self._left, self._armed = point, nth, armed

    def reach(self, point: str) -> None:
        if point == self._point and self._armed.exists():
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


def _around(owner: Any, method: str, bomb: _Bomb, name: str) -> None:
    inner = getattr(owner, method)

    def outer(*arguments: Any, **named: Any) -> Any:
        bomb.reach(f"before {name}")
        done = inner(*arguments, **named)
        bomb.reach(f"after {name}")
        return done

    setattr(owner, method, outer)


if __name__ == "__main__":
    point, _, nth = os.environ["SOUNDKEEP_CRASH"].partition(":")
    bomb = _Bomb(point, int(nth), Path(sys.argv[sys.argv.index("--data") + 1]) / "armed")
    _around(DefaultDialect, "do_commit", bomb, "commit")
    _around(BlobStore, "put", bomb, "blob")
    _around(BlobStore, "remove", bomb, "removal")
    main()
