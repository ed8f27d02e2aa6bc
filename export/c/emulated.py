"""A written library on an emulated Cortex-M4F: the same windows as on the host, with instructions and stack counted.

QEMU's board mps2-an386. With ``-icount shift=0`` one instruction takes one nanosecond of its clock, so a timer counts
instructions. On a real M4 an instruction takes one to two cycles, a load from flash more.
"""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.errors import BundleError
from export.c.host import FLAGS, PARTS
from export.c.plan import Precision

CC, QEMU = "arm-none-eabi-gcc", "qemu-system-arm"
CPU = ("-mcpu=cortex-m4", "-mthumb", "-mfpu=fpv4-sp-d16", "-mfloat-abi=hard")
BUILD = (*CPU, "-O2", "-ffunction-sections", "-fdata-sections", "-fstack-usage")
WINDOWS_AT, WINDOWS_BYTES = 0x21000000, 16 << 20


def toolchain() -> bool:
    """Whether the cross compiler is installed."""
    return shutil.which(CC) is not None


def emulator() -> bool:
    """Whether cross compiler and emulator are installed."""
    return toolchain() and shutil.which(QEMU) is not None


@dataclass(frozen=True, eq=False)
class Run:
    """Of n windows: embeddings (n, dim) float32, grid (n, dim) int16, features (n, bands * frames) int8 or None,
    instructions (n,), which mean something with ``count`` only. stack_bytes: the most that was used."""

    embeddings: NDArray[np.float32]
    grid: NDArray[np.int16]
    features: NDArray[np.int8] | None
    instructions: NDArray[np.uint32]
    stack_bytes: int


class Firmware:
    """A program for the emulated board that embeds windows. Close it to delete it."""

    def __init__(self, folder: Path, precision: Precision, *, features: bool = False) -> None:
        """Build it from the library in ``folder``. features: hand back the int8 features too. Raises BundleError."""
        self._scratch = tempfile.TemporaryDirectory()
        self.path = Path(self._scratch.name) / "firmware.elf"
        self._features = features
        header = (folder / "include" / "soundkeep" / "sk_model.h").read_text(encoding="ascii")
        self.dim = _defined(header, "SK_MODEL_DIM")
        self.window_length = _defined(header, "SK_MODEL_WINDOW")
        defines = [f"-DMODEL=sk_model_{precision}", f"-DARENA=SK_MODEL_ARENA_{precision.upper()}"]
        link(
            self.path,
            compiled(folder, precision, Path(self._scratch.name)),
            folder / "include",
            [*defines, *(["-DFEATURES"] if features else [])],
        )

    def run(self, windows: NDArray[np.int16], *, count: bool = False, n_features: int = 0) -> Run:
        """Embed windows (n, window_length) int16. count: count instructions, which takes longer."""
        batch = (WINDOWS_BYTES - 8) // (2 * self.window_length)
        runs = [self._run(windows[i : i + batch], count, n_features) for i in range(0, len(windows), batch)]
        return Run(
            np.concatenate([r.embeddings for r in runs]),
            np.concatenate([r.grid for r in runs]),
            np.concatenate([r.features for r in runs if r.features is not None]) if self._features else None,
            np.concatenate([r.instructions for r in runs]),
            max(r.stack_bytes for r in runs),
        )

    def _run(self, windows: NDArray[np.int16], count: bool, n_features: int) -> Run:
        with tempfile.TemporaryDirectory() as scratch:
            given = Path(scratch) / "windows"
            head = struct.pack("<II", len(windows), self.window_length)
            given.write_bytes(head + np.ascontiguousarray(windows, dtype="<i2").tobytes())
            call(
                [
                    *(QEMU, "-M", "mps2-an386", "-display", "none", "-monitor", "none", "-serial", "none"),
                    *("-kernel", str(self.path), "-semihosting-config", "enable=on,target=native"),
                    *("-device", f"loader,file={given},addr={WINDOWS_AT:#x},force-raw=on"),
                    *(["-icount", "shift=0"] if count else []),
                ],
                cwd=Path(scratch),
            )
            results = (Path(scratch) / "results").read_bytes()
        n_features = n_features if self._features else 0
        row = np.dtype(
            [
                ("instructions", "<u4"),
                ("embedding", "<f4", (self.dim,)),
                ("grid", "<i2", (self.dim,)),
                ("features", "i1", (n_features,)),
            ]
        )
        if len(results) != len(windows) * row.itemsize + 4:
            raise BundleError(
                f"the emulated board handed back {len(results)} bytes for {len(windows)} windows; wanted "
                f"{len(windows) * row.itemsize + 4}: the program stopped, or wrote beyond its arena"
            )
        rows = np.frombuffer(results, dtype=row, count=len(windows))
        return Run(
            rows["embedding"].copy(),
            rows["grid"].copy(),
            rows["features"].copy() if n_features else None,
            rows["instructions"].copy(),
            int(np.frombuffer(results[-4:], dtype="<u4")[0]),
        )


def link(
    out: Path,
    objects: Sequence[Path],
    include: Path,
    defines: Sequence[str],
    stack: str = "64K",
    *,
    program: str = "main.c",
) -> None:
    """Make ``out`` of objects and of a program of firmware_bridge/c/measure, the one that runs windows unless said.

    include: where its headers are. stack: room for it, in the linker's words. Raises BundleError.
    """
    with as_file(files("firmware_bridge") / "c" / "measure") as own, tempfile.TemporaryDirectory() as scratch:
        script = Path(scratch) / "link.ld"
        script.write_text((own / "link.ld").read_text(encoding="ascii").replace("64K", stack), encoding="ascii")
        call(
            [
                *(CC, "-std=gnu99", *BUILD, "-ffp-contract=off", "-nostartfiles", "--specs=nano.specs"),
                *(*defines, f"-I{include}", f"-T{script}", "-Wl,--gc-sections", str(own / program)),
                *(*map(str, objects), "-lm", "-o", str(out)),
            ]
        )


EAR = ("sk_init", "sk_classify", "sk_embedding", "sk_head_decide")
DEVICE = ("sk_device_init", "sk_device_receive", "sk_device_hear", "sk_device_lost")
CONTEXTS = """
#include "soundkeep/sk_device.h"
char context[sizeof(sk_ctx)], device[sizeof(sk_device)];
"""


@dataclass(frozen=True)
class Sizes:
    """Bytes on the target. flash_bytes: ear and head with the head that is built in; device_flash_bytes: the link, too;
    without what the C library gives (memcpy). context_bytes, device_bytes: sizeof sk_ctx and sk_device."""

    flash_bytes: int
    device_flash_bytes: int
    context_bytes: int
    device_bytes: int


def sizes(folder: Path, precision: Precision) -> Sizes:
    """What the compiler makes of the library in ``folder``, unused parts left out. Raises BundleError."""
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        chosen = (f"-DSK_MODEL_DEFAULT=sk_model_{precision}", f"-DSK_MODEL_ARENA=SK_MODEL_ARENA_{precision.upper()}")
        models = {"sk_model_float32", "sk_model_int8"} - {f"sk_model_{precision}"}
        parts = sorted({source.stem for source in (folder / "src").glob("*.c")} - models)
        objects = objects_of(folder, parts, scratch, chosen)
        contexts, made = scratch / "contexts.c", scratch / "contexts.o"
        contexts.write_text(CONTEXTS, encoding="ascii")
        call([CC, "-std=c99", *CPU, f"-I{folder / 'include'}", "-c", str(contexts), "-o", str(made)])
        known = {}
        for line in call(["arm-none-eabi-nm", "-S", str(made)]).splitlines():
            _, size, _, symbol = line.split()
            known[symbol] = int(size, 16)
        return Sizes(
            _linked(objects, EAR, scratch), _linked(objects, DEVICE, scratch), known["context"], known["device"]
        )


def _linked(objects: Sequence[Path], wanted: Sequence[str], scratch: Path) -> int:
    """Bytes of program and constants that ``wanted`` need."""
    whole = scratch / "whole.o"
    keep = [f"-Wl,-u,{name}" for name in wanted]
    call([CC, *CPU, "-r", "-nostdlib", "-Wl,--gc-sections", *keep, *map(str, objects), "-o", str(whole)])
    text, data = call(["arm-none-eabi-size", "-B", str(whole)]).splitlines()[-1].split()[:2]
    return int(text) + int(data)


def compiled(folder: Path, precision: Precision, scratch: Path) -> list[Path]:
    """Objects of the ear in ``folder``, without head and link, in ``scratch``."""
    return objects_of(folder, [*PARTS, "sk_model_frontend", f"sk_model_{precision}"], scratch)


def objects_of(folder: Path, parts: Sequence[str], scratch: Path, defines: Sequence[str] = ()) -> list[Path]:
    """Compile sources of ``folder`` by name into ``scratch``. Raises BundleError."""
    objects = []
    for name in parts:
        made = scratch / f"{name}.o"
        source = folder / "src" / f"{name}.c"
        call([CC, *FLAGS, *BUILD, *defines, f"-I{folder / 'include'}", "-c", str(source), "-o", str(made)])
        objects.append(made)
    return objects


def _defined(header: str, name: str) -> int:
    found = re.search(rf"#define {name} (\d+)u", header)
    if found is None:
        raise BundleError(f"sk_model.h does not say {name}; write the library again with this soundkeep-export")
    return int(found[1])


def call(command: Sequence[str], cwd: Path | None = None) -> str:
    """Run a tool and return what it says. Raises BundleError."""
    answer = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)
    if answer.returncode:
        raise BundleError(
            f"{command[0]} failed ({answer.returncode}): {(answer.stderr or answer.stdout).strip()[-600:]}"
        )
    return answer.stdout
