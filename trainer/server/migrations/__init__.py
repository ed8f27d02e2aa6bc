"""The tables as they changed over the versions of soundkeep, and the one function that brings a database up to date."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, Engine, inspect, text
from sqlalchemy.exc import DBAPIError

from edge.errors import StateError

HEAD = "0001"
VERSION_TABLE = "alembic_version"
_LOCK = 0x736B6D69  # "skmi": one number that all server processes agree on


def upgrade_database(engine: Engine) -> None:
    """Bring the tables to ``HEAD``; of several processes that start at once, one does it and the others wait.

    Raises StateError when the database cannot be reached or was written by a newer soundkeep.
    """
    try:
        with engine.begin() as connection:
            if engine.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
            present = version_of(connection)
            if present != HEAD:
                _upgrade(connection, present)
    except DBAPIError as error:
        raise StateError(
            f"the server's database cannot be opened ({str(error.orig).strip()}); check --database and its rights"
        ) from error


def version_of(connection: Connection) -> str | None:
    """Return the version of the tables; None for an empty database."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    version: str | None = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()
    return version


def _upgrade(connection: Connection, present: str | None) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if present is not None and present not in known:
        raise StateError(
            f"the database has tables of version {present}, this soundkeep knows up to {HEAD}; update soundkeep"
        )
    command.upgrade(config, HEAD)
