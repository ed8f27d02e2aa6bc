"""Parts of the C library as a shared library of this machine, for ctypes: what has no need of a model."""

from __future__ import annotations

import ctypes
import functools
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from tests.conftest import REPOSITORY

C = REPOSITORY / "firmware_bridge" / "c"
PARTS = ("sk_link", "sk_head", "sk_packet", "sk_adpcm", "sk_math", "sk_update")
FLAGS = ["-std=c99", "-O2", "-ffp-contract=off", "-shared", "-fPIC"]


@functools.lru_cache(maxsize=8)
def built(shim: str, changes: tuple[tuple[str, str, str], ...] = ()) -> Any:
    """Build the parts and ``shim``, a C source that gives ctypes what it needs.

    changes: (part, what, by what) in copies of the sources, to see what a line is good for.
    """
    folder = Path(tempfile.mkdtemp())
    for part in PARTS:
        source = (C / "src" / f"{part}.c").read_text()
        for changed, what, by in changes:
            if changed == part:
                assert what in source, f"{part}.c does not say {what!r} any more"
                source = source.replace(what, by)
        (folder / f"{part}.c").write_text(source)
    (folder / "shim.c").write_text(shim)
    sources = [str(path) for path in folder.glob("*.c")]
    subprocess.run(["cc", *FLAGS, f"-I{C / 'include'}", *sources, "-o", str(folder / "built.so")], check=True)
    return ctypes.CDLL(str(folder / "built.so"))
