"""Runs migrations on the connection, and in the transaction, that the caller holds."""

from __future__ import annotations

from alembic import context

from service.registry.tables import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA)
context.run_migrations()
