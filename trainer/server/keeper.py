"""The server looking after itself, on a thread of its own: a round of small duties every minute.

A duty that fails is logged and tried again in the next round; it never stops the others, nor the server.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from trainer.server.collecting import collect, sweep
from trainer.server.database import transaction
from trainer.server.opening import Server
from trainer.server.refusals import forget_refusals
from trainer.server.uploads import drop_stale_uploads, drop_waiting_clips

Duty = Callable[[Server], object]
_log = logging.getLogger("soundkeep.server")


def drop_what_waited_too_long(server: Server) -> None:
    """Drop unfinished uploads, the clips of devices that moved and never sent embeddings, and old refusals."""
    settings, now = server.settings, server.clock()
    with transaction(server.engine) as session:
        drop_stale_uploads(session, now, settings.stale_upload_seconds)
        let_go = drop_waiting_clips(session, now, settings.moving_clips_seconds)
        forget_refusals(session)
    collect(server, let_go)


class Keeper:
    """Runs ``duties`` every ``keep_seconds`` until stopped; the first thing that it does is to sweep the blob store."""

    def __init__(self, server: Server, duties: Sequence[Duty]) -> None:
        self._server = server
        self._duties: tuple[Duty, ...] = (drop_what_waited_too_long, *duties)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_s: float = 10.0) -> None:
        """Ask the thread to end and wait for it."""
        self._stop.set()
        self._thread.join(timeout_s)

    def round(self) -> None:
        """Do every duty once."""
        for duty in self._duties:
            if self._stop.is_set():
                return
            self._do(duty)

    def _run(self) -> None:
        self._do(sweep)
        while True:
            self.round()
            if self._stop.wait(self._server.settings.keep_seconds):
                return

    def _do(self, duty: Duty) -> None:
        try:
            duty(self._server)
        except Exception as error:  # a duty of tomorrow must not be lost to one that failed today
            _log.warning("%s failed and is tried again: %s", getattr(duty, "__name__", duty), error)
