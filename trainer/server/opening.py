"""The one place where a server is put together from its data folder; every command opens it here."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from sqlalchemy import Engine

from edge.durable import write_file
from edge.errors import ConfigurationError, StateError
from trainer.server.blobs import BlobStore
from trainer.server.database import DATABASE_NAME, database_url, open_database, reading
from trainer.server.limits import LIMITS_KEY, ServerSettings
from trainer.server.migrations import upgrade_database
from trainer.server.tables import Setting

PLACES_NAME = "server.json"
BLOBS_NAME = "blobs"
_MAX_PLACES_BYTES = 65_536


@dataclass(frozen=True)
class Server:
    """Everything that the server works with. clock: seconds since 1970. rng: for draws that need no secret."""

    engine: Engine
    blobs: BlobStore
    data_dir: Path
    settings: ServerSettings = field(default_factory=ServerSettings)
    clock: Callable[[], float] = time.time
    rng: np.random.Generator = field(default_factory=np.random.default_rng)

    def close(self) -> None:
        """Give the connections to the database back."""
        self.engine.dispose()


def open_server(data_dir: Path, *, database: str | None = None, blobs: str | None = None) -> Server:
    """Open the server of ``data_dir`` with its tables as this version wants them; the folder is made where it is not.

    database, blobs: URLs, remembered in the folder so that the next command needs only the folder; None: those that
    were remembered, else a file and a folder in it. Raises ConfigurationError, StateError.
    """
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise StateError(f"the data folder {data_dir} cannot be made ({error.strerror}); choose another") from error
    remembered = _read_places(data_dir / PLACES_NAME)
    places = {"database": database or remembered.get("database"), "blobs": blobs or remembered.get("blobs")}
    if places["database"] is None:
        _make_private(data_dir / DATABASE_NAME)
    engine = open_database(database_url(data_dir, places["database"]))
    upgrade_database(engine)
    store = BlobStore(places["blobs"] or str(data_dir.absolute() / BLOBS_NAME))
    if places != remembered:
        write_file(data_dir / PLACES_NAME, [json.dumps(places, indent=1).encode("utf-8")])
    return Server(engine, store, data_dir, _settings(engine))


def _make_private(path: Path) -> None:
    """Make the database's file for its owner alone; SQLite gives its other files the same rights."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise StateError(f"the database {path} cannot be made ({error.strerror}); correct its rights") from error


def _read_places(path: Path) -> dict[str, str | None]:
    try:
        with path.open("rb") as file:
            places = json.loads(file.read(_MAX_PLACES_BYTES))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise StateError(f"{path} cannot be read ({error}); remove it and name --database and --blobs again") from error
    if not isinstance(places, dict) or not all(value is None or isinstance(value, str) for value in places.values()):
        raise StateError(f"{path} does not say where the database is; remove it and name --database and --blobs again")
    return {name: places.get(name) for name in ("database", "blobs")}


def _settings(engine: Engine) -> ServerSettings:
    with reading(engine) as session:
        row = session.get(Setting, LIMITS_KEY)
    if row is None:
        return ServerSettings()
    if not isinstance(row.value, dict):
        raise ConfigurationError(f"the limits in the server's settings are {row.value!r:.80}; wanted names and numbers")
    return ServerSettings.from_mapping(row.value)
