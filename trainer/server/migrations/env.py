"""What Alembic runs: the migrations, on the connection and within the transaction that ``upgrade_database`` began."""

from __future__ import annotations

from alembic import context

from trainer.server.tables import Base

context.configure(connection=context.config.attributes["connection"], target_metadata=Base.metadata)
context.run_migrations()
