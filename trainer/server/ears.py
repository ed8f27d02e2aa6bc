"""Which bundle hears in a space: one that was published here, else one that is shipped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import select

from edge.bundle import Bundle, open_bundle, shipped_bundles_path
from edge.errors import BundleError
from trainer.server.adaptation import bundle_folder
from trainer.server.database import reading
from trainer.server.opening import Server
from trainer.server.tables import PublishedBundle


def bundle_of_space(server: Server, space_sha256: str) -> Bundle | None:
    """Return the newest published bundle of an embedding space, else the shipped one; None where there is none."""
    for folder in _folders(server, space_sha256):
        try:
            bundle = open_bundle(folder)
        except (BundleError, OSError):
            continue
        if bundle.space.sha256 == space_sha256:
            return bundle
    return None


def _folders(server: Server, space_sha256: str) -> Iterator[Path]:
    with reading(server.engine) as session:
        here = PublishedBundle.space_sha256 == space_sha256, PublishedBundle.status == "published"
        newest = PublishedBundle.published_at.desc(), PublishedBundle.version.desc()
        names = session.scalars(select(PublishedBundle.sha256).where(*here).order_by(*newest)).all()
    yield from (bundle_folder(server.data_dir, name) for name in names)
    yield from sorted(path for path in shipped_bundles_path().iterdir() if path.is_dir())
