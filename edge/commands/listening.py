"""`soundkeep listen`: the one place where the running device is composed."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from edge import __version__
from edge.commands.workbench import Workbench
from edge.errors import BundleError

if TYPE_CHECKING:
    import socket

    from edge.audio_stream import AudioSource
    from edge.bundle import Bundle
    from edge.config import Settings
    from edge.ear import Worn
    from edge.journal import Journal
    from edge.live import LiveListener, Parts
    from edge.sinks import EventSink
    from edge.windows import CutsWindows


@click.command()
@click.option("--source", default="mic", metavar="mic|mic:NAME|FILE|DIR|-", help="Where sound comes from.")
@click.option("--speed", type=click.Choice(["real", "max"]), default="real", help="Pace of a replay.")
@click.option("--api", metavar="HOST:PORT|off", help="Where commands are taken; the default is this machine only.")
@click.option("--pcm-rate", type=click.IntRange(1000, 768_000), default=16_000, help="Hz, of raw PCM from `-`.")
@click.option("--provider", default="cpu", help="What ONNX Runtime runs on.")
@click.pass_obj
def listen(bench: Workbench, source: str, speed: str, api: str | None, pcm_rate: int, provider: str) -> None:
    """Listen, report every event, and take commands meanwhile. Ends with the source, or with Ctrl-C."""
    from edge.audio import open_source

    def find(bundle: Bundle) -> Input:
        rate = bundle.space.sample_rate
        sound = open_source(source, rate, speed="max" if speed == "max" else "real", pcm_rate=pcm_rate)
        return Input(sound, live=source == "-" or source.startswith("mic"))

    listen_to(bench, find, api=api, provider=provider)


@dataclass(frozen=True)
class Input:
    """Where sound comes from. live: it cannot wait. windower: cuts windows of features, which the ear must take then.
    sinks: further places where events go."""

    source: AudioSource
    live: bool
    windower: CutsWindows | None = None
    sinks: Sequence[EventSink] = ()


def listen_to(bench: Workbench, find: Callable[[Bundle], Input], *, api: str | None, provider: str) -> None:
    """Run the listener on what ``find`` gives for the ear in use, until it ends. api, provider: as for ``listen``."""
    from edge.api_server import bind, parse_address
    from edge.backbones import start_ear
    from edge.commands.sync import background_sync
    from edge.decision import Decider
    from edge.ear import Ear
    from edge.idle import IdleWork
    from edge.inbox import Inbox
    from edge.journal import Journal
    from edge.listener import Listener
    from edge.live import LiveListener, Parts
    from edge.metrics import Metrics
    from edge.recent import RecentEvents, RecentSound
    from edge.sinks import EventFeed
    from edge.sync.catching_up import brought_along
    from edge.sync.upgrade import LiveEar, Upgrade
    from edge.windows import Windower

    address = None if api in (None, "off") else parse_address(api)
    settings = bench.settings()
    with ExitStack() as stack:
        journal = stack.enter_context(Journal.open(bench.state_dir))
        found = start_ear(bench.state_dir, bench.bundle_option)
        bench.tell_of(found)
        found = brought_along(bench.state_dir, found, journal, bench.tell)
        bundle = found.bundle
        journal.space = space = bundle.space
        heard = find(bundle)
        sound = heard.source
        bench.tell_findings(journal)
        bound = None if api == "off" else stack.enter_context(bind(address))
        wear = Wearing(bench, journal, provider, takes_features=heard.windower is not None)
        ear = Ear(wear(bundle))
        stack.callback(ear.save_snapshot)
        inbox = Inbox(max_blocks=settings.listen.max_waiting_blocks, max_commands=settings.listen.max_waiting_commands)
        recent = RecentSound(space, settings.listen.recent_seconds, keep_audio=settings.learn.clip_budget_bytes > 0)
        about = {"provider": provider, "bundle": bundle.name, "version": __version__}
        parts = Parts(
            source=sound,
            inbox=inbox,
            windower=heard.windower or Windower(space.window_length, space.hop_length),
            ear=ear,
            recent=recent,
            recent_events=RecentEvents(recent, settings.listen.max_events_kept),
            feed=EventFeed(),
            metrics=Metrics(sample_rate=space.sample_rate, about=about),
            recent_seconds=settings.listen.recent_seconds,
            about=about,
        )
        printed = stack.enter_context(_printed_events(bench, parts, live=heard.live))
        decider = Decider(
            ear.worn.decision,
            sample_rate=space.sample_rate,
            window_length=space.window_length,
            hop_length=space.hop_length,
        )
        listener = Listener(
            source=sound,
            inbox=inbox,
            windower=parts.windower,
            embedder=ear,
            judge=ear,
            decider=decider,
            recent=recent,
            sinks=[printed, parts.recent_events, parts.feed, *heard.sinks],
            meter=parts.metrics,
        )
        idle = IdleWork(
            lambda: ear.learner,
            inbox.call,
            idle_seconds=settings.learn.idle_seconds,
            default_ridge=ear.worn.ridge,
            tell=bench.tell,
        )
        ear.follow(lambda worn: decider.use(worn.decision))
        ear.follow(lambda worn: recent.hear_with(worn.embedder))
        ear.follow(lambda worn: setattr(idle, "default_ridge", worn.ridge))
        another = wear if heard.windower is None else _no_other_ear
        upgrade = Upgrade(
            bench.state_dir,
            settings.sync,
            tell=bench.tell,
            live=LiveEar(ear, inbox.call, recent, another, sound.health),
        )
        upgrade.go_on(found)
        if bound is not None:
            stack.enter_context(_served(bench, LiveListener(parts, clips=bench.clips()), bound, settings))
        stack.enter_context(idle)
        stack.enter_context(background_sync(bench, ear, inbox.call, upgrade))
        stack.enter_context(_stopped_by_signals(inbox.stop))
        bench.tell(
            f"listening to {sound.name} with {bundle.name}, {len(ear.learner.labels)} class(es) known; end with Ctrl-C"
        )
        listener.run()


@contextmanager
def _printed_events(bench: Workbench, parts: Parts, *, live: bool) -> Iterator[EventSink]:
    """Events on stdout, behind a queue: when its reader is stuck, a live stream drops events and a replay waits."""
    from edge.sinks import JsonLinesSink, QueuedSink, TextSink

    rate = parts.ear.space.sample_rate
    lines = JsonLinesSink(sys.stdout, rate, clock=time.time if live else None)
    sink = QueuedSink(
        lines if bench.as_json else TextSink(sys.stdout, rate),
        when_full="drop" if live else "wait",
        on_drop=parts.metrics.unsent,
        on_failure=parts.inbox.stop,
    )
    try:
        yield sink
    finally:
        sink.close()


@contextmanager
def _served(bench: Workbench, live: LiveListener, bound: socket.socket, settings: Settings) -> Iterator[None]:
    """The API on ``bound``, announced in the state directory while it runs."""
    from edge.api import make_app
    from edge.api_guard import Guard
    from edge.api_server import ApiServer, is_loopback
    from edge.presence import Presence, announce, new_token, withdraw

    host, port = bound.getsockname()[:2]
    token = new_token()
    if not is_loopback(host):
        bench.tell(
            f"soundkeep: the API on {host} is open to the network and not encrypted; whoever has the token may teach"
        )
    with ApiServer(make_app(live, Guard(token, host, port), settings.api), bound):
        announce(bench.state_dir, Presence(os.getpid(), host, port, token, live.space.sha256))
        bench.tell(f"commands are taken on {host}:{port}")
        try:
            yield
        finally:
            withdraw(bench.state_dir)


@dataclass(frozen=True)
class Wearing:
    """Makes a bundle ready to be worn by this listener: loads it, and folds what is known in its space."""

    bench: Workbench
    journal: Journal
    provider: str
    takes_features: bool = False

    def __call__(self, bundle: Bundle) -> Worn:
        from edge.ear import Worn
        from edge.embedder import Embedder

        return Worn(
            bundle.name,
            Embedder(bundle, provider=self.provider, takes_features=self.takes_features),
            self.bench.learner(self.journal, bundle, live=True),
            self.bench.decision_settings(bundle),
            _ridge_to_prefer(self.bench.settings(), bundle),
            bundle,
        )


def _no_other_ear(bundle: Bundle) -> Worn:
    raise BundleError(
        f"{bundle.name} {bundle.version} cannot be tried: a trial hears the same sound with two ears, and the device "
        "sends features, no sound; have it send PCM until the trial has passed"
    )


def _ridge_to_prefer(settings: Settings, bundle: Bundle) -> float | None:
    """The ridge that calibration prefers among equals; None when the owner set one or wants no calibration."""
    from edge.readout import Readout

    if not settings.learn.calibrate_when_idle or settings.learn.ridge is not None:
        return None
    return Readout().ridge if bundle.detection.ridge is None else bundle.detection.ridge


@contextmanager
def _stopped_by_signals(stop: Callable[[], None]) -> Iterator[None]:
    """SIGINT and SIGTERM end the loop in order; a handler takes no lock itself, so a thread does the stopping."""

    def on_signal(number: int, frame: object) -> None:
        threading.Thread(target=stop, name="soundkeep-stop", daemon=True).start()

    previous = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
