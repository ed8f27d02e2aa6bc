"""The written C on this machine: warnings, sanitizers, what it asks of its surroundings, and its numbers."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge.embedder import Embedder
from edge.space import l2_normalize
from export.c.evaluate import features_of
from export.c.host import FLAGS, PARTS, compiler, pcm_of
from export.material import edge_case_windows
from tests.export.c.written import made_windows, real_windows, written

FLOAT = ctypes.c_float
LEAST, MOST = 2.0**-126, 2.0**127
"""The least normal float32 and a large one."""


def unit_difference(pcm: NDArray[np.int16]) -> NDArray[np.float64]:
    made = written()
    wanted = l2_normalize(Embedder(made.bundle).embed(pcm.astype(np.float32) / np.float32(32768)))
    return np.linalg.norm(l2_normalize(made.build("float32").embed_pcm(pcm)[0]) - wanted, axis=1)


def test_float_is_what_onnx_runtime_says_of_real_sound(shared_data: Path) -> None:
    assert unit_difference(real_windows(shared_data, 30)).max() <= 1e-4


def test_float_is_what_onnx_runtime_says_of_extremes() -> None:
    assert unit_difference(pcm_of(np.concatenate([edge_case_windows(16000), made_windows(8)]))).max() <= 1e-4


def test_the_grid_is_that_of_the_edge_within_a_step() -> None:
    made = written()
    pcm = pcm_of(made_windows(12))
    wanted, _ = Embedder(made.bundle).quantized(pcm.astype(np.float32) / np.float32(32768))
    assert np.abs(made.build("float32").embed_pcm(pcm)[1].astype(int) - wanted).max() <= 1


def test_int8_features_are_those_of_the_graph_within_a_step(shared_data: Path) -> None:
    made = written()
    pcm = real_windows(shared_data, 12, seed=1)
    scale = made.integers.scales[made.network.front_end.output]
    exact = features_of(made.network.front_end, pcm.astype(np.float32) / np.float32(32768))[..., 0]
    wanted = np.clip(np.rint(exact / scale.step) + scale.zero, -128, 127).reshape(len(pcm), -1)
    difference = np.abs(made.build("int8").features(pcm, 64 * 98) - wanted)
    assert difference.max() <= 1 and difference.mean() < 0.001


@given(st.floats(LEAST, MOST, width=32))
def test_logarithm(x: float) -> None:
    library = written().build("float32")._library
    library.sk_log.restype = FLOAT
    wanted = np.log(x)
    assert abs(library.sk_log(FLOAT(x)) - wanted) <= 1.2e-7 * max(1.0, abs(wanted))


@given(st.floats(-87.0, 88.0, width=32))
def test_exponential(x: float) -> None:
    library = written().build("float32")._library
    library.sk_exp.restype = FLOAT
    assert library.sk_exp(FLOAT(x)) == pytest.approx(np.exp(x), rel=2e-7)


@given(st.floats(LEAST, MOST, width=32))
def test_root(x: float) -> None:
    library = written().build("float32")._library
    library.sk_sqrt.restype = FLOAT
    assert library.sk_sqrt(FLOAT(x)) == pytest.approx(np.sqrt(x), rel=1.2e-7)


@given(st.floats(-4e6, 4e6, width=32))
def test_rounding(x: float) -> None:
    library = written().build("float32")._library
    assert library.sk_round_even(FLOAT(x)) == np.rint(x)
    away = int(abs(x) + 0.5) * (1 if x >= 0 else -1)
    assert library.sk_round(FLOAT(x)) in (away, away + (1 if x >= 0 else -1) * (abs(x) >= 2**22))


def test_what_is_out_of_range_is_held_there() -> None:
    library = written().build("float32")._library
    for name in ("sk_log", "sk_exp", "sk_sqrt"):
        getattr(library, name).restype = FLOAT
    assert library.sk_log(FLOAT(0.0)) == library.sk_log(FLOAT(-1.0)) == pytest.approx(-87.33655)
    assert np.isfinite(library.sk_exp(FLOAT(1e9))) and library.sk_exp(FLOAT(-1e9)) > 0.0
    assert library.sk_sqrt(FLOAT(-1.0)) == library.sk_sqrt(FLOAT(0.0)) == 0.0


MAIN = """
#include <stdio.h>
#include "soundkeep/sk_ear.h"
#include "soundkeep/sk_model.h"
static int16_t pcm[SK_MODEL_WINDOW];
static float embedding[SK_MODEL_DIM];
static union { uint64_t aligned; unsigned char bytes[SK_MODEL_ARENA_FLOAT32]; } arena;
static int one(const sk_model *model, FILE *file)
{
    sk_ear ear;
    int16_t grid[SK_MODEL_DIM];
    int n = 0;
    if (sk_ear_init(&ear, model, arena.bytes, model->arena_bytes - 1u) != SK_ARENA_TOO_SMALL)
        return 1;
    if (sk_ear_init(&ear, model, arena.bytes + 1, sizeof arena.bytes) != SK_ARENA_MISALIGNED)
        return 2;
    if (sk_ear_init(&ear, model, arena.bytes, model->arena_bytes) != SK_OK)
        return 3;
    rewind(file);
    while (fread(pcm, sizeof pcm, 1, file) == 1) {
        sk_ear_embed(&ear, pcm, embedding);
        sk_to_grid(embedding, SK_MODEL_DIM, SK_MODEL_GRID, grid);
        n++;
    }
    return n == 10 ? 0 : 4;
}
int main(int argc, char **argv)
{
    FILE *file = argc > 1 ? fopen(argv[1], "rb") : NULL;
    int wrong;
    if (file == NULL)
        return 9;
    wrong = one(&sk_model_float32, file);
    wrong = wrong != 0 ? wrong : one(&sk_model_int8, file);
    (void)fclose(file);
    return wrong;
}
"""


def test_sanitizers_find_nothing_and_wrong_arenas_are_refused(tmp_path: Path) -> None:
    """Full-scale noise, silence, a square wave and others through both precisions."""
    cc = compiler()
    if cc is None:
        pytest.skip("needs a C compiler")
    made = written()
    (tmp_path / "main.c").write_text(MAIN)
    pcm = pcm_of(np.concatenate([edge_case_windows(16000), made_windows(4)]))
    (tmp_path / "pcm").write_bytes(pcm.tobytes())
    names = [*PARTS, "sk_model_frontend", "sk_model_float32", "sk_model_int8"]
    program = tmp_path / "program"
    subprocess.run(
        [
            *(cc, *FLAGS, "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
            *(f"-I{made.path / 'include'}", str(tmp_path / "main.c")),
            *(str(made.path / "src" / f"{name}.c") for name in names),
            *("-o", str(program)),
        ],
        check=True,
    )
    answer = subprocess.run([str(program), str(tmp_path / "pcm")], capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stderr) == (0, "")


def test_the_code_has_no_state_and_needs_nothing_but_memcpy(tmp_path: Path) -> None:
    cc, nm = compiler(), shutil.which("nm")
    if cc is None or nm is None:
        pytest.skip("needs a C compiler and nm")
    made = written()
    needed: set[str] = set()
    defined: set[str] = set()
    for source in sorted((made.path / "src").glob("*.c")):
        if source.stem not in (*PARTS, "sk", "sk_model", "sk_model_frontend", "sk_model_float32", "sk_model_int8"):
            continue
        made_object = tmp_path / f"{source.stem}.o"
        subprocess.run(
            [cc, *FLAGS, "-O2", "-fno-pic", f"-I{made.path / 'include'}", "-c", str(source), "-o", str(made_object)],
            check=True,
        )
        for line in subprocess.run(
            [nm, str(made_object)], capture_output=True, text=True, check=True
        ).stdout.splitlines():
            kind, name = line.split()[-2:]
            assert kind not in "BbCc", f"{source.name} keeps {name} in memory that is not its context's"
            assert kind not in "Dd" or "rel.ro" in line or name in _constant_pointers(source), (source.name, name)
            (needed if kind == "U" else defined).add(name)
    outside = {n for n in needed - defined if not n.startswith("sk_head_") and n != "_GLOBAL_OFFSET_TABLE_"}
    assert outside <= {"memcpy", "memset", "__stack_chk_fail"}


def _constant_pointers(source: Path) -> set[str]:
    """Tables of pointers are const; a relocation may put them where the loader can write."""
    return set(re.findall(r"const sk_\w+ (?:\*const )?(\w+)", source.read_text()))
