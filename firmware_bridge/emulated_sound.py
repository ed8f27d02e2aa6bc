"""What the emulated board (c/ports/mps2_an386) hears: a recording as an image of its memory.

python -m firmware_bridge.emulated_sound recording.wav sound.image
make -C ports/mps2_an386 run SOUND=sound.image
"""

from __future__ import annotations

import secrets
import struct
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

ADDRESS = 0x21000000
MAX_SAMPLES = (16 * 2**20 - 16) // 2
BLOCK = 320
_HEAD = struct.Struct("<4sIII")


def sound_image(samples: NDArray[np.int16], *, speed: float = 1.0, number: int | None = None) -> bytes:
    """samples: (n,) int16 at 16 kHz, at most ``MAX_SAMPLES``. speed: seconds of sound a second; 0: as fast as the line
    takes it, and then nothing is lost. number: the session of this start, drawn unless given."""
    block_us = 0 if speed == 0.0 else max(1, round(BLOCK / 16_000 / speed * 1e6))
    start = secrets.randbits(32) if number is None else number
    heard = np.ascontiguousarray(samples[:MAX_SAMPLES], dtype="<i2")
    return _HEAD.pack(b"SKWV", len(heard), block_us, start) + heard.tobytes()


def main(arguments: Sequence[str]) -> int:
    from edge.audio_files import read_audio
    from edge.errors import SoundkeepError

    if len(arguments) != 2:
        print("python -m firmware_bridge.emulated_sound RECORDING IMAGE", file=sys.stderr)
        return 2
    try:
        samples = read_audio(Path(arguments[0]), 16_000)
        heard = np.clip(np.rint(samples * 32768.0), -32768, 32767).astype(np.int16)
        Path(arguments[1]).write_bytes(sound_image(heard))
    except (SoundkeepError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
