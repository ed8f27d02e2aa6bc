"""A microphone without hardware: a private PulseAudio daemon whose null sink is played into and listened to.

No sound card, D-Bus, root or system daemon is needed. A stream of zeros keeps the sink awake: alone, a null sink sleeps
in steps of two seconds, and what is played arrives late and cut at its beginning.
"""

from __future__ import annotations

import ctypes.util
import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

NAME = "vmic"
START_SECONDS = 15.0


def missing_parts() -> str:
    """Say which system part a virtual microphone lacks here, or ""."""
    programs = [name for name in ("pulseaudio", "pactl", "pacat") if shutil.which(name) is None]
    if programs:
        return f"needs {', '.join(programs)} (Debian: apt install pulseaudio pulseaudio-utils)"
    if not any(Path(root).rglob("libasound_module_pcm_pulse.so") for root in ("/usr/lib", "/usr/lib64")):
        return "needs ALSA's pulse plug-in (Debian: apt install libasound2-plugins)"
    if importlib.util.find_spec("sounddevice") is None or ctypes.util.find_library("portaudio") is None:
        return "needs sounddevice and PortAudio (Debian: apt install libportaudio2)"
    return ""


class VirtualMicrophone:
    """Starts the daemon in a ``with``; ``environment`` is what a process needs to find it.

    sample_rate: Hz of the sink and of what is played. PortAudio sees the microphone as "vmic" of host API ALSA.
    """

    def __init__(self, sample_rate: int = 16_000) -> None:
        self.sample_rate = sample_rate
        self._folder = Path(tempfile.mkdtemp(prefix="vmic"))
        self._daemon: subprocess.Popen[bytes] | None = None
        self._players: list[subprocess.Popen[bytes]] = []
        run = self._folder / "run"
        run.mkdir(mode=0o700)
        self.environment = {
            "HOME": str(self._folder),
            "XDG_RUNTIME_DIR": str(run),
            "PULSE_RUNTIME_PATH": str(run),
            "PULSE_SERVER": f"unix:{run}/native",
        }
        (self._folder / ".asoundrc").write_text(
            "pcm.!default { type pulse }\n"
            "ctl.!default { type pulse }\n"
            f'pcm.{NAME} {{ type pulse device "{NAME}.monitor" }}\n'
        )

    def __enter__(self) -> VirtualMicrophone:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def start(self) -> None:
        """Start the daemon and wait until its microphone can be heard."""
        run = self._folder / "run"
        (run / "native").unlink(missing_ok=True)
        self._daemon = self._popen(
            "pulseaudio", "-n", "--daemonize=no", "--exit-idle-time=-1", "--use-pid-file=no", "--log-target=stderr",
            "-L", f"module-native-protocol-unix socket={run}/native auth-anonymous=1",
            "-L", f"module-null-sink sink_name={NAME} rate={self.sample_rate} channels=1 format=s16le",
            "-L", "module-always-sink",
        )  # fmt: skip
        deadline = time.monotonic() + START_SECONDS
        while self._pactl("set-default-source", f"{NAME}.monitor") != 0:
            if time.monotonic() > deadline:
                raise RuntimeError(f"the virtual microphone's daemon did not start within {START_SECONDS:.0f} s")
            time.sleep(0.05)
        with open("/dev/zero", "rb") as zeros:
            self._players = [self._popen(*self._pacat(), stdin=zeros)]

    def play(self, samples: NDArray[np.float32]) -> None:
        """Begin to play (n,) float32 at ``sample_rate`` into the microphone; returns at once."""
        path = self._folder / f"{len(self._players)}.raw"
        path.write_bytes(np.rint(np.clip(samples, -1.0, 1.0) * 32767.0).astype("<i2").tobytes())
        with path.open("rb") as file:
            self._players.append(self._popen(*self._pacat(), stdin=file))

    def mute(self, on: bool) -> None:
        """Mute the microphone itself: it goes on, with exact zeros."""
        self._pactl("set-source-mute", f"{NAME}.monitor", "1" if on else "0")

    def freeze(self) -> None:
        """Stop the daemon as a hanging driver would: alive, connected, and silent."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kill the daemon as if the device were unplugged."""
        for process in [*self._players, self._daemon]:
            if process is not None:
                process.kill()
                process.wait()
        self._players, self._daemon = [], None

    def _signal(self, number: signal.Signals) -> None:
        assert self._daemon is not None
        self._daemon.send_signal(number)

    def _pacat(self) -> list[str]:
        return [
            "pacat", "--playback", f"--device={NAME}", "--raw", f"--rate={self.sample_rate}", "--channels=1",
            "--format=s16le", "--latency-msec=20",
        ]  # fmt: skip

    def _pactl(self, *arguments: str) -> int:
        return subprocess.run(
            ["pactl", *arguments], env={**os.environ, **self.environment}, capture_output=True, timeout=10, check=False
        ).returncode

    def _popen(self, *command: str, stdin: int | IO[bytes] = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command,
            stdin=stdin,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **self.environment},
        )
