"""Which embedding spaces the server knows; a statement in any other is refused."""

from __future__ import annotations

from dataclasses import asdict

from sqlalchemy.orm import Session

from edge.bundle import open_bundle, shipped_bundles_path
from edge.errors import BundleError
from edge.space import EmbeddingSpace
from trainer.server.database import add_missing, reading, transaction
from trainer.server.opening import Server
from trainer.server.tables import Space


def know_space(session: Session, space: EmbeddingSpace) -> None:
    """Make ``space`` known; nothing changes when it is."""
    if session.get(Space, space.sha256) is None:
        add_missing(session, Space, sha256=space.sha256, description=asdict(space))


def know_shipped_spaces(server: Server) -> None:
    """Make the spaces of the bundles that come with soundkeep known."""
    spaces = []
    for folder in sorted(shipped_bundles_path().iterdir()):
        try:
            spaces.append(open_bundle(folder).space)
        except BundleError:
            continue
    with reading(server.engine) as session:
        new = [space for space in spaces if session.get(Space, space.sha256) is None]
    if new:
        with transaction(server.engine) as session:
            for space in new:
                know_space(session, space)
