"""A new ear, from a folder or an archive to its trial, without a pause in listening.

Everything slow happens beside the loop: verifying, moving the memory (in a child process), loading, folding. Only the
change itself is posted to the loop, between two windows. Every step is in ``slots.json`` before the next begins, so a
process that is killed anywhere goes on with the old ear or with the new one, and with everything that was taught.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Collection
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from edge.audio_stream import SourceHealth
from edge.backbones import FoundEar, chosen_path, find_ear
from edge.bundle import Bundle, open_bundle
from edge.config import SyncSettings
from edge.durable import flush_directory
from edge.ear import Ear, Worn, same_cut
from edge.errors import ApiError, StateError, SyncError
from edge.journal import Journal
from edge.recent import RecentSound
from edge.sync.catching_up import move_the_rest
from edge.sync.prepare import MAX_FILE_BYTES, Prepared, decode_images, prepare_in_child
from edge.sync.slots import FOLDER, Slots, change_slots, load_slots, save_slots, slots_locked
from edge.sync.trial import Trial, canary_fault


@dataclass(frozen=True)
class LiveEar:
    """The parts of a running listener that a change of ear touches. call: posts work to the loop."""

    ear: Ear
    call: Callable[[Callable[[], Any]], Future[Any]]
    recent: RecentSound
    wear: Callable[[Bundle], Worn]
    health: Callable[[], SourceHealth]


@dataclass(frozen=True)
class Considered:
    """What became of a bundle. state: that of its slot. busy_ms: how long the loop was busy with the change."""

    name: str
    version: int
    sha256: str
    state: str
    words: str
    prepared: Prepared = field(default_factory=Prepared)
    busy_ms: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Prepares(Protocol):
    def __call__(self, state_dir: Path, new: Bundle, old: Bundle, out: Path) -> Prepared: ...


class Upgrade:
    """One per process. live: the running listener; without one, a trial begins with the next `soundkeep listen`."""

    def __init__(
        self,
        state_dir: Path,
        settings: SyncSettings,
        *,
        tell: Callable[[str], None] = lambda words: None,
        live: LiveEar | None = None,
        prepare: Prepares = prepare_in_child,
        crash_point: Callable[[str], None] = lambda point: None,
    ) -> None:
        self._state_dir = state_dir
        self._settings = settings
        self._tell = tell
        self._live = live
        self._prepare = prepare
        self._crash_point = crash_point
        self._unnoted = False

    # ---- a new bundle -----------------------------------------------------------------------------------------------

    def consider(
        self, archive_or_folder: Path, require: Callable[[Bundle], object] = lambda bundle: None
    ) -> Considered:
        """Take a bundle as far as it goes: refused, on trial at once, or on trial from the next start on.

        Not on the loop's thread. require: raises when it is not the bundle that was expected. Raises BundleError,
        SyncError and StateError when it is not even looked at.
        """
        old, choice = self._in_use(), chosen_path(self._state_dir)
        bundle = self._take_in(archive_or_folder, old, require)
        if old.space.sample_rate != bundle.space.sample_rate:
            return self._turn_down(bundle, Prepared("it hears at another sample rate than the ear in use"))
        if self._live is not None:
            self._live.recent.hold_audio = True
        try:
            return self._go_through(bundle, old, choice)
        finally:
            if self._live is not None and self._live.ear.trial is None:
                with contextlib.suppress(ApiError):  # the listener has ended, and its memory with it
                    self._live.call(self._live.recent.release_audio)

    def _go_through(self, bundle: Bundle, old: Bundle, choice: Path) -> Considered:
        out = self._state_dir / FOLDER / f"{bundle.sha256[:16]}.images"
        try:
            prepared = self._prepare(self._state_dir, bundle, old, out)
            self._crash_point("prepared in the child")
            if prepared.refusal is not None:
                return self._turn_down(bundle, prepared)
            with out.open("rb") as file:
                images = decode_images(file.read(MAX_FILE_BYTES + 1), bundle.space)
        except OSError as error:
            raise StateError(f"{out} cannot be read ({error.strerror}); make room and try again") from error
        finally:
            out.unlink(missing_ok=True)
        if self._live is None:
            with Journal.open(self._state_dir) as journal:  # no listener can start before its trial is noted
                journal.move(images, bundle.space)
                move_the_rest(journal, bundle, old.space)
                return self._wait_for_a_start(bundle, choice, prepared)
        self._live.ear.learner.journal.move(images, bundle.space)
        if not same_cut(self._live.ear.space, bundle.space):
            return self._wait_for_a_start(bundle, choice, prepared)
        self._note_prepared(bundle)
        return self._switch(self._live, bundle, choice, prepared)

    def _note_prepared(self, bundle: Bundle) -> None:
        self._crash_point("images kept")
        self._save(lambda slots: slots.move(bundle.sha256, "PREPARED"))
        self._crash_point("prepared")

    def _wait_for_a_start(self, bundle: Bundle, choice: Path, prepared: Prepared) -> Considered:
        self._note_prepared(bundle)
        self._save(lambda slots: self._unless_the_owner_chose(choice, slots).move(bundle.sha256, "TRIAL"))
        words = f"{bundle.name} {bundle.version} is ready: its trial begins with the next start of the listener"
        return self._about(bundle, "TRIAL", words, prepared)

    def _unless_the_owner_chose(self, choice: Path, slots: Slots) -> Slots:
        if chosen_path(self._state_dir) != choice:
            raise SyncError("the owner chose another backbone meanwhile, and that is not asked about again")
        return slots

    def _switch(self, live: LiveEar, bundle: Bundle, choice: Path, prepared: Prepared) -> Considered:
        worn, old = live.wear(bundle), live.ear.space
        self._save(lambda slots: self._unless_the_owner_chose(choice, slots).move(bundle.sha256, "TRIAL").start())
        self._crash_point("trial noted")

        def change() -> float:
            began = time.perf_counter()
            move_the_rest(worn.learner.journal, bundle, old, worn.embedder)
            live.ear.try_on(worn, self._trial(live, worn, bundle))
            self._crash_point("switched")
            return 1e3 * (time.perf_counter() - began)

        try:
            busy_ms = live.call(change).result()
        except Exception:
            with contextlib.suppress(StateError):  # if this cannot be noted, the next start finds it out
                self._save(lambda slots: slots.move(bundle.sha256, "VERIFIED"))
            raise
        words = f"{bundle.name} {bundle.version} hears now, on trial for {self._settings.trial_seconds:g} s of sound"
        self._tell(words)
        return self._about(bundle, "TRIAL", words, prepared, busy_ms)

    # ---- a trial ----------------------------------------------------------------------------------------------------

    def go_on(self, found: FoundEar) -> None:
        """At the start of a listener, before its loop: go on with the trial of the ear that was found in use, which
        ``brought_along`` was asked about."""
        live = self._live
        if live is None or found.before is None:
            return
        worn, before = live.ear.worn, live.wear(found.before)
        live.recent.hold_audio = True
        live.ear.worn = before
        live.ear.try_on(worn, self._trial(live, worn, found.bundle))
        self._tell(f"{found.bundle.name} {found.bundle.version} is on trial")

    def _trial(self, live: LiveEar, worn: Worn, bundle: Bundle) -> Trial:
        return Trial(
            worn.space,
            self._settings.trial_seconds,
            ended=lambda wrong: self._end(live, bundle, wrong),
            last_check=lambda: canary_fault(bundle, worn.embedder),
            n_lost=lambda: live.health().n_lost - live.health().n_away,
        )

    def _end(self, live: LiveEar, bundle: Bundle, wrong: str | None) -> bool:
        """On the loop's thread, between two windows. False: the good end cannot be noted yet, so the trial goes on,
        and everything is still taught to both ears. A bad ear is taken off whether that can be noted or not."""
        self._crash_point("trial ended")

        def ended(slots: Slots) -> Slots:
            if slots.trial is None or slots.trial.sha256 != bundle.sha256:
                return slots  # the owner ended it
            return (
                slots.move(bundle.sha256, "COMMITTED")
                if wrong is None
                else slots.move(bundle.sha256, "ROLLED_BACK", wrong)
            )

        try:
            change_slots(self._state_dir, ended)
            self._unnoted = False
        except StateError as error:
            if not self._unnoted:
                self._tell(f"soundkeep: the end of the trial of {bundle.name} {bundle.version} is not noted: {error}")
            self._unnoted = True
            if wrong is None:
                return False
        self._crash_point("committed" if wrong is None else "rejected")
        if wrong is None:
            self._remove_old()
            live.ear.stay()
            self._tell(f"{bundle.name} {bundle.version} has passed its trial and stays")
        else:
            self._tell(f"soundkeep: {bundle.name} {bundle.version} was taken off again: {wrong}")
            live.ear.go_back()
        live.recent.release_audio()
        return True

    # ---- slots ------------------------------------------------------------------------------------------------------

    def _in_use(self) -> Bundle:
        worn = None if self._live is None else self._live.ear.worn.bundle
        return find_ear(self._state_dir, None).bundle if worn is None else worn

    def _take_in(self, source: Path, old: Bundle, require: Callable[[Bundle], object]) -> Bundle:
        """Verify a bundle and put it into its slot."""
        folder = self._state_dir / FOLDER
        fresh = folder / ".new"
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            shutil.rmtree(fresh, ignore_errors=True)
            if source.is_dir():
                open_bundle(source)
                shutil.copytree(source, fresh)
            else:
                from edge.bundle_archive import unpack_archive

                unpack_archive(source, fresh)
            for file in fresh.iterdir():
                with file.open("rb") as written:
                    os.fsync(written.fileno())
            bundle = open_bundle(fresh)
            require(bundle)
            with slots_locked(self._state_dir):
                slots, _ = load_slots(self._state_dir)
                admitted = slots.admit(bundle.sha256, bundle.name, bundle.version, in_use=(old.name, old.version))
                place = self._state_dir / admitted.slots[bundle.sha256].folder
                _remove_all_but(folder, {fresh, *(self._state_dir / path for path in admitted.needed)})
                fresh.rename(place)
                flush_directory(folder)
                save_slots(self._state_dir, admitted.move(bundle.sha256, "VERIFIED"))
        except OSError as error:
            raise StateError(f"the new ear cannot be kept in {folder} ({error.strerror}); make room") from error
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
        self._crash_point("verified")
        return open_bundle(place)

    def _turn_down(self, bundle: Bundle, prepared: Prepared) -> Considered:
        words = f"{bundle.name} {bundle.version} is not taken: {prepared.refusal}"
        if not prepared.for_good:
            return self._about(bundle, "VERIFIED", words, prepared)
        self._save(lambda slots: slots.move(bundle.sha256, "REJECTED", prepared.refusal or ""))
        self._remove_old()
        self._tell(f"soundkeep: {words}")
        return self._about(bundle, "REJECTED", words, prepared)

    def _save(self, change: Callable[[Slots], Slots]) -> None:
        change_slots(self._state_dir, change)

    def _remove_old(self) -> None:
        for slot in load_slots(self._state_dir)[0].removable():
            shutil.rmtree(self._state_dir / slot.folder, ignore_errors=True)

    def _about(self, bundle: Bundle, state: str, words: str, prepared: Prepared, busy_ms: float = 0.0) -> Considered:
        return Considered(bundle.name, bundle.version, bundle.sha256, state, words, prepared, busy_ms)


def _remove_all_but(folder: Path, needed: Collection[Path]) -> None:
    """Remove what was put off and is replaced now, and what killed processes left."""
    for path in folder.iterdir():
        if path in needed:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
