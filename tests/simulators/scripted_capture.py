"""A capture process that acts from a script: what a microphone may do, without one.

    python scripted_capture.py FOLDER

FOLDER holds ``0.txt``, ``1.txt`` ...: each start of the process takes the next one, and then the last one again. Lines:

    open RATE [N]      a device of that native rate, with N channels (1), delivers from now on
    refuse SENTENCE    it cannot be opened
    noise SECONDS      that much sound, at once
    zeros SECONDS      that much exact silence, at once
    nan SECONDS        that much of what is no number, at once
    live SECONDS       that much sound, in real time
    overflow N         N samples lost before what comes next
    skip               a packet is missing
    junk               bytes that are no packet
    hang               alive and silent for ever
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import numpy as np

from edge.microphone_child import PacketWriter
from edge.microphone_packets import Kind, OpenedDevice, Packet

BLOCK_SECONDS = 0.02


def noise(n: int) -> bytes:
    return np.random.default_rng(n).uniform(-0.5, 0.5, n).astype(np.float32).tobytes()


def next_script(folder: Path) -> list[str]:
    scripts = sorted(folder.glob("*.txt"))
    n_run = 0
    while True:
        try:
            os.close(os.open(folder / f"run{n_run}", os.O_CREAT | os.O_EXCL))
            break
        except FileExistsError:
            n_run += 1
    return scripts[min(n_run, len(scripts) - 1)].read_text().splitlines()


def main(folder: Path) -> None:
    out = os.fdopen(1, "wb")
    writer = PacketWriter(out)
    rate = n_lost = 0
    n_channels = 1

    def audio(payload: bytes) -> None:
        writer.write(Packet(Kind.AUDIO, 0, payload, n_lost, int(n_lost > 0)))

    for line in next_script(folder):
        word, _, rest = line.partition(" ")
        if word == "open":
            rate, n_channels = (*map(int, rest.split()), 1)[:2]
            writer.write(Packet(Kind.OPENED, 0, OpenedDevice("scripted [test]", rate, n_channels).encode()))
        elif word == "refuse":
            writer.write(Packet(Kind.REFUSED, 0, rest.encode()))
        elif word in ("noise", "zeros", "nan", "live"):
            n = round(BLOCK_SECONDS * rate) * n_channels
            payloads = {"zeros": bytes(4 * n), "nan": np.full(n, np.nan, dtype=np.float32).tobytes()}
            for _ in range(round(float(rest) / BLOCK_SECONDS)):
                audio(payloads.get(word, noise(n)))
                n_lost = 0
                time.sleep(BLOCK_SECONDS if word == "live" else 0.0)
        elif word == "overflow":
            n_lost = int(rest)
        elif word == "skip":
            writer = PacketWriter(out, first_sequence=1_000_000)
        elif word == "junk":
            out.write(b"not a packet" * 10)
            out.flush()
        elif word == "hang":
            time.sleep(3600)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except BrokenPipeError:
        os._exit(0)
