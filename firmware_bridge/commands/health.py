"""`soundkeep-bridge status` and `probe`."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from edge.commands.workbench import Workbench

if TYPE_CHECKING:
    from firmware_bridge.link_events import Device, LinkHealth
    from firmware_bridge.probing import Probed


@click.command()
@click.argument("address")
@click.option("--seconds", type=click.FloatRange(min=0.1), default=3.0, show_default=True, help="How long to look.")
@click.option("--stream", type=click.Choice(["none", "pcm16", "adpcm", "log_mel"]), default="none", help="Meanwhile.")
@click.pass_obj
def status(bench: Workbench, address: str, seconds: float, stream: str) -> None:
    """Say what the device at ADDRESS is, its counters, and how many packets came damaged. Its clock's drift needs
    five seconds or more."""
    from firmware_bridge.address import parse_address
    from firmware_bridge.connection import Connection

    with Connection(parse_address(address)) as link:
        link.stream(None if stream == "none" else stream)
        until = time.monotonic() + seconds
        events = link.events()
        while time.monotonic() < until:
            next(events, None)
        health, device = link.health(), link.device
    bench.answer(_status(address, device, health), _status_words(address, device, health))


def _status(address: str, device: Device, health: LinkHealth) -> dict[str, Any]:
    about = {**asdict(device), "ear": device.ear.hex(), "front_end": device.front_end.hex()}
    return {"address": address, "device": about, "link": asdict(health)}


def _status_words(address: str, device: Device, health: LinkHealth) -> str:
    n_bad = health.n_crc + health.n_malformed + health.n_oversized
    drift = "" if health.drift is None else f", clock {health.drift.ppm:+.0f} ppm (+-{health.drift.error_ppm:.0f})"
    theirs = ", ".join(f"{name} {n}" for name, n in health.device.items()) or "nothing"
    return (
        f"{device.name} at {address}: {device.sample_rate} Hz{drift}, sends {', '.join(device.formats)}\n"
        f"here: {health.n_good} packets, {n_bad} damaged, {health.n_unknown} unknown, {health.n_late} late, "
        f"{health.n_retries} commands sent again\nthere: {theirs}"
    )


@click.command()
@click.argument("address")
@click.option("--baud", "bauds", type=int, multiple=True, help="A rate to try; the default is all that are usual.")
@click.option("--probes", type=click.IntRange(1, 10_000), default=40, show_default=True, help="At each rate.")
@click.pass_obj
def probe(bench: Workbench, address: str, bauds: tuple[int, ...], probes: int) -> None:
    """Send packets to the device at ADDRESS and count which come back whole; of a serial port, at each rate."""
    from firmware_bridge.address import parse_address
    from firmware_bridge.errors import LinkError
    from firmware_bridge.probing import BAUDS, probe_bauds, probed

    place = parse_address(address)
    if place.kind == "serial":
        tried = probe_bauds(place, bauds or BAUDS, n_probes=probes)
    else:
        tried = [probed(place, n_probes=probes)]
    for result in tried:
        bench.answer({**asdict(result), "address": str(result.address), "clean": result.clean}, _probe_words(result))
    best = tried[0]
    if best.n_back == 0:
        why = best.failure or (
            "bytes came, but no whole packet" if any(r.n_damaged for r in tried) else "nothing came back"
        )
        raise LinkError(f"{address} answered no probe at any rate ({why}); check the wires, and that the device runs")
    if place.kind == "serial":
        bench.tell(f"use {best.address}" + ("" if best.clean else "; it is not clean: try a shorter or better cable"))


def _probe_words(result: Probed) -> str:
    if result.failure and not result.n_sent:
        return f"{result.address}: {result.failure}"
    return (
        f"{result.address}: {result.n_back} of {result.n_sent} back, {result.n_damaged} damaged, "
        f"{result.bytes_per_s / 1000:.1f} kB/s"
    )
