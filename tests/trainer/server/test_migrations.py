"""The migrations make exactly the tables of ``tables.py``, on both engines, however many processes start at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text

from edge.errors import StateError
from trainer.server.database import database_url, open_database
from trainer.server.migrations import HEAD, upgrade_database, version_of
from trainer.server.opening import Server, open_server
from trainer.server.tables import Base


def test_migrations_give_the_tables(any_engine_server: Server) -> None:
    with any_engine_server.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, Base.metadata) == []
        assert version_of(connection) == HEAD


def test_the_comparison_notices_a_missing_column(any_engine_server: Server) -> None:
    with any_engine_server.engine.begin() as connection:
        connection.execute(text("ALTER TABLE refusal DROP COLUMN what"))
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) != []


def test_many_may_start_at_once(any_database: str | None, tmp_path: Path) -> None:
    def start(_: int) -> None:
        engine = open_database(database_url(tmp_path, any_database))
        upgrade_database(engine)
        engine.dispose()

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(start, range(6)))


def test_tables_of_a_newer_version_are_left_alone(any_engine_server: Server) -> None:
    with any_engine_server.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StateError, match="update soundkeep"):
        upgrade_database(any_engine_server.engine)


def test_places_are_remembered(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.db"
    open_server(tmp_path / "data", database=f"sqlite:///{elsewhere}", blobs=str(tmp_path / "blobs")).close()
    again = open_server(tmp_path / "data")
    assert str(again.engine.url).endswith("elsewhere.db") and again.blobs.url == str(tmp_path / "blobs")
    again.close()


def test_a_database_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="cannot be opened"):
        open_server(tmp_path, database="postgresql://nobody@127.0.0.1:1/none")
