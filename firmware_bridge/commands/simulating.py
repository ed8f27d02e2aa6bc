"""`soundkeep-bridge simulate`: a device without a board."""

from __future__ import annotations

import secrets
from dataclasses import asdict
from pathlib import Path

import click

from edge.commands.workbench import Workbench

SHARE = click.FloatRange(0.0, 1.0)


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.argument("address", default="tcp:127.0.0.1:8740")
@click.option("--rate", type=click.IntRange(1000, 192_000), default=16_000, show_default=True, help="Hz of its sound.")
@click.option("--speed", type=click.FloatRange(min=0.01), default=1.0, show_default=True, help="Seconds a second.")
@click.option("--repeat", is_flag=True, help="Play the file again and again.")
@click.option("--loss", type=SHARE, default=0.0, help="Share of sound packets that are lost.")
@click.option("--flip", type=SHARE, default=0.0, help="Share of bits that come out wrong.")
@click.option("--pause", type=click.FloatRange(min=0.0), default=0.0, help="Seconds of silence on the line, after two.")
@click.option("--restart", type=click.FloatRange(min=0.0), default=0.0, help="Second at which it starts anew.")
@click.option("--seed", type=int, default=0, help="Of the dice.")
@click.pass_obj
def simulate(
    bench: Workbench,
    file: Path,
    address: str,
    rate: int,
    speed: float,
    repeat: bool,
    loss: float,
    flip: float,
    pause: float,
    restart: float,
    seed: int,
) -> None:
    """Play a device that hears FILE. ADDRESS: tcp:HOST:PORT (it waits to be dialled), udp:HOST:PORT (where the host
    listens) or pty. The file begins when a host asks for sound."""
    import numpy as np

    from edge.audio_files import read_audio
    from firmware_bridge.address import parse_address
    from firmware_bridge.front_end import FRONT_END, SAMPLE_RATE, FrontEnd
    from firmware_bridge.simulator import Faults, SimulatedDevice, Simulation

    samples = np.clip(np.rint(read_audio(file, rate).astype(np.float64) * 32768.0), -32768, 32767).astype(np.int16)
    faults = Faults(loss, flip, pause, restart, seed)
    ours = rate == SAMPLE_RATE
    device = SimulatedDevice(
        rate,
        session=secrets.randbits(31) | 1,
        front_end=bytes.fromhex(FRONT_END)[:8] if ours else b"",
        features=FrontEnd() if ours else None,
        faults=faults,
    )
    simulation = Simulation(device, samples, parse_address(address), speed=speed, faults=faults, repeat=repeat)
    bench.tell(f"a device waits at {simulation.where}; end with Ctrl-C")
    try:
        simulation.run()
    except KeyboardInterrupt:
        simulation.stop()
    played = device.played
    bench.answer(
        asdict(played),
        f"played {played.n_samples} samples, {played.n_lost} of them lost on purpose, {played.n_restarts} restarts, "
        f"{len(played.labels)} labels came back: {', '.join(played.labels) or 'none'}",
    )
