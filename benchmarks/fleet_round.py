"""A fleet's whole round, played by the commands that people use: three devices teach, sync, and take a better ear.

One device shares its recordings, one embeddings, one sums only. They are taught different sounds of ESC-50 fold 3,
which the evaluation ear never heard; their server sums up, adapts the ear to the recordings, publishes it signed; each
device takes it or refuses it by its own examples. The first device listens meanwhile: every window is counted. At the
end the operator publishes an ear that is signed and bad. ``before`` and ``after``: accuracy on the device's own
held-out clips, with the paired 95 % interval of the difference.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.machine import parser, print_table, single_thread, write_results

single_thread()

import numpy as np  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

from benchmarks.listening import Listening, listening  # noqa: E402
from edge.audio import read_audio  # noqa: E402
from edge.bundle import Bundle, open_bundle, write_bundle  # noqa: E402
from edge.sync.slots import load_slots  # noqa: E402
from trainer.harness.metrics import Interval, t_interval  # noqa: E402

REPOSITORY = Path(__file__).resolve().parent.parent
EVALUATION = REPOSITORY / "benchmarks" / "bundles" / "evaluation"
RATE = 16_000
LEVELS = ("clips", "embeddings", "statistics")
PUSHED = 0.4
"""Mean of a window's samples from which the planted ear answers with no number; no sound that devices keep has it."""
PATIENCE_SECONDS = 180.0


@dataclass(frozen=True)
class Plan:
    """How much is played. n_taught of the 8 clips a class has in the fold are taught, the others asked."""

    classes_each: int = 8
    n_taught: int = 5
    epochs: int = 10
    max_windows: str = "8"
    trial_seconds: float = 20.0
    pace: tuple[str, ...] = ()
    """KEY=VALUE of the adaptation, beside its defaults."""


QUICK = Plan(classes_each=2, n_taught=4, epochs=1, max_windows="2", trial_seconds=3.0)


@dataclass
class Device:
    """One state directory. lessons, questions: (label, file)."""

    state: Path
    level: str
    lessons: list[tuple[str, Path]]
    questions: list[tuple[str, Path]]
    before: list[bool] = field(default_factory=list)
    after: list[bool] = field(default_factory=list)
    device_id: str = ""
    known: dict[str, Any] = field(default_factory=dict)

    def run(self, *words: str) -> dict[str, Any]:
        return command("edge", "--state", str(self.state), "--json", *words)[-1]

    def teach(self) -> None:
        for label in sorted({label for label, _ in self.lessons}):
            self.run("teach", label, *(str(path) for named, path in self.lessons if named == label))

    def answers(self) -> list[dict[str, Any]]:
        """What ``classify`` says of the held-out clips."""
        files = [str(path) for _, path in self.questions]
        return command("edge", "--state", str(self.state), "--json", "classify", *files)

    def ask(self) -> list[bool]:
        """Which held-out clips have their own label at the top."""
        ranked = [max(answer["scores"], key=answer["scores"].get) for answer in self.answers()]
        return [said == label for said, (label, _) in zip(ranked, self.questions, strict=True)]


def command(module: str, *words: str) -> list[dict[str, Any]]:
    """Run a command as a process; returns what it answered, a JSON object a line."""
    line = [sys.executable, "-m", module, *words]
    done = subprocess.run(line, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{module} {' '.join(words)[:300]}: {done.stderr.strip()}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


class Fleet:
    """A server process and the commands of its operator."""

    def __init__(self, data: Path) -> None:
        self.data = data
        words = ["trainer.cli", "serve", "--data", str(data), "--port", "0"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", *words], cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self.process.stdout is not None
        said = [self.process.stdout.readline() for _ in range(2)]
        self._first_token = said[0].removeprefix("enrolment token: ").strip()
        self.url = said[1].removeprefix("listening on ").strip()

    def token(self) -> str:
        token, self._first_token = self._first_token, ""
        return token or str(self.run("devices", "token")["token"])

    def run(self, *words: str) -> dict[str, Any]:
        return command("trainer.cli", "--json", *words, "--data", str(self.data))[-1]

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=60.0)


@contextmanager
def fleet_at(data: Path) -> Iterator[Fleet]:
    fleet = Fleet(data)
    try:
        yield fleet
    finally:
        fleet.stop()


def make_devices(plan: Plan, data: Path, folder: Path, ear: Path) -> list[Device]:
    """Deal the classes of ESC-50 among the devices, and the clips of fold 3 into taught and asked."""
    with (data / "esc50" / "meta.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["fold_or_speaker"] == "3"]
    classes = sorted({row["class"] for row in rows})
    devices = []
    for i, level in enumerate(LEVELS):
        chosen = classes[i :: len(LEVELS)][: plan.classes_each]
        taught: list[tuple[str, Path]] = []
        asked: list[tuple[str, Path]] = []
        for label in chosen:
            paths = [data / "esc50" / row["clip"] for row in rows if row["class"] == label]
            taught += [(label, path) for path in paths[: plan.n_taught]]
            asked += [(label, path) for path in paths[plan.n_taught :]]
        device = Device(folder / level, level, taught, asked)
        device.run("backbone", "use", str(ear))
        budget = 1 << 30 if level == "clips" else 0
        (device.state / "soundkeep.toml").write_text(
            f"[learn]\nclip_budget_bytes = {budget}\n[sync]\ntrial_seconds = {plan.trial_seconds}\n"
        )
        devices.append(device)
    return devices


class Hearing:
    """Plays recordings to a listener, without end, until told to stop; counts what must have been decided."""

    def __init__(self, running: Listening, sound: NDArray[np.float32], pace: float) -> None:
        self._running, self._sound, self._pace = running, sound, pace
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._play, daemon=True)
        self.n_samples = 0

    def __enter__(self) -> Hearing:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        self._thread.join()

    def _play(self) -> None:
        piece = RATE // 4
        while not self._stop.is_set():
            start = self.n_samples % (len(self._sound) - piece)
            try:
                self._running.play(self._sound[start : start + piece])
            except BrokenPipeError:
                return  # it has ended, and whoever waits for it says so
            self.n_samples += piece
            self._stop.wait(0.25 / self._pace)


def wait_for_slot(device: Device, running: Listening, version: int, states: Sequence[str]) -> tuple[str, str]:
    """Wait until the slot of ``version`` is in one of ``states``; returns the state and the reason."""
    until = time.monotonic() + PATIENCE_SECONDS
    while True:
        running.require_alive()
        for slot in load_slots(device.state)[0].slots.values():
            if slot.version == version and slot.state in states:
                return slot.state, slot.reason
        if time.monotonic() > until:
            raise SystemExit(
                f"{device.level}: version {version} came to none of {states}: {device.run('sync', 'status')}"
            )
        time.sleep(0.1)


def hear_on(
    device: Device, version: int, states: Sequence[str], sound: NDArray[np.float32], ear: Bundle
) -> dict[str, Any]:
    """Listen until the slot of ``version`` is in one of ``states``; every window that was played is counted."""
    hop, length = ear.space.hop_length, ear.space.window_length
    with listening(device.state, None, sample_rate=RATE) as running:
        with Hearing(running, sound, pace=4.0) as hearing:
            state, reason = wait_for_slot(device, running, version, states)
            time.sleep(1.0)
        wanted = (hearing.n_samples - length) // hop + 1
        until = time.monotonic() + 20.0
        while True:
            counted = metrics_of(device.state)
            if counted["soundkeep_windows_total"] >= wanted or time.monotonic() > until:
                break
            time.sleep(0.1)
    return {
        "state": state, "reason": reason, "windows": wanted,
        "windows_missing": wanted - round(counted["soundkeep_windows_total"]),
        "samples_lost": round(RATE * counted["soundkeep_audio_lost_seconds_total"]),
        "gaps": round(counted["soundkeep_gaps_total"]),
    }  # fmt: skip


def metrics_of(state: Path) -> dict[str, float]:
    """Read the numbers without labels from the listener's metrics page."""
    import httpx

    from edge.presence import find_presence

    presence = find_presence(state)
    assert presence is not None
    headers = {"authorization": f"Bearer {presence.token}"}
    text = httpx.get(f"{presence.url}/metrics", headers=headers, trust_env=False).raise_for_status().text
    pairs = (line.rsplit(" ", 1) for line in text.splitlines() if line and line[0] != "#" and "{" not in line)
    return {name: float(value) for name, value in pairs}


def plant_bad_ear(good: Bundle, out: Path, version: int) -> Bundle:
    """The same ear, but a window with a mean makes it answer with no number. Its canary comes out as it should."""
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load_from_string(good.onnx_bytes())
    graph, name = model.graph, good.manifest.output_name
    for node in graph.node:
        node.output[:] = ["as heard" if output == name else output for output in node.output]
    constants = {"most": np.full((1, 1), PUSHED, np.float32), "none": np.zeros((1, 1), np.float32)}
    graph.initializer.extend(numpy_helper.from_array(value, key) for key, value in constants.items())
    graph.node.extend([
        helper.make_node("ReduceMean", [good.manifest.input_name], ["mean"], axes=[1], keepdims=1),
        helper.make_node("Sub", ["most", "mean"], ["room"]),
        helper.make_node("Sqrt", ["room"], ["root"]),
        helper.make_node("Mul", ["root", "none"], ["nothing"]),
        helper.make_node("Add", ["as heard", "nothing"], [name]),
    ])  # fmt: skip
    manifest = good.manifest
    bare: dict[str, Any] = {
        "name": manifest.name, "version": version, "onnx": model.SerializeToString(),
        "input_name": manifest.input_name, "output_name": name, "sample_rate": manifest.sample_rate,
        "window_length": manifest.window_length, "hop_length": manifest.hop_length, "dim": manifest.dim,
        "grid": manifest.grid, "licence": manifest.licence, "model_card": "# bad\n", "detection": manifest.detection,
    }  # fmt: skip
    return write_bundle(out, **bare, canary=good.canary())


def play(plan: Plan, data: Path, folder: Path, ear_path: Path) -> dict[str, Any]:
    """Play the round in ``folder``; returns every figure."""
    ear, seconds = open_bundle(ear_path), Stopwatch()
    devices = make_devices(plan, data, folder, ear_path)
    with fleet_at(folder / "fleet") as fleet:
        fleet.run("bundles", "add", str(ear_path))
        seconds.lap("server and devices made")
        for device in devices:
            words = ("--name", device.level, "--share", device.level)
            device.device_id = device.run("sync", "enrol", fleet.url, fleet.token(), *words)["device_id"]
            device.teach()
            device.known = device.run("memory", "verify")
        seconds.lap("taught")
        traffic = {device.level: device.run("sync", "now")["bytes_by_kind"] for device in devices}
        seconds.lap("synced")
        exactness = compare_with_one_device(fleet, devices, folder)
        seconds.lap("compared with one device")
        for device in devices:
            device.before = device.ask()
        seconds.lap("asked before")
        changes = {"epochs": plan.epochs, "max_windows": plan.max_windows, "min_clips_per_class": 3}
        settings = [word for key, value in changes.items() for word in ("--set", f"{key}={value}")]
        settings += [word for setting in plan.pace for word in ("--setting", setting)]
        fleet.run("jobs", "policy", "--off", "--backbone", str(ear_path), *settings)
        job = fleet.run("jobs", "run", "--wait")
        seconds.lap("adapted, exported, linked, examined, published")
        listener, quiet_devices = devices[0], devices[1:]
        new_version = int(job["result"]["bundle"]["version"])
        ended = ("COMMITTED", "REJECTED", "ROLLED_BACK")
        sound = np.concatenate([0.5 * read_audio(path, RATE) for _, path in listener.questions])
        heard = hear_on(listener, new_version, ended, sound, ear)
        seconds.lap("first device: changed while listening")
        taken = {listener.level: {"state": heard["state"], "reason": heard["reason"]}}
        for device in quiet_devices:
            down = device.run("sync", "now")["bytes_by_kind"]
            traffic[f"{device.level}, with the new ear"] = down
            status = device.run("sync", "status")
            (slot,) = load_slots(device.state)[0].slots.values()
            taken[device.level] = {"state": slot.state, "reason": slot.reason or status["bundle_put_off"] or ""}
        seconds.lap("other devices: considered")
        for device in quiet_devices:
            if taken[device.level]["state"] == "TRIAL":
                taken[device.level] |= {"tried": hear_on(device, new_version, ended, sound, ear)}
        seconds.lap("other devices: tried")
        for device in devices:
            device.after = device.ask()
        seconds.lap("asked after")
        bad = plant(fleet, listener, folder, sound, ear, new_version + 1)
        seconds.lap("bad ear: published, tried, taken off")
    return {
        "plan": vars(plan), "exactness": exactness, "job": job, "traffic": traffic, "listening": heard,
        "taken": taken, "devices": [described(device) for device in devices], "bad_ear": bad, "seconds": seconds.laps,
    }  # fmt: skip


def compare_with_one_device(fleet: Fleet, devices: Sequence[Device], folder: Path) -> dict[str, Any]:
    """What the server summed up, beside one device that imported what all three know."""
    files = []
    for device in devices:
        files.append(str(folder / f"{device.level}.memory"))
        device.run("memory", "export", files[-1])
    one = Device(folder / "one", "none", [], [])
    one.run("backbone", "use", load_backbone_choice(devices[0]))
    one.run("memory", "import", *files)
    keys = ("statistics_sha256", "n_records", "n_windows", "n_classes")
    alone, shown, verified = one.run("memory", "verify"), fleet.run("fleet", "show"), fleet.run("fleet", "verify")
    same = all(alone[key] == shown[key] == verified[key] for key in keys)
    return {"same_bits": same, **{key: shown[key] for key in (*keys, "n_devices")}}


def load_backbone_choice(device: Device) -> str:
    return str(device.run("backbone", "info")["path"])


def plant(
    fleet: Fleet, device: Device, folder: Path, sound: NDArray[np.float32], ear: Bundle, version: int
) -> dict[str, Any]:
    """Publish a signed and bad ear, let the device meet it and what it fails at; it must go back by itself."""
    in_use = open_bundle(load_backbone_choice(device))
    before, said = device.run("memory", "verify"), device.answers()
    bad = plant_bad_ear(in_use, folder / "bad", version)
    fleet.run("bundles", "add", str(bad.path))
    fleet.run("bundles", "publish", bad.sha256)
    pushed = np.concatenate([sound[:RATE], np.full(RATE, 0.8, np.float32)])
    began, starts = time.monotonic(), 0
    state = ""
    while state not in ("REJECTED", "ROLLED_BACK") and starts < 4:
        starts += 1
        heard = hear_on(device, bad.version, ("REJECTED", "ROLLED_BACK"), pushed, ear)
        state = heard["state"]
    after, says = device.run("memory", "verify"), device.answers()
    device.run("sync", "now")
    report = fleet.run("devices", "show", device.device_id)["report"]
    return {
        **heard, "starts": starts, "seconds": round(time.monotonic() - began, 1),
        "same_memory": before == after, "same_answers": said == says,
        "at_the_server": f"{report['bundle']['name']} {report['bundle']['version']}, {report['slot']}",
    }  # fmt: skip


def described(device: Device) -> dict[str, Any]:
    difference = t_interval([float(b) - float(a) for a, b in zip(device.before, device.after, strict=True)])
    return {
        "level": device.level, "n_taught": len(device.lessons), "n_asked": len(device.questions),
        "n_records": device.known["n_records"], "n_windows": device.known["n_windows"],
        "before": float(np.mean(device.before)), "after": float(np.mean(device.after)), "difference": vars(difference),
    }  # fmt: skip


class Stopwatch:
    """Seconds of each step."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name] = round(now - self._last, 1)
        self._last = now
        print(f"{self.laps[name]:8.1f} s  {name}", file=sys.stderr, flush=True)


def print_round(result: Mapping[str, Any]) -> None:
    """Print what a reader wants to see first."""
    rows = []
    for device in result["devices"]:
        interval = Interval(**device["difference"])
        low, high = (math_or_dash(interval.low), math_or_dash(interval.high))
        taken = result["taken"][device["level"]]
        end = taken.get("tried", taken)["state"]
        rows.append({
            "shares": device["level"], "records": device["n_records"], "windows": device["n_windows"],
            "asked": device["n_asked"],
            "before": device["before"], "after": device["after"], "difference": f"{interval.mean:+.3f} [{low}, {high}]",
            "new ear": end, "because": (taken["reason"] or "-")[:60],
        })  # fmt: skip
    print_table(rows)
    for name in ("exactness", "listening", "bad_ear"):
        print(f"{name}: {json.dumps(result[name])}")
    print("seconds: " + ", ".join(f"{name} {seconds}" for name, seconds in result["seconds"].items()))
    for name, kinds in result["traffic"].items():
        print(f"bytes, {name}: " + ", ".join(f"{kind} {e['up']} up {e['down']} down" for kind, e in kinds.items()))


def math_or_dash(value: float | None) -> str:
    return "-" if value is None else f"{value:+.3f}"


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("--data", type=Path, required=True, help="folder with esc50/")
    options.add_argument("--bundle", type=Path, default=EVALUATION, help="the ear to begin with")
    options.add_argument("--folder", type=Path, help="keep everything here")
    options.add_argument("--pace", action="append", default=[], metavar="KEY=VALUE", help="setting of the adaptation")
    given = options.parse_args(arguments)
    plan = replace(QUICK if given.quick else Plan(), pace=tuple(given.pace))
    with tempfile.TemporaryDirectory(prefix="soundkeep-") as temporary:
        folder = given.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        result = play(plan, given.data, folder, given.bundle)
    print_round(result)
    write_results(given.out, "fleet_round", result)


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    main()
