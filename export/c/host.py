"""A written library, built on this machine: the same C that the microcontroller runs, as an embedder of windows."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.errors import BundleError
from edge.space import EmbeddingSpace
from export.c.plan import Precision

FLAGS = ("-std=c99", "-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-pedantic", "-Werror", "-ffp-contract=off")
PARTS = ("sk_math", "sk_frontend", "sk_conv", "sk_conv_int8", "sk_pool", "sk_run_float32", "sk_run_int8", "sk_ear")
CALLS = """
#include <string.h>

#include "soundkeep/sk_ear.h"
#include "soundkeep/sk_frontend.h"
#include "soundkeep/sk_model.h"
uint32_t built_arena_bytes(void);
void built_features(const int16_t *pcm, unsigned char *arena, int8_t *features);
int built_embed(const int16_t *pcm, void *arena, uint32_t size, float *embedding, int16_t *grid);
uint32_t built_arena_bytes(void) { return MODEL.arena_bytes; }
void built_features(const int16_t *pcm, unsigned char *arena, int8_t *features)
{
    sk_features_int8(&MODEL, pcm, arena);
    memcpy(features, arena + MODEL.powers, (size_t)MODEL.front_end->n_bands * MODEL.front_end->n_frames);
}
int built_embed(const int16_t *pcm, void *arena, uint32_t size, float *embedding, int16_t *grid)
{
    sk_ear ear;
    const int wrong = sk_ear_init(&ear, &MODEL, arena, size);
    if (wrong == SK_OK) {
        sk_ear_embed(&ear, pcm, embedding);
        sk_to_grid(embedding, SK_MODEL_DIM, SK_MODEL_GRID, grid);
    }
    return wrong;
}
"""


def compiler() -> str | None:
    """The C compiler of this machine, or None."""
    return shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc") or shutil.which("clang")


class HostBuild:
    """Embeds windows with the C of ``folder``. Usable wherever an ``Embedder`` is asked for windows."""

    def __init__(
        self, folder: Path, space: EmbeddingSpace, precision: Precision, *, flags: Sequence[str] = ("-O3",)
    ) -> None:
        """Build and load it. Raises BundleError when there is no compiler or it refuses."""
        self.space, self.precision = space, precision
        self._scratch = tempfile.TemporaryDirectory()
        self._library: Any = ctypes.CDLL(str(_build(folder, precision, Path(self._scratch.name), flags)))
        self.arena_bytes = int(self._library.built_arena_bytes())
        self._arena = np.zeros(self.arena_bytes // 8 + 1, dtype=np.uint64)

    def embed(self, windows: NDArray[np.float32]) -> NDArray[np.float32]:
        """windows: (n, window_length) float32, -1..1, rounded to int16 as a microphone gives it. Returns (n, dim)."""
        return self.embed_pcm(pcm_of(windows))[0]

    def quantized(self, windows: NDArray[np.float32]) -> tuple[NDArray[np.int16], int]:
        """As ``Embedder.quantized``."""
        return self.embed_pcm(pcm_of(windows))[1], 0

    def embed_pcm(
        self, windows: NDArray[np.int16], arena: NDArray[np.uint64] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int16]]:
        """windows: (n, window_length) int16. Returns the network's output (n, dim) float32 and its grid (n, dim)."""
        room = self._arena if arena is None else arena
        embeddings = np.empty((len(windows), self.space.dim), dtype=np.float32)
        grid = np.empty((len(windows), self.space.dim), dtype=np.int16)
        for i, window in enumerate(np.ascontiguousarray(windows, dtype=np.int16)):
            wrong = self._library.built_embed(
                _address(window), _address(room), room.nbytes, _address(embeddings[i]), _address(grid[i])
            )
            if wrong:
                raise BundleError(f"the C library refuses an arena of {room.nbytes} bytes ({wrong}); this is a bug")
        return embeddings, grid

    def features(self, windows: NDArray[np.int16], n_features: int) -> NDArray[np.int8]:
        """What the front end of an int8 library puts out, (n, n_features), bands by frames."""
        found = np.empty((len(windows), n_features), dtype=np.int8)
        for i, window in enumerate(np.ascontiguousarray(windows, dtype=np.int16)):
            self._library.built_features(_address(window), _address(self._arena), _address(found[i]))
        return found


def pcm_of(windows: NDArray[np.float32]) -> NDArray[np.int16]:
    """-1..1 to int16, as a microphone gives it."""
    return np.asarray(np.clip(np.rint(windows * np.float32(32768.0)), -32768, 32767), dtype=np.int16)


def _build(folder: Path, precision: Precision, scratch: Path, flags: Sequence[str]) -> Path:
    cc = compiler()
    if cc is None:
        raise BundleError("no C compiler is installed, so the C library cannot be tried here; install gcc or clang")
    calls, made = scratch / "calls.c", scratch / "built.so"
    calls.write_text(CALLS, encoding="ascii")
    sources = [folder / "src" / f"{part}.c" for part in PARTS] + [
        folder / "src" / f"{name}.c" for name in ("sk_model_frontend", f"sk_model_{precision}")
    ]
    command = [cc, *FLAGS, *flags, "-shared", "-fPIC", f"-DMODEL=sk_model_{precision}", f"-I{folder / 'include'}"]
    answer = subprocess.run(
        [*command, *map(str, sources), str(calls), "-o", str(made)], capture_output=True, text=True, check=False
    )
    if answer.returncode:
        raise BundleError(f"{cc} refuses the C library: {answer.stderr.strip()[:500]}")
    return made


def _address(array: NDArray[Any]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)
