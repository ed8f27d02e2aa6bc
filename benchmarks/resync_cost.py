"""What leaves and reaches a device in a day: bytes of real syncs with a real server, headers counted, TLS not.

Visits come every 15 minutes, 96 a day. A device that learnt nothing asks how things are, and for another ear; the one
that it has is published, so what is signed is fetched as in a fleet at rest.
Whatever was learnt since the last visit goes as one statement, whatever its size was before; with it, where the owner
lets them, the embeddings and recordings of the new examples alone.
"""

from __future__ import annotations

import tempfile
import wave
from pathlib import Path
from typing import Any

from benchmarks.machine import parser, print_table, single_thread, write_results

single_thread()

import numpy as np  # noqa: E402

from benchmarks.fleet_round import LEVELS, RATE, Device, Fleet, fleet_at  # noqa: E402
from edge.bundle import Bundle, default_bundle_path, open_bundle, write_bundle  # noqa: E402
from edge.scenes import SOUNDS  # noqa: E402

VISITS = 24 * 4
TAUGHT_A_DAY = 5
SECONDS = 3.0


def write_example(path: Path, seed: int) -> Path:
    """One sound of 3 s, made here."""
    rng = np.random.default_rng(seed)
    sound = SOUNDS[sorted(SOUNDS)[seed % len(SOUNDS)]].instance(rng).example(rng, RATE)
    samples = 0.5 * np.resize(sound, round(SECONDS * RATE)) + 0.001 * rng.standard_normal(round(SECONDS * RATE))
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(np.rint(np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return path


def total(kinds: dict[str, dict[str, int]], *names: str) -> tuple[int, int, int]:
    """Bytes up, bytes down and requests of the kinds with these names, or of all."""
    chosen = [entry for name, entry in kinds.items() if not names or name in names]
    return tuple(sum(entry[key] for entry in chosen) for key in ("up", "down", "requests"))  # type: ignore[return-value]


def publish(fleet: Fleet, ear: Bundle) -> None:
    fleet.run("bundles", "add", str(ear.path))
    fleet.run("bundles", "publish", ear.sha256)


def next_version(ear: Bundle, out: Path) -> Bundle:
    """The same ear under the next version."""
    about = ear.manifest
    return write_bundle(
        out, name=about.name, version=about.version + 1, onnx=ear.onnx_bytes(), input_name=about.input_name,
        output_name=about.output_name, sample_rate=about.sample_rate, window_length=about.window_length,
        hop_length=about.hop_length, dim=about.dim, grid=about.grid, licence=about.licence, model_card="# the same\n",
        detection=about.detection, prior=ear.prior(), canary=ear.canary(),
    )  # fmt: skip


def measure(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    shipped = open_bundle(default_bundle_path())
    with fleet_at(folder / "fleet") as fleet:
        publish(fleet, shipped)
        for level in LEVELS:
            device = Device(folder / level, level, [], [])
            device.state.mkdir()
            (device.state / "soundkeep.toml").write_text(f"[learn]\nclip_budget_bytes = {10**8 * (level == 'clips')}\n")
            device.run("sync", "enrol", fleet.url, fleet.token(), "--share", level)
            for day in range(2):
                for i in range(TAUGHT_A_DAY):
                    path = write_example(folder / f"{level}-{day}-{i}.wav", 100 * day + i)
                    device.run("teach", f"sound {i}", str(path))
                busy = device.run("sync", "now")["bytes_by_kind"]
            idle = device.run("sync", "now")["bytes_by_kind"]
            idle_up, idle_down, idle_requests = total(idle)
            up, down, requests = total(busy, "state", "embeddings", "clips")
            if level == LEVELS[0]:
                rows.append(row("nothing learnt", VISITS * idle_up, VISITS * idle_down, VISITS * idle_requests))
            name = f"{TAUGHT_A_DAY} examples learnt between two visits, shares {level}"
            rows.append(row(name, VISITS * idle_up + up, VISITS * idle_down + down, VISITS * idle_requests + requests))
        publish(fleet, next_version(shipped, folder / "next"))
        taken = Device(folder / LEVELS[0], LEVELS[0], [], []).run("sync", "now")["bytes_by_kind"]
        at_rest = (idle_up, idle_down, idle_requests)
        up, down, requests = (after - before for after, before in zip(total(taken), at_rest, strict=True))
        rows.append(row("a new ear, once", up, down, requests))
    return rows


def row(name: str, up: int, down: int, requests: int) -> dict[str, Any]:
    return {"a day of one device": name, "kB_up": up / 1e3, "kB_down": down / 1e3, "requests": requests}


def main() -> None:
    arguments = parser(__doc__).parse_args()
    with tempfile.TemporaryDirectory(prefix="soundkeep-") as folder:
        rows = measure(Path(folder))
    print_table(rows)
    write_results(arguments.out, "resync_cost", {"rows": rows, "visits": VISITS})


if __name__ == "__main__":
    main()
