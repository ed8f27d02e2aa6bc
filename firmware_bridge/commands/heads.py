"""`soundkeep-bridge head`: what was taught here, on a device that recognises by itself."""

from __future__ import annotations

import time

import click

from edge.commands.workbench import Workbench


@click.command()
@click.argument("address")
@click.option("--head-version", type=click.IntRange(1, 2**32 - 1), help="The default is the second of sending.")
@click.pass_obj
def head(bench: Workbench, address: str, head_version: int | None) -> None:
    """Read the head out of what was learnt and send it to the device at ADDRESS, which uses it from its next window."""
    from firmware_bridge.address import parse_address
    from firmware_bridge.connection import Connection
    from firmware_bridge.head_transfer import require_same_ear, seconds_on_the_line, send_head
    from firmware_bridge.heads import device_head

    place = parse_address(address)
    bundle = bench.bundle()
    version = head_version or int(time.time()) & 0xFFFFFFFF
    with bench.reading(bundle) as learner, Connection(place) as link:
        require_same_ear(link.device, address, bytes.fromhex(bundle.space.sha256)[:8])
        room, decision = link.device.bank_bytes, bench.decision_settings(bundle)
        made = device_head(learner, decision, version=version, room=room)
        seconds = send_head(link, made)
        name = link.device.name
    n_bytes = len(made.data)
    baud = place.number if place.kind == "serial" else 921_600
    bench.answer(
        {
            "version": made.version,
            "labels": list(made.labels),
            "n_bytes": n_bytes,
            "n_rivals": made.n_rivals,
            "n_rivals_left_out": made.n_left_out,
            "seconds": round(seconds, 3),
        },
        f"{name} has head {made.version}: {made.n_classes} class(es), {n_bytes} bytes in {seconds:.2f} s "
        f"({seconds_on_the_line(n_bytes, baud):.2f} s of bytes at {baud} baud)",
    )
