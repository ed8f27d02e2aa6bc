"""How fast the link's packets are written and read in Python, against what a line at 921600 baud carries.

``line``: megabytes a second of the line's own bytes, of packets of 20 ms of PCM16. ``times 921600``: against the 92,160
bytes a second of that line. ``cobs package``: the same packets by the C extension of PyPI's cobs, with zlib and struct.
"""

from __future__ import annotations

import struct
import time
import zlib
from collections.abc import Callable
from typing import Any

from benchmarks.machine import parser, print_table, single_thread, write_results

single_thread()

import numpy as np  # noqa: E402

from firmware_bridge.packet import Decoder, encode_packet  # noqa: E402
from firmware_bridge.protocol import Pcm  # noqa: E402

BAUD_BYTES = 92_160
BLOCK = 320


def sounds(n: int) -> dict[str, list[bytes]]:
    """Payloads of quiet sound (many zeros in the high bytes), loud sound, and silence."""
    rng, t = np.random.default_rng(0), np.arange(n * BLOCK)
    kinds = {
        "quiet": rng.standard_normal(len(t)) * 40,
        "loud": 12000 * np.sin(t * 0.05) + 2000 * rng.standard_normal(len(t)),
        "silence": np.zeros(len(t)),
    }
    made = {}
    for name, x in kinds.items():
        pcm = np.clip(x, -32768, 32767).astype("<i2")
        made[name] = [Pcm(i * BLOCK, pcm[i * BLOCK : (i + 1) * BLOCK].tobytes()).encode() for i in range(n)]
    return made


def rate(work: Callable[[], int]) -> float:
    """Megabytes a second, the best of five."""
    best = 0.0
    for _ in range(5):
        began = time.perf_counter()
        n_bytes = work()
        best = max(best, n_bytes / (time.perf_counter() - began))
    return best / 1e6


def own(payloads: list[bytes], line: bytes) -> tuple[Callable[[], int], Callable[[], int]]:
    def write() -> int:
        return sum(len(encode_packet(6, i & 0xFFFF, payload)) for i, payload in enumerate(payloads))

    def read() -> int:
        decoder = Decoder()
        for start in range(0, len(line), 4096):
            decoder.feed(line[start : start + 4096])
        assert decoder.n_good == len(payloads)
        return len(line)

    return write, read


def peer(payloads: list[bytes]) -> tuple[Callable[[], int], Callable[[], int]]:
    from cobs import cobs

    def write() -> int:
        n = 0
        for seq, payload in enumerate(payloads):
            body = struct.pack("<BBHH", 6, 0, seq & 0xFFFF, len(payload)) + payload
            n += len(b"\0" + cobs.encode(body + struct.pack("<I", zlib.crc32(body))) + b"\0")
        return n

    line = b"".join(encode_packet(6, i & 0xFFFF, payload) for i, payload in enumerate(payloads))

    def read() -> int:
        for piece in line.split(b"\0"):
            if piece:
                raw = cobs.decode(piece)
                assert zlib.crc32(raw[:-4]) == struct.unpack_from("<I", raw, len(raw) - 4)[0]
                struct.unpack_from("<BBHH", raw)
        return len(line)

    return write, read


def main() -> None:
    arguments = parser(__doc__).parse_args()
    rows: list[dict[str, Any]] = []
    for name, payloads in sounds(200 if arguments.quick else 2000).items():
        line = b"".join(encode_packet(6, i & 0xFFFF, payload) for i, payload in enumerate(payloads))

        for what, ours, theirs in zip(("write", "read"), own(payloads, line), peer(payloads), strict=True):
            mine, other = rate(ours), rate(theirs)
            rows.append({
                "sound": name, "what": what, "line_MB_s": mine, "times_921600": 1e6 * mine / BAUD_BYTES,
                "cobs_package_MB_s": other,
            })  # fmt: skip
    print_table(rows)
    write_results(arguments.out, "link_codec", {"rows": rows})


if __name__ == "__main__":
    main()
