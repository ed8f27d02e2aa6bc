"""What the commands share: where the state is, which backbone, how to answer, and who may write."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edge.errors import SoundkeepError, StateLockedError

if TYPE_CHECKING:
    from pathlib import Path

    from edge.backbones import FoundEar
    from edge.bundle import Bundle
    from edge.client import ListenerClient
    from edge.clips import ClipStore
    from edge.config import Settings
    from edge.decision import DecisionSettings
    from edge.desk import Desk
    from edge.journal import Journal
    from edge.learner import Learner

WAIT_FOR_LOCK_SECONDS = 5.0

_T = TypeVar("_T")


@dataclass(frozen=True)
class Workbench:
    """One invocation of the command line."""

    state_dir: Path
    bundle_option: str | None
    as_json: bool

    # ---- answers ----------------------------------------------------------------------------------------------------

    def answer(self, value: Mapping[str, Any], words: str) -> None:
        """Put one answer on stdout: the JSON object with --json, else the words."""
        click.echo(json.dumps(value) if self.as_json else words)

    def tell(self, words: str) -> None:
        """Say something to people: stderr."""
        click.echo(words, err=True)

    def progress(self, items: Sequence[_T], words: str) -> Iterator[_T]:
        """Go through ``items``, with a bar on stderr when somebody watches and there is more than one."""
        if len(items) < 2 or not sys.stderr.isatty():
            yield from items
            return
        with click.progressbar(items, label=words, file=sys.stderr) as bar:
            yield from bar

    # ---- parts ------------------------------------------------------------------------------------------------------

    def settings(self) -> Settings:
        from edge.config import load_settings

        return load_settings(self.state_dir)

    def bundle(self) -> Bundle:
        return self.ear().bundle

    def ear(self) -> FoundEar:
        """The backbone in use and, during a trial, the one before; what is wrong with them is said."""
        from edge.backbones import find_ear

        found = find_ear(self.state_dir, self.bundle_option)
        self.tell_of(found)
        if found.before is not None and self._listens_with(found.before):
            return replace(found, bundle=found.before, before=None)
        return found

    def _listens_with(self, before: Bundle) -> bool:
        """Whether a listener still hears with the ear before, because the trial waits for its next start."""
        client = self._client()
        if client is None:
            return False
        with client:
            health = client.health()
        return health.get("trial") is None and health.get("space") == before.space.sha256

    def tell_of(self, found: FoundEar) -> None:
        for finding in found.findings:
            self.tell(f"soundkeep: {finding}")

    def decision_settings(self, bundle: Bundle) -> DecisionSettings:
        """The decision's settings: the owner's before the bundle's before our own."""
        from edge.config import decision_settings

        return decision_settings(bundle.detection, self.settings().decision)

    @contextmanager
    def reading(self, bundle: Bundle) -> Iterator[Learner]:
        """A learner over the database as it is now, opened read-only: works beside a running listener."""
        from edge.journal import Journal

        with Journal.open(self.state_dir, space=bundle.space, read_only=True) as journal:
            self.tell_findings(journal)
            yield self.learner(journal, bundle)

    @contextmanager
    def writing(self, bundle: Bundle | None = None) -> Iterator[Desk]:
        """The desk for a writing command: the running listener's if there is one, else this process's own."""
        from edge.desk import LocalDesk

        chosen = bundle or self.bundle()
        journal, client = self._take_lock(chosen)
        if client is not None:
            with client:
                yield client
            return
        assert journal is not None
        with journal:
            self.tell_findings(journal)
            learner = self.learner(journal, chosen)
            yield LocalDesk(learner, clips=self.clips(), on_trial=self._on_trial())
            learner.save_snapshot()

    @contextmanager
    def running_listener(self, purpose: str) -> Iterator[ListenerClient]:
        """The running listener, for what only it can do. Raises StateError when none runs."""
        from edge.errors import StateError

        client = self._client()
        if client is None:
            raise StateError(f"no listener is running on {self.state_dir}; {purpose} needs `soundkeep listen` running")
        with client:
            yield client

    def learner(self, journal: Journal, bundle: Bundle, *, live: bool = False) -> Learner:
        from edge.learner import Learner
        from edge.readout import readout_of
        from edge.space import FeatureSpace

        space = FeatureSpace(bundle.space)
        readout = readout_of(bundle.detection, self.settings().learn, journal, space)
        threshold = self.decision_settings(bundle).threshold
        return Learner(journal, space, prior=bundle.prior(), readout=readout, live=live, similar_above=threshold)

    def _on_trial(self) -> bool:
        from edge.sync.slots import load_slots

        return self.bundle_option is None and load_slots(self.state_dir)[0].trial is not None

    def clips(self) -> ClipStore:
        """The store of taught audio, which keeps nothing unless the owner gave it a budget."""
        from edge.clips import ClipStore

        return ClipStore(self.state_dir, max_bytes=self.settings().learn.clip_budget_bytes)

    def tell_findings(self, journal: Journal) -> None:
        for finding in journal.findings:
            self.tell(f"soundkeep: damage in {self.state_dir}: {finding.message}; the rest is served")

    def _take_lock(self, bundle: Bundle) -> tuple[Journal | None, ListenerClient | None]:
        """Become the writer, or find the listener that is; another short command is waited for."""
        from edge.journal import Journal

        until = time.monotonic() + WAIT_FOR_LOCK_SECONDS
        while True:
            try:
                return Journal.open(self.state_dir, space=bundle.space), None
            except StateLockedError:
                client = self._client()
                if client is not None:
                    return None, client
                if time.monotonic() > until:
                    raise
            time.sleep(0.05)

    def _client(self) -> ListenerClient | None:
        """A client of the listener whose presence is on file, if it answers."""
        from edge.presence import find_presence

        presence = find_presence(self.state_dir)
        if presence is None:
            return None
        from edge.client import ListenerClient

        client = ListenerClient(presence)
        try:
            client.health()
        except SoundkeepError:
            client.__exit__()
            return None
        return client


def all_or_error(bench: Workbench, items: Iterable[_T], work: Callable[[_T], None]) -> None:
    """Do ``work`` for every item; say each refusal; raise the last one at the end, so that the exit code tells."""
    last: SoundkeepError | None = None
    for item in items:
        try:
            work(item)
        except SoundkeepError as error:
            if last is not None:
                bench.tell(f"soundkeep: {last}")
            last = error
    if last is not None:
        raise last
