"""What was taught since a new ear was prepared, moved to it before it hears; where that cannot be done, it waits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edge.backbones import FoundEar
from edge.bundle import Bundle
from edge.clips import ClipStore
from edge.embedder import Embedder
from edge.errors import SyncError
from edge.hearing import WindowEmbedder
from edge.journal import Journal
from edge.linear_map import parent_map
from edge.space import EmbeddingSpace
from edge.sync.moving import move_records
from edge.sync.slots import change_slots


def brought_along(
    state_dir: Path, found: FoundEar, journal: Journal, tell: Callable[[str], None] = lambda words: None
) -> FoundEar:
    """At the start of a listener: which ear to begin with, when the one that was found is on trial.

    What was taught since it was prepared is moved to it first. When some of that cannot move, the trial waits: the ear
    before hears, and the bundle may be considered again later.
    """
    if found.before is None:
        return found
    try:
        move_the_rest(journal, found.bundle, found.before.space)
        return found
    except SyncError as error:
        tell(f"soundkeep: {found.bundle.name} {found.bundle.version} is {error}")
    waiting = found.bundle.sha256
    change_slots(state_dir, lambda slots: slots.move(waiting, "VERIFIED"))
    return FoundEar(found.before)


def move_the_rest(
    journal: Journal, bundle: Bundle, known_to: EmbeddingSpace, embedder: WindowEmbedder | None = None
) -> None:
    """Move what was taught since the child looked. Raises SyncError when some of it cannot move.

    known_to: space of the ear in use. embedder: that of ``bundle``, loaded here when it is needed and not given.
    """
    rest = journal.not_in(bundle.space.sha256)
    if not rest:
        return
    moving = move_records(
        journal,
        ClipStore(journal.state_dir),
        embedder or Embedder(bundle),
        parent_map(bundle),
        known_to=known_to.sha256,
        only=rest,
    )
    if moving.stuck:
        raise SyncError(f"not now: {moving.refusal()}; it was taught while the new ear was prepared")
    journal.move(moving.images, bundle.space)
