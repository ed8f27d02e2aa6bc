"""What a run costs: the most memory that the process held, and the most on the accelerator."""

from __future__ import annotations

import resource
from pathlib import Path

import torch

STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")


class PeakMemory:
    """The largest memory since this was made. Linux can count afresh; elsewhere it is since the process began."""

    def __init__(self) -> None:
        self.is_afresh = True
        try:
            CLEAR.write_text("5", encoding="ascii")
        except OSError:
            self.is_afresh = False
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def host_bytes(self) -> int:
        """Resident memory of the process, shared pages and the backbone included."""
        if self.is_afresh:
            for line in STATUS.read_text(encoding="ascii").splitlines():
                if line.startswith("VmHWM:"):
                    return 1024 * int(line.split()[1])
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def device_bytes(self) -> int | None:
        """Tensors on the accelerator, None without one."""
        return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
