"""How long until a sound taught through the API of a running listener is known?

A real listener process on one core hears a stream. An example of 3 s is sent as a WAV file to POST /teach; it is
decoded, embedded, written to the journal (synchronous) and learnt. ``acknowledged``: until the answer is here; every
window decided from then on knows the sound. ``heard``: until the first event with the new label arrives over the
WebSocket, a window of that sound being handed to the stream at the moment of the answer (in a room, the next window
comes up to one hop of 250 ms later). ``from the last seconds``: the same example taught from what was just heard.
``cpu_ms``: processor time of the listener for one request, which other load on the machine does not lengthen.
"""

from __future__ import annotations

import io
import json
import tempfile
import time
import wave
from pathlib import Path
from typing import Any

from benchmarks.machine import parser, print_table, single_thread, write_results

single_thread()

import httpx  # noqa: E402
import numpy as np  # noqa: E402
import psutil  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from websockets.sync.client import ClientConnection, connect  # noqa: E402

from benchmarks.ears import add_arguments, bundles  # noqa: E402
from benchmarks.listening import Listening, listening, percentiles  # noqa: E402
from edge.bundle import open_bundle  # noqa: E402
from edge.presence import find_presence  # noqa: E402
from edge.scenes import SOUNDS, Instrument  # noqa: E402

AUDIO = {"content-type": "audio/wav"}
EXAMPLE_S, SILENCE_S, HEARD_WITHIN_S = 3.0, 3.0, 3.0


def example(thing: Instrument, seconds: float, sample_rate: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """A sound of one thing, repeated to fill ``seconds``, in a quiet room."""
    sound = thing.example(rng, sample_rate)
    n = round(seconds * sample_rate)
    return np.asarray(np.resize(sound, n) * 0.5 + 0.001 * rng.standard_normal(n), dtype=np.float32)


def wav_of(samples: NDArray[np.float32], sample_rate: int) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes(np.rint(np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return buffer.getvalue()


def heard_label(events: ClientConnection, label: str) -> bool:
    """Wait for an event of that label."""
    until = time.monotonic() + HEARD_WITHIN_S
    while (left := until - time.monotonic()) > 0.0:
        try:
            if json.loads(events.recv(timeout=left))["label"] == label:
                return True
        except TimeoutError:
            return False
    return False


def measure(running: Listening, n_teachings: int, sample_rate: int) -> list[dict[str, Any]]:
    presence = find_presence(running.state)
    assert presence is not None
    headers = {"authorization": f"Bearer {presence.token}"}
    rng, names = np.random.default_rng(0), sorted(SOUNDS)
    process = psutil.Process(running.process.pid)
    cpu: list[float] = []
    cpu_last: list[float] = []
    acknowledged: list[float] = []
    heard: list[float] = []
    last: list[float] = []
    quiet = 0.001 * rng.standard_normal(round(SILENCE_S * sample_rate)).astype(np.float32)
    url = presence.url.replace("http", "ws") + "/events"
    with (
        httpx.Client(base_url=presence.url, headers=headers, timeout=30.0) as http,
        connect(url, additional_headers=headers) as events,
    ):
        for i in range(n_teachings):
            thing = SOUNDS[names[i % len(names)]].instance(rng)
            label = f"{thing.name} {i // len(names)}"
            running.play(quiet)
            body = wav_of(example(thing, EXAMPLE_S, sample_rate, rng), sample_rate)
            sound = example(thing, 2.0, sample_rate, rng)
            settle(http)
            before, began = cpu_seconds(process), time.perf_counter()
            http.post("/teach", params={"label": label}, content=body, headers=AUDIO).raise_for_status()
            acknowledged.append(time.perf_counter() - began)
            cpu.append(cpu_seconds(process) - before)
            running.play(sound)
            if heard_label(events, label):
                heard.append(time.perf_counter() - began)
            settle(http)
            before, began = cpu_seconds(process), time.perf_counter()
            http.post("/teach", json={"label": label, "seconds": 2.0}).raise_for_status()
            last.append(time.perf_counter() - began)
            cpu_last.append(cpu_seconds(process) - before)
    return [
        {
            "what": "acknowledged",
            "n": len(acknowledged),
            **percentiles(acknowledged),
            "cpu_ms": 1e3 * float(np.mean(cpu)),
        },
        {"what": "heard", "n": len(heard), **percentiles(heard), "cpu_ms": None},
        {"what": "from the last 2 s", "n": len(last), **percentiles(last), "cpu_ms": 1e3 * float(np.mean(cpu_last))},
    ]


def cpu_seconds(process: psutil.Process) -> float:
    """Processor time that a process has used, all its threads."""
    times = process.cpu_times()
    return float(times.user + times.system)


def settle(http: httpx.Client) -> None:
    """Wait until the loop has caught up with the stream."""
    before = -1.0
    while (now := float(http.get("/health").json()["heard_s"])) != before:
        before = now
        time.sleep(0.05)


def main() -> None:
    arguments = parser(__doc__)
    add_arguments(arguments)
    arguments.add_argument("--teachings", type=int, default=60)
    options = arguments.parse_args()
    n_teachings = 5 if options.quick else options.teachings
    rows: list[dict[str, Any]] = []
    with bundles(options.bundle, options.models) as found:
        for name, path in found.items():
            rate = open_bundle(path).space.sample_rate
            with (
                tempfile.TemporaryDirectory() as folder,
                listening(Path(folder), path, sample_rate=rate, one_core=True) as run,
            ):
                rows += [{"backbone": name, **row} for row in measure(run, n_teachings, rate)]
    print(f"\nteach one example of {EXAMPLE_S:g} s through the API of a running listener on one core\n")
    print_table(rows)
    write_results(options.out, "teach_latency", {"example_s": EXAMPLE_S, "rows": rows})


if __name__ == "__main__":
    main()
