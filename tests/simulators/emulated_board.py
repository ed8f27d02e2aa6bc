"""The example firmware on QEMU's mps2-an386, its serial line on a TCP port: built once a library."""

from __future__ import annotations

import functools
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from firmware_bridge.emulated_sound import ADDRESS, sound_image
from firmware_bridge.message import Message
from firmware_bridge.packet import Decoder, Packet, encode_packet
from tests.simulators.device_process import free_port

QEMU, CC = "qemu-system-arm", "arm-none-eabi-gcc"
needs_board = pytest.mark.skipif(
    shutil.which(QEMU) is None or shutil.which(CC) is None, reason=f"needs {CC} and {QEMU}"
)


@functools.lru_cache(maxsize=8)
def firmware(library: Path, extra: str = "", *, port: str = "mps2_an386", variables: tuple[str, ...] = ()) -> Path:
    """Build the example firmware of a written library. extra: flags of the compiler, such as ``-DBANK_BYTES=8192u``.
    variables: of the port's Makefile."""
    folder = library / "ports" / port
    subprocess.run(["make", "-s", "-C", str(folder), "clean"], check=True)
    command = ["make", "-s", "-C", str(folder), f"EXTRA={extra}", *variables]
    built = subprocess.run(command, check=False, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    kept = Path(tempfile.mkdtemp()) / "soundkeep.elf"
    shutil.copy(folder / "soundkeep.elf", kept)
    return kept


@contextmanager
def running_board(
    elf: Path,
    samples: NDArray[np.int16] | None = None,
    *,
    speed: float = 0.0,
    number: int | None = None,
    machine: str = "mps2-an386",
    line: int = 0,
) -> Iterator[str]:
    """Run it; the address of its line, the machine's serial port ``line``. speed: as in ``sound_image``.

    Without samples its microphone is silent.
    """
    port = free_port()
    command = [QEMU, "-M", machine, "-display", "none", "-monitor", "none", "-kernel", str(elf)]
    command += ["-serial", "null"] * line + ["-serial", f"tcp:127.0.0.1:{port},server=on,wait=off"]
    with tempfile.TemporaryDirectory() as folder:
        if samples is not None:
            image = Path(folder) / "sound"
            image.write_bytes(sound_image(samples, speed=speed, number=number))
            command += ["-device", f"loader,file={image},addr={ADDRESS:#x},force-raw=on"]
        with (Path(folder) / "said").open("w+b") as said:
            board = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
            try:
                _wait_until_listening(port, board)
                assert board.poll() is None, Path(folder, "said").read_text()
                yield f"tcp:127.0.0.1:{port}"
            finally:
                board.kill()
                board.wait()


def _wait_until_listening(port: int, board: subprocess.Popen[bytes]) -> None:
    """Without connecting: the emulator takes one connection at a time, and what is said to another one is lost."""
    until = time.monotonic() + 10.0
    while time.monotonic() < until and board.poll() is None:
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        if any(row[1].endswith(f":{port:04X}") and row[3] == "0A" for row in rows):
            return
        time.sleep(0.02)


class Line:
    """Raw packets to and from the board."""

    def __init__(self, address: str) -> None:
        _, host, port = address.split(":")
        self._socket = socket.create_connection((host, int(port)), timeout=5.0)
        self._decoder = Decoder()
        self._seen: list[Packet] = []

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._socket.close()

    def send(self, *messages: Message, seq: int = 0) -> None:
        self.send_bytes(b"".join(encode_packet(m.TYPE, seq + i, m.encode()) for i, m in enumerate(messages)))

    def send_bytes(self, data: bytes) -> None:
        self._socket.sendall(data)

    def read(self, seconds: float) -> list[Packet]:
        """All that comes within ``seconds`` of silence."""
        self._socket.settimeout(seconds)
        packets: list[Packet] = []
        while True:
            try:
                data = self._socket.recv(65_536)
            except TimeoutError:
                return packets
            packets += self._decoder.feed(data)

    def wait(self, kind: type[Message], seconds: float = 5.0) -> Any:
        """The next message of a kind; others are dropped."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            while self._seen:
                packet = self._seen.pop(0)
                if packet.type == kind.TYPE:
                    return kind.decode(packet.payload)
            self._socket.settimeout(max(0.01, until - time.monotonic()))
            self._seen += self._decoder.feed(self._socket.recv(65_536))
        raise AssertionError(f"no {kind.__name__} came within {seconds} s")
