"""The C that soundkeep writes of an ear beside that of a public generator, on an emulated Cortex-M4F.

The same ONNX model, compiler flags, program around it and windows for all; QEMU's mps2-an386 counts instructions. The
generator is emx-onnx-cgen, asked as a command, so that nothing of it is needed here:

    python -m venv emx && emx/bin/pip install emx-onnx-cgen==1.4.0
    python -m benchmarks.c_export [BUNDLE] --generator emx/bin/emx-onnx-cgen

Without BUNDLE: an ear of the shape made for microcontrollers with random weights, which costs the same. ``flash``: of
the whole program, with about 2 kB around the ear. ``buffers``: static memory or the arena, ``sound``: the window as the
code takes it, int16 or float. The generator keeps what lies between its steps on the stack. ``instructions`` are of a
window; ``of network``: of what lies behind the front end. ``difference``: largest, of unit length, from what ONNX
Runtime says of the model that was given (soundkeep makes its int8 of the float model, the generator takes it from one).
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import parser, print_table, single_thread, write_results

single_thread()

import numpy as np  # noqa: E402
import onnx  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

from edge.bundle import Bundle, open_bundle, write_bundle  # noqa: E402
from edge.embedder import Embedder  # noqa: E402
from edge.space import Grid, l2_normalize  # noqa: E402
from export.c import emulated  # noqa: E402
from export.c.host import FLAGS, pcm_of  # noqa: E402
from export.c.integers import to_integers  # noqa: E402
from export.c.library import Library  # noqa: E402
from export.c.network import Network  # noqa: E402
from export.c.plan import Precision, plan_arena  # noqa: E402
from export.c.read_graph import read_network  # noqa: E402
from export.material import synthesised_windows  # noqa: E402

STACK = "3500K"
ONLY_FRONT_END = """
#include "soundkeep/sk_ear.h"
void sk_ear_embed(const sk_ear *ear, const int16_t *pcm, float *embedding);
void sk_ear_embed(const sk_ear *ear, const int16_t *pcm, float *embedding)
{
    sk_model model = *ear->model;
    model.n_ops = 0u;
    model.run(&model, pcm, ear->arena);
    embedding[0] = 0.0f;
}
"""
"""A window's front end alone, in place of the ear."""
EAR = """
#include <stdint.h>
#define SK_OK 0
typedef struct sk_ear { int nothing; } sk_ear;
typedef struct sk_model { int nothing; } sk_model;
extern const sk_model MODEL;
void ear(const float *input, float *output);
int sk_ear_init(sk_ear *ear, const sk_model *model, void *arena, uint32_t size);
void sk_ear_embed(const sk_ear *ear, const int16_t *pcm, float *embedding);
void sk_to_grid(const float *embedding, uint32_t dim, float scale, int16_t *grid);
"""
MODEL = """
#define SK_MODEL_DIM {dim}u
#define SK_MODEL_GRID 1.0f
"""
CALLS = """
#include "soundkeep/sk_ear.h"
#define COUNTED_OUT (*(volatile uint32_t *)0xE000E010u & 0x10000u)
const sk_model MODEL = {{0}};
static float input[{n_input}];
int sk_ear_init(sk_ear *e, const sk_model *m, void *a, uint32_t n)
{{
    (void)e; (void)m; (void)a; (void)n;
    return SK_OK;
}}
void sk_to_grid(const float *e, uint32_t d, float s, int16_t *g) {{ (void)e; (void)d; (void)s; (void)g; }}
void sk_ear_embed(const sk_ear *e, const int16_t *pcm, float *embedding)
{{
    uint32_t i;
    (void)e;
    for (i = 0u; i < {n_input}u; i++)
        input[i] = {read};
    ear(input, embedding);
    if (COUNTED_OUT)
        embedding[0] = 0.0f / 0.0f;
}}
"""
"""The generator's function as the ear that the measuring program asks; no number where the counter ran out."""


@dataclass(frozen=True)
class Figures:
    """Bytes and instructions of one program; embeddings of the windows that it ran."""

    flash: int
    buffers: int
    stack: int
    instructions: int
    embeddings: NDArray[np.float32]


class Program(emulated.Firmware):
    """A program for the emulated board that was built here."""

    def __init__(self, path: Path, dim: int, window_length: int) -> None:
        self.path, self.dim, self.window_length, self._features = path, dim, window_length, False

    def figures(self, windows: NDArray[np.int16]) -> Figures:
        run = self.run(windows, count=True)
        lines = (line.split() for line in emulated.call(["arm-none-eabi-size", "-A", str(self.path)]).splitlines())
        sizes = {words[0]: int(words[1]) for words in lines if len(words) == 3 and words[1].isdigit()}
        data = sizes.get(".data", 0)
        return Figures(
            sizes[".text"] + data,
            sizes[".bss"] + data,
            run.stack_bytes,
            int(run.instructions.max()),
            run.embeddings,
        )


def small_ear(folder: Path) -> Bundle:
    """An ear of the shape for microcontrollers with random weights."""
    import torch

    from export.graph import to_onnx
    from trainer.backbones.student import Student, StudentSettings

    torch.manual_seed(0)
    student = Student(StudentSettings(widths=(8, 16, 24, 40, 64), dim=96)).eval()
    return write_bundle(
        folder,
        name="random",
        version=1,
        onnx=to_onnx(student, 16000),
        input_name="waveform",
        output_name="embedding",
        sample_rate=16000,
        window_length=16000,
        hop_length=4000,
        dim=96,
        grid=Grid(),
        licence="Apache-2.0",
        model_card="# random weights\n",
    )


def ours(bundle: Bundle, network: Network, windows: NDArray[np.float32], scratch: Path) -> list[dict[str, Any]]:
    """Rows of both precisions."""
    precisions: tuple[Precision, ...] = ("int8", "float32")
    folder = scratch / "library"
    integers = to_integers(network, windows)
    Library(bundle, network, {p: plan_arena(network, p) for p in precisions}, integers).write(folder)
    only = scratch / "only_front_end.c"
    only.write_text(ONLY_FRONT_END, encoding="ascii")
    rows = []
    for precision in precisions:
        objects = emulated.compiled(folder, precision, scratch)
        defines = [f"-DMODEL=sk_model_{precision}", f"-DARENA=SK_MODEL_ARENA_{precision.upper()}"]
        path, front = scratch / f"{precision}.elf", scratch / f"{precision}_front_end.elf"
        emulated.link(path, objects, folder / "include", defines)
        emulated.link(front, [only, *objects], folder / "include", [*defines, "-Wl,--allow-multiple-definition"])
        pcm = pcm_of(windows)
        whole = Program(path, network.dim, pcm.shape[1]).figures(pcm)
        before = Program(front, network.dim, pcm.shape[1]).figures(pcm)
        wanted = Embedder(bundle).embed(pcm.astype(np.float32) / np.float32(32768.0))
        rows.append(
            row(f"soundkeep {precision}", whole, 2 * pcm.shape[1], whole.instructions - before.instructions, wanted)
        )
    return rows


def theirs(
    generator: str, model: bytes, name: str, inputs: NDArray[np.int16], wanted: NDArray[np.float32], scratch: Path
) -> dict[str, Any]:
    """A row of what the generator makes of a model. inputs: (n, length) int16 windows, or floats seen as pairs."""
    scratch.mkdir()
    (scratch / "ear.onnx").write_bytes(model)
    graph = onnx.load_from_string(model).graph
    shape = [d.dim_value for d in graph.input[0].type.tensor_type.shape.dim]
    n_input, dim = int(np.prod(shape[1:])), wanted.shape[1]
    one = [] if shape[0] else ["--input-dim", f"{graph.input[0].name}:0=1"]
    emulated.call(
        [
            *(generator, "compile", "--model-name", "ear_of", *one),
            *("--large-temp-threshold", "0", "--large-weight-threshold", "0"),
            *(str(scratch / "ear.onnx"), str(scratch / "ear_of.c")),
        ]
    )
    floats = n_input * 2 == inputs.shape[1]
    read = "((const float *)(const void *)pcm)[i]" if floats else "(float)pcm[i] / 32768.0f"
    include = scratch / "soundkeep"
    include.mkdir()
    (include / "sk_ear.h").write_text(EAR, encoding="ascii")
    (include / "sk_model.h").write_text(MODEL.format(dim=dim), encoding="ascii")
    (include / "sk_frontend.h").write_text("", encoding="ascii")
    (scratch / "calls.c").write_text(CALLS.format(n_input=n_input, read=read), encoding="ascii")
    source = (scratch / "ear_of.c").read_text(encoding="utf-8")
    (scratch / "ear_of.c").write_text(
        source + "\nvoid ear(const float *input, float *output);\nvoid ear(const float *input, float *output)\n"
        "{ ear_of((const void *)input, (void *)output); }\n",
        encoding="utf-8",
    )
    defines = ["-DMODEL=other", "-DARENA=8u"]
    made = scratch / "ear_of.o"
    flags = [f for f in FLAGS if not f.startswith(("-W", "-pedantic"))]
    emulated.call([emulated.CC, *flags, *emulated.BUILD, "-c", str(scratch / "ear_of.c"), "-o", str(made)])
    path = scratch / "ear.elf"
    emulated.link(path, [scratch / "calls.c", made], scratch, defines, STACK)
    found = Program(path, dim, inputs.shape[1]).figures(inputs)
    return row(name, found, 4 * n_input, found.instructions if floats else None, wanted, inside=4 * n_input)


def row(
    name: str, figures: Figures, sound: int, of_network: int | None, wanted: NDArray[np.float32], inside: int = 0
) -> dict[str, Any]:
    """inside: bytes of the sound that lie in the buffers already."""
    buffers = figures.buffers - inside
    difference = np.linalg.norm(l2_normalize(figures.embeddings) - l2_normalize(wanted), axis=1).max()
    return {
        "code": name,
        "flash": figures.flash,
        "RAM": buffers + sound + figures.stack,
        "buffers": buffers,
        "sound": sound,
        "stack": figures.stack,
        "instructions_M": None if of_network == figures.instructions else round(figures.instructions / 1e6, 1),
        "of_network_M": None if of_network is None else round(of_network / 1e6, 1),
        "difference": float(difference),
    }


def cut(model: bytes, tensor: str, n_bands: int, n_frames: int) -> tuple[bytes, bytes]:
    """The model up to ``tensor`` and from it on, for one window."""
    whole = onnx.load_from_string(model)
    value = onnx.helper.make_tensor_value_info(tensor, onnx.TensorProto.FLOAT, [1, 1, n_bands, n_frames])
    del whole.graph.value_info[:]
    whole.graph.value_info.append(value)
    whole.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    whole.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 1
    extractor = onnx.utils.Extractor(whole)
    first, last = whole.graph.input[0].name, whole.graph.output[0].name
    before, behind = extractor.extract_model([first], [tensor]), extractor.extract_model([tensor], [last])
    return before.SerializeToString(), behind.SerializeToString()


def run_onnx(model: bytes, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: x[None]})[0] for x in inputs])


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("bundle", nargs="?", type=Path, help="an ear; without: random weights")
    arguments.add_argument("--int8-bundle", type=Path, help="the same ear exported with --precision int8")
    arguments.add_argument("--generator", default="emx-onnx-cgen", help="the command")
    given = arguments.parse_args()
    if not emulated.emulator():
        raise SystemExit("needs arm-none-eabi-gcc and qemu-system-arm")
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        bundle = open_bundle(given.bundle) if given.bundle else small_ear(scratch / "bundle")
        manifest, space = bundle.manifest, bundle.space
        network = read_network(bundle.onnx_bytes(), manifest.input_name, manifest.output_name, manifest.window_length)
        windows = synthesised_windows(
            1 if given.quick else 4,
            np.random.default_rng(0),
            sample_rate=space.sample_rate,
            window_length=space.window_length,
            hop_length=space.hop_length,
        )
        windows = windows[: 1 if given.quick else 4]
        rows = ours(bundle, network, windows, scratch)
        generator = shutil.which(given.generator)
        if generator is None:
            print("emx-onnx-cgen is not there: python -m venv emx && emx/bin/pip install emx-onnx-cgen==1.4.0")
        else:
            pcm = pcm_of(windows)
            heard = pcm.astype(np.float32) / np.float32(32768.0)
            model = bundle.onnx_bytes()
            wanted = Embedder(bundle).embed(heard)
            rows.append(theirs(generator, model, "emx-onnx-cgen float32", pcm, wanted, scratch / "whole"))
            fe = network.front_end
            before, behind = cut(model, fe.output, fe.n_bands, fe.n_frames)
            features = run_onnx(before, heard).reshape(len(heard), -1)
            name = "emx-onnx-cgen float32, network alone"
            rows.append(theirs(generator, behind, name, features.view(np.int16), wanted, scratch / "behind"))
            if given.int8_bundle:
                small = open_bundle(given.int8_bundle)
                wanted = Embedder(small).embed(heard)
                rows.append(theirs(generator, small.onnx_bytes(), "emx-onnx-cgen int8", pcm, wanted, scratch / "int8"))
    print_table(rows)
    write_results(given.out, "c_export", {"model": f"{manifest.name} {manifest.version}", "rows": rows})


if __name__ == "__main__":
    main()
