"""Two hours of sound as fast as the loop goes: does memory grow, is a window lost?

A recording of two hours (household sounds in a room, made here) streams through the real source, windower, embedder,
learner, decider and sinks in this process. Every window must be decided; resident memory is read once a second and a
line fitted through it after the first tenth.
"""

from __future__ import annotations

import tempfile
import threading
import time
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.machine import parser, print_table, single_thread, write_results

single_thread()

import numpy as np  # noqa: E402
import psutil  # noqa: E402

from benchmarks.ears import add_arguments, bundles  # noqa: E402
from edge.audio import open_source  # noqa: E402
from edge.bundle import open_bundle  # noqa: E402
from edge.config import DecisionOverrides, decision_settings  # noqa: E402
from edge.decision import Decider  # noqa: E402
from edge.embedder import Embedder  # noqa: E402
from edge.hearing import example_of_file  # noqa: E402
from edge.inbox import Inbox  # noqa: E402
from edge.journal import Journal  # noqa: E402
from edge.learner import Learner  # noqa: E402
from edge.listener import Listener  # noqa: E402
from edge.metrics import Metrics  # noqa: E402
from edge.recent import RecentEvents, RecentSound  # noqa: E402
from edge.scenes import SOUNDS, make_scene  # noqa: E402
from edge.space import FeatureSpace  # noqa: E402
from edge.windows import Windower  # noqa: E402

SCENE_S = 120.0


class CountingMetrics(Metrics):
    """The listener's own metrics, and the plain number of windows."""

    n_windows = 0

    def decided(self, embedding_s: float, latency_s: float) -> None:
        super().decided(embedding_s, latency_s)
        self.n_windows += 1


class MemoryWatch:
    """Reads resident memory once a second, with how much was decided by then."""

    def __init__(self, n_decided: Callable[[], int]) -> None:
        self.samples: list[tuple[int, float]] = []
        self._n_decided = n_decided
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        process = psutil.Process()
        while not self._stop.wait(1.0):
            self.samples.append((self._n_decided(), process.memory_info().rss / 2**20))


def write_stream(path: Path, hours: float, sample_rate: int) -> int:
    """Write the recording: a scene of two minutes again and again. Returns its number of samples."""
    rng = np.random.default_rng(0)
    things = [SOUNDS[name].instance(rng) for name in sorted(SOUNDS)[:12]]
    pieces, n = [], 0
    while n < SCENE_S * sample_rate:
        pieces.append(make_scene(rng, sample_rate, things).samples)
        n += len(pieces[-1])
    scene = np.rint(np.concatenate(pieces) * 32767).astype("<i2")
    n_samples = round(hours * 3600 * sample_rate)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        for start in range(0, n_samples, len(scene)):
            file.writeframes(scene[: n_samples - start].tobytes())
    return n_samples


def soak(path: Path, hours: float, folder: Path) -> dict[str, Any]:
    bundle = open_bundle(path)
    space, embedder = bundle.space, Embedder(bundle)
    n_samples = write_stream(folder / "stream.wav", hours, space.sample_rate)
    rng = np.random.default_rng(1)
    with Journal.open(folder / "state", space=space) as journal:
        learner = Learner(journal, FeatureSpace(space), prior=bundle.prior(), live=True)
        for name in sorted(SOUNDS)[:10]:
            clip = folder / "clip.wav"
            with wave.open(str(clip), "wb") as file:
                file.setnchannels(1)
                file.setsampwidth(2)
                file.setframerate(space.sample_rate)
                sound = SOUNDS[name].instance(rng).example(rng, space.sample_rate)
                file.writeframes(np.rint(sound * 16000).astype("<i2").tobytes())
            learner.teach(name, [example_of_file(clip, embedder)])
        source = open_source(str(folder / "stream.wav"), space.sample_rate, speed="max")
        windower = Windower(space.window_length, space.hop_length)
        recent = RecentSound(space, 60.0)
        events = RecentEvents(recent, 100)
        metrics = CountingMetrics(sample_rate=space.sample_rate, about={"backbone": bundle.name})
        listener = Listener(
            source=source,
            inbox=Inbox(),
            windower=windower,
            embedder=embedder,
            judge=learner,
            decider=Decider(
                decision_settings(bundle.detection, DecisionOverrides()),
                sample_rate=space.sample_rate,
                window_length=space.window_length,
                hop_length=space.hop_length,
            ),
            recent=recent,
            sinks=[events],
            meter=metrics,
        )
        began = time.perf_counter()
        with MemoryWatch(lambda: metrics.n_windows) as watch:
            listener.run()
        took = time.perf_counter() - began
    expected = 1 + (n_samples - space.window_length) // space.hop_length
    decided, memory = np.array([s for s in watch.samples if s[0] > 0.1 * expected]).reshape(-1, 2).T
    slope = float(np.polyfit(decided, memory, 1)[0]) if len(decided) > 2 else float("nan")
    return {
        "hours": hours,
        "windows": metrics.n_windows,
        "lost": expected - metrics.n_windows,
        "gaps": windower.n_gaps,
        "took_s": took,
        "times_real": 3600.0 * hours / took,
        "memory_mb": float(memory[-1]) if len(memory) else None,
        "grown_mb": float(memory[-1] - memory[0]) if len(memory) else None,
        "mb_per_hour": slope * 3600.0 * space.sample_rate / space.hop_length if len(decided) > 2 else None,
    }


def main() -> None:
    arguments = parser(__doc__)
    add_arguments(arguments)
    arguments.add_argument("--hours", type=float, default=2.0)
    options = arguments.parse_args()
    hours = 0.05 if options.quick else options.hours
    rows = []
    with bundles(options.bundle, options.models) as found:
        for name, path in found.items():
            with tempfile.TemporaryDirectory(prefix="soundkeep-") as folder:
                rows.append({"backbone": name, **soak(path, hours, Path(folder))})
    print(f"\n{hours:g} h of sound at --speed max\n")
    print_table(rows)
    write_results(options.out, "stream_soak", {"rows": rows})


if __name__ == "__main__":
    main()
