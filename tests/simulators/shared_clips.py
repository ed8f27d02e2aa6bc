"""A fleet that shares clips, written straight into a server: devices, records of one class each, and their sound.

The small student of the export tests is its ear, so a whole adaptation takes seconds.
"""

from __future__ import annotations

import hashlib
import io
import wave
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.bundle import Bundle
from trainer.server.database import transaction
from trainer.server.opening import Server
from trainer.server.tables import Clip, Device, Embedded, State

RATE = 16_000
KINDS = {"beep": 900.0, "hum": 140.0, "chirp": 2500.0, "buzz": 400.0}


def sound(kind: str, seed: int, seconds: float = 1.0) -> NDArray[np.float32]:
    """A tone of the kind's pitch, detuned, with overtones and noise. Returns (n,) float32."""
    rng = np.random.default_rng([seed, int(KINDS[kind])])
    t = np.arange(int(seconds * RATE)) / RATE
    hz = KINDS[kind] * rng.uniform(0.9, 1.1)
    tones = sum(np.sin(2.0 * np.pi * hz * k * t + rng.uniform(0, 6.28)) / k for k in (1, 2, 3))
    return np.asarray(0.2 * tones + 0.02 * rng.standard_normal(len(t)), dtype=np.float32)


def wav_bytes(samples: NDArray[np.float32]) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(np.rint(np.clip(samples, -1.0, 1.0) * 32767.0).astype("<i2").tobytes())
    return buffer.getvalue()


def share_clip(server: Server, device_id: str, label: str, wav: bytes) -> str:
    """Give the server one clip of a device, as its uploads would; returns the hash of the WAV file."""
    name = server.blobs.put(wav)
    content = hashlib.sha256(device_id.encode() + label.encode() + wav).hexdigest()
    with transaction(server.engine) as session:
        if session.get(Device, device_id) is None:
            session.add(Device(id=device_id, name=device_id, public_key=device_id.encode(), enrolled_at=0.0))
            session.flush()
            session.add(
                State(
                    device_id=device_id, revision=1, blob_sha256="0" * 64, space_sha256="0" * 64,
                    statistics_sha256="0" * 64, n_records=1, n_windows=1, labels={}, accepted_at=0.0,
                )
            )  # fmt: skip
            session.flush()
        session.add(
            Embedded(
                device_id=device_id, record_id=content, space_sha256="0" * 64, label=label, content_sha256=content,
                n_windows=1, embeddings=b"", received_at=0.0,
            )
        )  # fmt: skip
        session.add(
            Clip(
                device_id=device_id, content_sha256=content, wav_sha256=name, n_bytes=len(wav),
                received_at=server.clock(),
            )
        )  # fmt: skip
    return name


def share_sounds(server: Server, n: int, *, kinds: tuple[str, ...] = ("beep", "hum", "chirp")) -> list[str]:
    """``n`` clips of each kind, from two devices in turn."""
    return [
        share_clip(server, f"{'ab'[i % 2]}{'0' * 31}", kind, wav_bytes(sound(kind, i)))
        for kind in kinds
        for i in range(n)
    ]


def write_ear(folder: Path, *, seed: int = 0, version: int = 1) -> Bundle:
    """Export the small student: a float32 bundle with a canary, as only such can be adapted."""
    from export.pack import PackSettings, pack
    from tests.export.small_student import small_student
    from trainer.backbones.checkpoint import save_checkpoint

    save_checkpoint(folder.with_name(f"{folder.name}-checkpoint"), small_student(seed), {})
    settings = PackSettings(name="ear", version=version, hop_length=4000, measure="none")
    return pack(folder.with_name(f"{folder.name}-checkpoint"), folder, settings)[0]
