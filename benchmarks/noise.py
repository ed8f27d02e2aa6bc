"""Does plain noise ever fire? Ten minutes each of white and pink noise at -60 to -10 dBFS, and of digital silence.

The ten fixed impulsive and tonal sounds of ``edge.scenes.TEN_TEST_SOUNDS`` are taught from a few examples each; the
target is no event at all, of a taught label or unknown. As a control that the device is not simply deaf, other takes
of the same ten things are played in a quiet room with the same settings.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import parser, print_table, single_thread, write_results

single_thread()

import numpy as np  # noqa: E402
from numpy.random import Generator  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

from edge.backbones import open_backbone  # noqa: E402
from edge.bundle import Bundle  # noqa: E402
from edge.commands.workbench import Workbench  # noqa: E402
from edge.decision import Decider, Event, level_dbfs  # noqa: E402
from edge.embedder import Embedder  # noqa: E402
from edge.hearing import hear, sounding_example  # noqa: E402
from edge.journal import Journal  # noqa: E402
from edge.learner import Learner  # noqa: E402
from edge.scenes import SOUNDS, TEN_TEST_SOUNDS, Instrument, scene_from_clips  # noqa: E402

LEVELS_DBFS = (-60, -50, -40, -30, -20, -10)
CHUNK_SECONDS = 10.0
N_EXAMPLES, N_TAKES, SEED = 3, 5, 11


def white(n: int, rng: Generator) -> NDArray[np.float32]:
    """n samples of white noise of unit RMS."""
    return rng.standard_normal(n, dtype=np.float32)


def pink(n: int, rng: Generator) -> NDArray[np.float32]:
    """n samples of noise whose power falls by 3 dB an octave above 10 periods in n, of unit RMS."""
    spectrum = np.fft.rfft(rng.standard_normal(n))
    spectrum[0] = 0.0
    spectrum /= np.sqrt(np.maximum(np.arange(len(spectrum)), 10.0))
    x = np.fft.irfft(spectrum, n)
    return np.asarray(x / np.sqrt(np.mean(x**2)), dtype=np.float32)


def noise(
    colour: str, level_dbfs_: float, seconds: float, sample_rate: int, seed: int
) -> Iterator[NDArray[np.float32]]:
    """Yield chunks of one noise at one RMS level, clipped at full scale as a converter would."""
    rng = np.random.default_rng([seed, round(-level_dbfs_)])
    n_left = round(seconds * sample_rate)
    whole = {"white": white, "pink": pink}[colour](n_left, rng)
    whole = np.clip(whole * np.float32(10.0 ** (level_dbfs_ / 20.0)), -1.0, 1.0)
    step = round(CHUNK_SECONDS * sample_rate)
    for at in range(0, n_left, step):
        yield whole[at : at + step]


def silence(seconds: float, sample_rate: int) -> Iterator[NDArray[np.float32]]:
    yield np.zeros(round(seconds * sample_rate), dtype=np.float32)


class Ear:
    """Learner, embedder and settings of one device; every stream gets a decider of its own."""

    def __init__(self, bench: Workbench, bundle: Bundle, learner: Learner) -> None:
        self.space = bundle.space
        self.learner = learner
        self.embedder = Embedder(bundle)
        self.settings = bench.decision_settings(bundle)

    def teach(self, things: list[Instrument], rng: Generator) -> None:
        for thing in things:
            takes = [thing.example(rng, self.space.sample_rate) for _ in range(N_EXAMPLES)]
            self.learner.teach(thing.name, [sounding_example(hear(x, self.embedder), {}) for x in takes])

    def events(self, chunks: Iterator[NDArray[np.float32]]) -> tuple[list[Event], float]:
        """Listen to a stream at full speed; returns the events that began, and the largest z of any class."""
        space, largest = self.space, -np.inf
        decider = Decider(
            self.settings,
            sample_rate=space.sample_rate,
            window_length=space.window_length,
            hop_length=space.hop_length,
        )
        found: list[Event] = []
        rest, start = np.zeros(0, dtype=np.float32), 0
        for chunk in chunks:
            rest = np.concatenate([rest, chunk])
            at = 0
            while at + space.window_length <= len(rest):
                window = rest[at : at + space.window_length]
                labels, z = self.learner.judge(self.embedder.quantized(window[None])[0])
                found += decider.push(start + at, labels, z[0], level_dbfs(window))
                largest = max(largest, float(z.max(initial=-np.inf)))
                at += space.hop_length
            rest, start = rest[at:], start + at
        found += decider.flush()
        return [event for event in found if event.phase == "onset"], largest


@contextmanager
def taught_ear(bundle: Bundle) -> Iterator[tuple[Ear, list[Instrument]]]:
    """A device in a temporary directory that was taught the ten sounds."""
    rng = np.random.default_rng(SEED)
    things = [SOUNDS[name].instance(rng) for name in TEN_TEST_SOUNDS]
    with tempfile.TemporaryDirectory(prefix="soundkeep-noise-") as folder:
        bench = Workbench(Path(folder), str(bundle.path), as_json=False)
        with Journal.open(Path(folder), space=bundle.space) as journal:
            ear = Ear(bench, bundle, bench.learner(journal, bundle))
            ear.teach(things, rng)
            yield ear, things


def share_heard(ear: Ear, things: list[Instrument]) -> float:
    """The control: share of fresh takes in a quiet room that are reported by their name."""
    rate, rng = ear.space.sample_rate, np.random.default_rng(SEED + 1)
    clips: list[tuple[str | None, NDArray[np.float32]]] = [
        (thing.name, thing.example(rng, rate)) for _ in range(N_TAKES) for thing in things
    ]
    scene = scene_from_clips(rng, rate, clips, gap_s=(2.0, 3.0), snr_db=40.0)
    events, _ = ear.events(iter([scene.samples]))
    slack = ear.space.window_length
    heard = [
        any(e.label == o.label and o.onset - slack <= e.onset_sample < o.offset + slack for e in events)
        for o in scene.truth
    ]
    return sum(heard) / len(heard)


@dataclass(frozen=True)
class Row:
    """One condition. largest_z: of any taught class in any window; an event needs the threshold."""

    sound: str
    dBFS: int | None
    minutes: float
    events_of_taught: int
    events_unknown: int
    labels: str | None
    largest_z: float
    times_real_time: float

    @property
    def n_events(self) -> int:
        return self.events_of_taught + self.events_unknown


def heard_in(ear: Ear, sound: str, level: int | None, seconds: float) -> Row:
    """Listen to one condition; level None is digital silence."""
    rate = ear.space.sample_rate
    chunks = silence(seconds, rate) if level is None else noise(sound, level, seconds, rate, SEED)
    began = time.perf_counter()
    events, largest = ear.events(chunks)
    taught = [event.label for event in events if event.label is not None]
    return Row(
        sound=sound,
        dBFS=level,
        minutes=seconds / 60.0,
        events_of_taught=len(taught),
        events_unknown=len(events) - len(taught),
        labels=", ".join(sorted(set(taught))) or None,
        largest_z=largest,
        times_real_time=seconds / (time.perf_counter() - began),
    )


def run(bundle: Bundle, seconds: float) -> dict[str, Any]:
    """Return the table of all conditions, and the control."""
    rows = []
    with taught_ear(bundle) as (ear, things):
        control = share_heard(ear, things)
        conditions: list[tuple[str, int | None]] = [("silence", None)]
        conditions += [(colour, level) for colour in ("white", "pink") for level in LEVELS_DBFS]
        for colour, level in conditions:
            rows.append(heard_in(ear, colour, level, seconds))
            print(f"{rows[-1].sound} {rows[-1].dBFS}: {rows[-1].n_events} event(s)", flush=True)
        threshold = ear.settings.threshold
    return {
        "bundle": bundle.name,
        "bundle_version": bundle.version,
        "threshold": threshold,
        "taught": list(TEN_TEST_SOUNDS),
        "examples_each": N_EXAMPLES,
        "share_of_fresh_takes_heard": control,
        "target": 0,
        "n_events": sum(row.n_events for row in rows),
        "rows": [asdict(row) for row in rows],
    }


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--bundle", help="backbone, a folder or a listed name; the shipped one without it")
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as nowhere:
        bundle = open_backbone(Path(nowhere), options.bundle)
        results = run(bundle, 10.0 if options.quick else 600.0)
    print()
    print_table(results["rows"])
    print(
        f"\n{results['n_events']} event(s), target 0; of fresh takes of the ten sounds "
        f"{results['share_of_fresh_takes_heard']:.0%} were heard"
    )
    write_results(options.out, "noise", results)


if __name__ == "__main__":
    main()
