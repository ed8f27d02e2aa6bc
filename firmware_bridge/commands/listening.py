"""`soundkeep-bridge listen` and `record`: the edge's listener, and a WAV file, with a device as their source."""

from __future__ import annotations

import wave
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge.commands.workbench import Workbench

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edge.bundle import Bundle
    from edge.commands.listening import Input
    from edge.decision import Event
    from edge.records import Record
    from firmware_bridge.connection import Connection
    from firmware_bridge.head_keeper import HeadKeeper

SOUND = click.Choice(["pcm16", "adpcm"])
FORMAT = click.Choice(["pcm16", "adpcm", "log_mel"])


@click.command()
@click.argument("address")
@click.option("--format", "form", type=FORMAT, default="pcm16", show_default=True, help="What the device is to send.")
@click.option("--wait", is_flag=True, help="Wait for a device that is not there yet.")
@click.option("--labels/--no-labels", default=True, show_default=True, help="Tell the device what was heard.")
@click.option("--head", is_flag=True, help="Keep the device's own head that of what is known here.")
@click.option("--api", metavar="HOST:PORT|off", help="Where commands are taken; the default is this machine only.")
@click.option("--provider", default="cpu", help="What ONNX Runtime runs on.")
@click.pass_obj
def listen(
    bench: Workbench,
    address: str,
    form: str,
    wait: bool,
    labels: bool,
    head: bool,
    api: str | None,
    provider: str,
) -> None:
    """Listen through the device at ADDRESS: events, `soundkeep teach LABEL --last` and all else work as ever."""
    from edge.commands.listening import Input, listen_to
    from edge.feature_input import wanted_features
    from firmware_bridge.address import parse_address
    from firmware_bridge.connection import Connection
    from firmware_bridge.feature_windows import FeatureWindower
    from firmware_bridge.sources import FeatureSource, McuSource

    link = Connection(parse_address(address), wait_for_device=wait)

    def find(bundle: Bundle) -> Input:
        sinks = [LabelSink(link)] if labels else []
        if form != "log_mel":
            return Input(McuSource(link, bundle.space.sample_rate, format=form), live=True, sinks=sinks)
        takes = wanted_features(bundle)
        source = FeatureSource(link, bundle.space.sample_rate, takes)
        windower = FeatureWindower(takes, bundle.space.hop_length)
        bench.tell("the device sends features: what is taught is kept as embeddings, and no sound can be kept as clips")
        return Input(source, live=True, windower=windower, sinks=sinks)

    with ExitStack() as stack:
        if head:
            stack.enter_context(_kept_head(bench, link))
        listen_to(bench, find, api=api, provider=provider)


def _kept_head(bench: Workbench, link: Connection) -> HeadKeeper:
    from edge.memory_file import encode_memory
    from firmware_bridge.head_keeper import HeadKeeper

    bundle = bench.bundle()

    def learn(records: Sequence[Record]) -> None:
        with bench.writing(bundle) as desk:
            desk.import_memory(encode_memory(bundle.space, records))

    decision = bench.decision_settings(bundle)
    return HeadKeeper(link, lambda: bench.reading(bundle), decision, learn=learn, tell=bench.tell)


class LabelSink:
    """Tells a device what was heard (an EventSink); what it cannot be told now it is not told later."""

    def __init__(self, link: Connection) -> None:
        self._link = link

    def emit(self, event: Event) -> None:
        label, score, begins = event.label, event.score, event.phase == "onset"
        self._link.ask(lambda session: session.label(label, score, begins=begins))

    def close(self) -> None:
        """Nothing to release."""


@click.command()
@click.argument("address")
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--seconds", type=click.FloatRange(min=0.02), help="How long; without it, until Ctrl-C.")
@click.option("--format", "form", type=SOUND, default="pcm16", show_default=True, help="What the device is to send.")
@click.pass_obj
def record(bench: Workbench, address: str, out: Path, seconds: float | None, form: str) -> None:
    """Record what the device at ADDRESS hears to OUT, a WAV file at its own rate. What is lost is zeros there."""
    import numpy as np

    from edge.errors import AudioError
    from firmware_bridge.address import parse_address
    from firmware_bridge.connection import Connection
    from firmware_bridge.sources import McuSource

    with Connection(parse_address(address)) as link:
        rate = link.device.sample_rate
        wanted = None if seconds is None else round(seconds * rate)
        source = McuSource(link, rate, format=form)
        n_written = 0

        def pieces(file: wave.Wave_write) -> None:
            nonlocal n_written
            for block in source:
                lost = np.zeros(block.n_lost, dtype="<i2")
                whole = np.concatenate([lost, np.rint(block.samples * 32768.0).astype("<i2")])
                piece: NDArray[np.int16] = whole if wanted is None else whole[: wanted - n_written]
                file.writeframes(piece.tobytes())
                n_written += len(piece)
                if n_written == wanted:
                    return

        try:
            with out.open("wb") as opened, wave.open(opened, "wb") as file, source, suppress(KeyboardInterrupt):
                file.setparams((1, 2, rate, 0, "NONE", "not compressed"))
                bench.tell(f"recording {source.name} at {rate} Hz to {out}; end with Ctrl-C")
                pieces(file)
        except OSError as error:
            raise AudioError(f"{out} cannot be written ({error.strerror or error}); choose another file") from error
    health = source.health()
    bench.answer(
        {"out": str(out), "seconds": round(n_written / rate, 3), "n_samples": n_written, "n_lost": health.n_lost},
        f"{out}: {n_written / rate:.1f} s at {rate} Hz, {health.n_lost} samples of them lost and written as zeros",
    )
