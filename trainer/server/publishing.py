"""Bundles on the server, as the operator's commands see them: taken, signed and offered, withdrawn.

The signed repository decides what devices take; the rows say what people want to know. A publication is signed first
and noted after, and doing it again changes nothing, so a crash between the two is mended by repeating it.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from edge.bundle import MANIFEST, Bundle, open_bundle
from edge.durable import flush_directory, write_file
from edge.errors import ConfigurationError, StateError
from edge.linear_map import parent_map
from trainer.server.adaptation import bundle_folder
from trainer.server.database import reading, transaction
from trainer.server.opening import Server
from trainer.server.repository import add_bundle, withdraw_bundle
from trainer.server.signing_keys import Passphrase, environment_passphrase, offline_folder
from trainer.server.spaces import know_space
from trainer.server.tables import Job, PublishedBundle


def register_bundle(
    server: Server, bundle: Bundle, *, gates: Mapping[str, Any] | None = None, job_id: int | None = None
) -> PublishedBundle:
    """Copy ``bundle`` into the data folder, make its space known and note it as a candidate; once more changes nothing.

    gates: what each gate measured. Raises BundleError, StateError.
    """
    kept = _keep(server.data_dir, bundle)
    parent = parent_map(kept)
    with transaction(server.engine) as session:
        know_space(session, kept.space)
        row = session.get(PublishedBundle, kept.sha256)
        if row is None:
            row = PublishedBundle(
                sha256=kept.sha256,
                name=kept.name,
                version=kept.version,
                space_sha256=kept.space.sha256,
                parent_space_sha256=None if parent is None else parent.space.sha256,
                status="candidate",
                gates=None if gates is None else dict(gates),
                job_id=job_id,
                created_at=server.clock(),
            )
            session.add(row)
        return row


def publish_bundle(
    server: Server,
    bundle_sha256: str,
    keys_dir: Path | Sequence[Path] | None = None,
    *,
    passphrase: Passphrase = environment_passphrase,
) -> PublishedBundle:
    """Sign a registered bundle with the targets key and offer it to the fleet; a job that waited for that is done.

    keys_dir: folder or folders with the targets key, by default DATA/keys/offline. bundle_sha256: or its beginning.
    Raises KeyAbsentError where the key is not there, ConfigurationError for a bundle that is not known, was refused by
    a gate, or whose version is not above those published.
    """
    with reading(server.engine) as session:
        row = _row(session, bundle_sha256)
    if row.status == "refused":
        raise ConfigurationError(f"bundle {row.name} {row.version} was refused by a gate; it is not published")
    bundle = open_bundle(bundle_folder(server.data_dir, row.sha256))
    with transaction(server.engine) as session:
        know_space(session, bundle.space)  # before any device can have it
    folders, now = _folders(server, keys_dir), server.clock()
    add_bundle(server.data_dir, folders, bundle, row.parent_space_sha256, passphrase=passphrase, now=now)
    with transaction(server.engine) as session:
        row = _row(session, row.sha256)
        if row.status != "published":
            latest = session.scalar(select(func.max(PublishedBundle.published_at))) or 0.0
            row.status, row.published_at = "published", max(now, latest + 1.0)  # the last one is the newest, always
        job = None if row.job_id is None else session.get(Job, row.job_id)
        if job is not None and job.status == "unsigned":
            job.status, job.finished_at = "done", now
        return row


def withdraw_published(
    server: Server,
    bundle_sha256: str,
    keys_dir: Path | Sequence[Path] | None = None,
    *,
    passphrase: Passphrase = environment_passphrase,
) -> PublishedBundle:
    """Offer a bundle no longer; devices that took it keep it. Raises as ``publish_bundle``."""
    with reading(server.engine) as session:
        row = _row(session, bundle_sha256)
    folders, now = _folders(server, keys_dir), server.clock()
    withdraw_bundle(server.data_dir, folders, row.name, row.version, passphrase=passphrase, now=now)
    with transaction(server.engine) as session:
        row = _row(session, row.sha256)
        row.status = "withdrawn"
        return row


def list_bundles(server: Server) -> list[dict[str, Any]]:
    """Return every bundle that the server has, the newest first."""
    with reading(server.engine) as session:
        rows = session.scalars(select(PublishedBundle).order_by(PublishedBundle.created_at.desc())).all()
        return [described(row) for row in rows]


def described(row: PublishedBundle) -> dict[str, Any]:
    """Return a row for people and tools."""
    names = ("sha256", "name", "version", "status", "space_sha256", "parent_space_sha256", "job_id")
    return {**{name: getattr(row, name) for name in names}, "gates": row.gates, "published_at": row.published_at}


def _row(session: Session, sha256: str) -> PublishedBundle:
    begins = select(PublishedBundle).where(PublishedBundle.sha256.startswith(sha256, autoescape=True)).limit(2)
    rows = session.scalars(begins).all() if len(sha256) >= 4 else []
    if len(rows) != 1:
        why = "is no bundle of this server" if not rows else "is the beginning of several"
        raise ConfigurationError(f"{sha256!r:.80} {why}; `soundkeep-trainer bundles list` says which there are")
    return rows[0]


def _folders(server: Server, keys_dir: Path | Sequence[Path] | None) -> list[Path]:
    given = [keys_dir] if isinstance(keys_dir, Path) else list(keys_dir or ())
    return given or [offline_folder(server.data_dir)]


def _keep(data_dir: Path, bundle: Bundle) -> Bundle:
    """Copy the bundle to its place, file by file, verified."""
    place = bundle_folder(data_dir, bundle.sha256)
    if place.exists():
        return open_bundle(place)
    partial = place.with_name(f".{place.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        for name in bundle.manifest.files:
            write_file(partial / name, [bundle.read(name)], mode=0o644)
        write_file(partial / MANIFEST, [bundle.manifest.to_bytes()], mode=0o644)
        open_bundle(partial)
        partial.rename(place)
        flush_directory(place.parent)
    except OSError as error:
        raise StateError(f"{place} cannot be written ({error.strerror}); make room") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return open_bundle(place)
