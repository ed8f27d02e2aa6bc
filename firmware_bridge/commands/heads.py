"""`soundkeep-bridge head` and `watch`: what was taught here, on a device that recognises by itself."""

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


@click.command()
@click.argument("address")
@click.option("--seconds", type=click.FloatRange(min=0.1), help="How long; without it, until Ctrl-C.")
@click.pass_obj
def watch(bench: Workbench, address: str, seconds: float | None) -> None:
    """Print what the device at ADDRESS recognises by itself, window by window."""
    from contextlib import suppress

    from firmware_bridge.address import parse_address
    from firmware_bridge.connection import Connection
    from firmware_bridge.link_events import Greeted, Heard, Lost, Said

    until = float("inf") if seconds is None else time.monotonic() + seconds
    with Connection(parse_address(address)) as link, suppress(KeyboardInterrupt):
        for event in link.events():
            if isinstance(event, Greeted):
                has = f"head {event.device.head_version}" if event.device.head_version else "no head"
                bench.tell(f"{event.device.name} at {address} has {has}; end with Ctrl-C")
            elif isinstance(event, Heard):
                rate = link.device.sample_rate
                bench.answer(
                    {
                        "at_s": round(event.sample / rate, 3),
                        "label": event.name or None,
                        "score": round(event.score, 3),
                        "head": event.head_version,
                    },
                    f"{event.sample / rate:9.2f} s  {event.name or '-':24} {event.score:6.2f}",
                )
            elif isinstance(event, Said | Lost):
                bench.tell(event.sentence)
            if time.monotonic() > until:
                return
