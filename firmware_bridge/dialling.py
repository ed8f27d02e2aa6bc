"""How often to dial a device that does not answer: at once, then after pauses that double up to a limit."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Backoff:
    """first_s, max_s: seconds of the first pause and of the longest. steady_s: a link that held so long begins anew."""

    first_s: float = 0.25
    max_s: float = 8.0
    steady_s: float = 5.0
    _next_s: float = 0.0

    def lost_after(self, held_s: float) -> float:
        """Return the pause before the next try, after a link (or a try) that held ``held_s`` seconds."""
        if held_s >= self.steady_s or self._next_s == 0.0:
            self._next_s = self.first_s
        pause = self._next_s
        self._next_s = min(2.0 * self._next_s, self.max_s)
        return pause
