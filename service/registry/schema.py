"""Brings a database to the newest schema: the metadata's by Alembic, then the durable jobs' own tables."""

from __future__ import annotations

import sqlalchemy as sa

from service.errors import InvalidInput, Unavailable
from service.registry.database import Database

HEAD = "0005"
# Of SQLite: these do not pass by waiting.
_NO_DATABASE = ("file is not a database", "unable to open database file")


def migrate(database: Database) -> None:
    """Safe to call from several processes at once: one migrates, the others wait and find it done.

    Raises InvalidInput for a file that is no database, and for a database of a newer Octavo or of another program.
    """
    try:
        current = _at_head(database)
    except Unavailable as error:
        if database.is_sqlite and any(words in str(error) for words in _NO_DATABASE):
            raise InvalidInput(f"{database.url.database!r}: {error}; name another with OCTAVO_DATABASE_URL") from error
        raise
    if current:
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
        if not tables.has_table("alembic_version"):
            return False
        has_jobs = tables.has_table("workflow_status", schema=jobs_schema)
        version = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    if version is not None and not (version.isdigit() and len(version) == len(HEAD)):
        raise InvalidInput(
            f"the database has schema {version!r} of another program; name one of Octavo's own in OCTAVO_DATABASE_URL"
        )
    if version is not None and version > HEAD:
        raise InvalidInput(
            f"the database has schema {version} of a newer Octavo, and this one knows {HEAD}; install that Octavo again"
        )
    return has_jobs and version == HEAD
