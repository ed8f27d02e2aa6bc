"""What does listening cost: share of one core, memory, start, import; with peers in the same run.

A real ``soundkeep listen`` hears a quiet room and household sounds at the pace of the clock, four decisions a second,
API on, ten classes taught. Peers: the bare inference of YAMNet and of the speech embedding at the same pace, each in a
process with ONNX Runtime, one thread, no spinning, and nothing else (no capture, no decisions, no API).
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.machine import parser, print_table, single_thread, write_results

single_thread()

import numpy as np  # noqa: E402
import psutil  # noqa: E402

from benchmarks.ears import YAMNET, add_arguments, bundles  # noqa: E402
from benchmarks.listening import REPOSITORY, listening, paced  # noqa: E402
from edge.bundle import open_bundle  # noqa: E402
from edge.scenes import SOUNDS, make_scene  # noqa: E402

MELSPECTROGRAM, SPEECH = "speech_melspectrogram.onnx", "speech_embedding.onnx"
HOP_S, N_CLASSES, N_IMPORTS = 0.25, 10, 5


def listen_cost(path: Path, seconds: float) -> dict[str, Any]:
    """Run the real listener for ``seconds`` after its first classes were taught."""
    space = open_bundle(path).space
    rng = np.random.default_rng(0)
    things = [SOUNDS[name].instance(rng) for name in sorted(SOUNDS)[:N_CLASSES]]
    scene = np.concatenate([make_scene(rng, space.sample_rate, things).samples for _ in range(2)])
    scene = np.resize(scene, round(seconds * space.sample_rate))
    chunk = space.sample_rate // 20
    with (
        tempfile.TemporaryDirectory() as folder,
        listening(Path(folder), path, sample_rate=space.sample_rate) as run,
        run.client as client,
    ):
        for thing in things:
            run.play(np.resize(thing.example(rng, space.sample_rate), 2 * space.sample_rate))
            time.sleep(0.5)
            client.teach_last(thing.name, 1.5)
        time.sleep(1.0)
        process = psutil.Process(run.process.pid)
        before, began = process.cpu_times(), time.perf_counter()
        for piece in paced(scene, chunk, space.sample_rate):
            run.play(piece)
        wall = time.perf_counter() - began
        after, memory = process.cpu_times(), process.memory_info().rss
        health = client.health()
    used = after.user + after.system - before.user - before.system
    return {
        "cpu_percent": 100.0 * used / wall,
        "memory_mb": memory / 2**20,
        "start_s": run.start_s,
        "ms_per_decision": 1e3 * used / (wall / (space.hop_length / space.sample_rate)),
        "lost_s": health["lost_s"],
        "waiting": health["n_waiting_blocks"],
    }


def bare_cost(models: Path, name: str, seconds: float) -> dict[str, Any]:
    """Run one peer in a child process."""
    command = [sys.executable, "-m", "benchmarks.live_cost", "--bare", name, "--models", str(models)]
    began = time.perf_counter()
    with subprocess.Popen(
        [*command, "--seconds", str(seconds)], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        start_s = time.perf_counter() - began
        process = psutil.Process(child.pid)
        before = process.cpu_times()
        time.sleep(seconds * 0.9)
        after, memory = process.cpu_times(), process.memory_info().rss
    used = after.user + after.system - before.user - before.system
    return {
        "cpu_percent": 100.0 * used / (seconds * 0.9),
        "memory_mb": memory / 2**20,
        "start_s": start_s,
        "ms_per_decision": 1e3 * used / (seconds * 0.9 / HOP_S),
        "lost_s": None,
        "waiting": None,
    }


def run_bare(models: Path, name: str, seconds: float) -> None:
    """The child: one inference every hop, paced by the clock."""
    import onnxruntime

    def session(file: str) -> Any:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return onnxruntime.InferenceSession(str(models / file), options, providers=["CPUExecutionProvider"])

    rng = np.random.default_rng(0)
    if name == "yamnet":
        yamnet, sound = session(YAMNET), 0.1 * rng.standard_normal((1, 15_600)).astype(np.float32)
        steps = [lambda: yamnet.run(["embedding"], {"waveform": sound})]
    else:
        mel, embedding = session(MELSPECTROGRAM), session(SPEECH)
        pcm = (1000.0 * rng.standard_normal((1, 12_640))).astype(np.float32)

        def speech() -> Any:
            frames = mel.run(None, {mel.get_inputs()[0].name: pcm})[0].reshape(-1, 32) / 10.0 + 2.0
            patch = np.ascontiguousarray(frames[-76:], dtype=np.float32)[None, :, :, None]
            return embedding.run(None, {embedding.get_inputs()[0].name: patch})

        steps = [speech]
    steps[0]()
    print("ready", flush=True)
    began = time.monotonic()
    for i in range(int(seconds / HOP_S)):
        time.sleep(max(0.0, began + i * HOP_S - time.monotonic()))
        steps[0]()


def import_seconds(module: str) -> float:
    """Median wall time of a fresh interpreter that imports ``module``, less that of one that imports nothing."""
    times = {}
    for what in ("pass", f"import {module}"):
        runs = []
        for _ in range(N_IMPORTS):
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", what], check=True, cwd=REPOSITORY)
            runs.append(time.perf_counter() - began)
        times[what] = float(np.median(runs))
    return times[f"import {module}"] - times["pass"]


def main() -> None:
    arguments = parser(__doc__)
    add_arguments(arguments)
    arguments.add_argument("--seconds", type=float, default=60.0, help="how long to listen")
    arguments.add_argument("--bare", choices=["yamnet", "speech"], help="run one peer and nothing else")
    options = arguments.parse_args()
    if options.bare:
        run_bare(options.models, options.bare, options.seconds)
        return
    seconds = 6.0 if options.quick else options.seconds
    rows = []
    with bundles(options.bundle, options.models) as found:
        for name, path in found.items():
            rows.append({"what": f"soundkeep listen, {name}", **listen_cost(path, seconds)})
    if options.models is not None:
        for name, file in (("yamnet", YAMNET), ("speech", SPEECH)):
            if (options.models / file).is_file():
                rows.append({"what": f"bare inference, {name}", **bare_cost(options.models, name, seconds)})
    imports = {module: import_seconds(module) for module in ("edge", "edge.cli", "edge.learner")}
    print(f"\nlistening for {seconds:g} s at 4 decisions a second, share of one core\n")
    print_table(rows)
    print("\nimport: " + ", ".join(f"{module} {took:.3f} s" for module, took in imports.items()))
    write_results(options.out, "live_cost", {"seconds": seconds, "rows": rows, "import_s": imports})


if __name__ == "__main__":
    main()
