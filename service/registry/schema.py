"""Brings a database to the newest schema: the metadata's by Alembic, then the durable jobs' own tables."""

from __future__ import annotations

import sqlalchemy as sa

from service.registry.database import Database

HEAD = "0005"


def migrate(database: Database) -> None:
    """Safe to call from several processes at once: one migrates, the others wait and find it done."""
    if _at_head(database):
        return
    # Imported here: a start on a current database needs neither.
    from alembic import command
    from alembic.config import Config
    from dbos import DBOS

    with database.write("migrate") as connection:
        config = Config()
        config.set_main_option("script_location", "service.registry:migrations")
        config.attributes["connection"] = connection
        command.upgrade(config, HEAD)
    DBOS.migrate(database.url.render_as_string(hide_password=False))


def _at_head(database: Database) -> bool:
    with database.read() as connection:
        tables = sa.inspect(connection)
        jobs_schema = None if database.is_sqlite else "dbos"
        if not tables.has_table("alembic_version") or not tables.has_table("workflow_status", schema=jobs_schema):
            return False
        return connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar() == HEAD
