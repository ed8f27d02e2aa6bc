"""How well bytes get through to a device and back: packets of chance sent, to be sent back as they are, and counted."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from firmware_bridge import protocol as p
from firmware_bridge.address import Address
from firmware_bridge.errors import LinkError, LinkLostError
from firmware_bridge.packet import Decoder, encode_packet
from firmware_bridge.transports import Transport, dialled

BAUDS = (2_000_000, 1_500_000, 1_000_000, 921_600, 460_800, 230_400, 115_200, 57_600)
N_PROBES = 40
PROBE_BYTES = 200
WAIT_S = 1.0
AT_ONCE = 4


@dataclass(frozen=True)
class Probed:
    """n_sent: probes. n_back: of them those that came back unchanged. n_damaged: what came and was no whole packet.
    bytes_per_s: of probes that came back, there and back. failure: why it could not be tried."""

    address: Address
    n_sent: int = 0
    n_back: int = 0
    n_damaged: int = 0
    n_good: int = 0
    bytes_per_s: float = 0.0
    failure: str = ""

    @property
    def clean(self) -> bool:
        return self.n_sent > 0 and self.n_back == self.n_sent and self.n_damaged == 0


def probed(
    address: Address,
    *,
    n_probes: int = N_PROBES,
    dial: Callable[[Address], Transport] = dialled,
    clock: Callable[[], float] = time.monotonic,
    seed: int = 0,
) -> Probed:
    """Send probes, four under way at a time; stop early when none of the first comes back. Raises LinkError when the
    address cannot be opened at all."""
    rng = np.random.default_rng(seed)
    decoder = Decoder()
    transport = dial(address)
    waiting: set[bytes] = set()
    n_sent = n_back = 0
    began = clock()
    try:
        transport.write(b"\0\0")  # ends whatever a device had begun to read
        heard_at = clock()
        while n_back < n_probes and clock() - heard_at < WAIT_S:
            while len(waiting) < AT_ONCE and n_sent < n_probes:
                data = rng.bytes(PROBE_BYTES)
                waiting.add(data)
                transport.write(encode_packet(p.Probe.TYPE, n_sent, data))
                n_sent += 1
            for packet in decoder.feed(transport.read(0.05)):
                if packet.type == p.ProbeAnswer.TYPE and packet.payload in waiting:
                    waiting.remove(packet.payload)
                    n_back += 1
                    heard_at = clock()
    except LinkLostError as error:
        return _result(Probed(address, n_sent, n_back, failure=str(error)), decoder, clock() - began)
    finally:
        transport.close()
    return _result(Probed(address, n_sent, n_back), decoder, clock() - began)


def probe_bauds(address: Address, bauds: tuple[int, ...] = BAUDS, **options: object) -> list[Probed]:
    """Try every rate on a serial port, best first: most probes back, fewest damaged, fastest."""
    tried = []
    for baud in bauds:
        at = replace(address, number=baud)
        try:
            tried.append(probed(at, **options))  # type: ignore[arg-type]
        except LinkError as error:
            tried.append(Probed(at, failure=str(error)))
    return sorted(tried, key=lambda r: (-r.n_back, r.n_damaged, -r.address.number))


def _result(result: Probed, decoder: Decoder, seconds: float) -> Probed:
    n_damaged = decoder.n_crc + decoder.n_malformed + decoder.n_oversized
    rate = 2 * PROBE_BYTES * result.n_back / seconds if seconds > 0.0 else 0.0
    return replace(result, n_damaged=n_damaged, n_good=decoder.n_good, bytes_per_s=rate)
