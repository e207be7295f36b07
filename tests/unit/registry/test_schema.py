"""Databases of earlier releases are brought up to date with what they hold."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from service.errors import InvalidInput
from service.jobs.queue import JobQueue
from service.registry.database import Database
from service.registry.deployments import DeploymentRegistry
from service.registry.models import ModelRegistry
from service.registry.schema import HEAD, migrate
from service.registry.tables import JOBS, METADATA
from tests.samples import new_model, quantize_request


def downgrade(database: Database, revision: str) -> None:
    with database.write("migrate") as connection:
        config = Config()
        config.set_main_option("script_location", "service.registry:migrations")
        config.attributes["connection"] = connection
        command.downgrade(config, revision)


def test_a_deployment_of_the_first_release_is_loaded(database: Database) -> None:
    ModelRegistry(database).add(new_model())
    downgrade(database, "0001")
    with database.read() as connection:
        assert "loaded" not in {column["name"] for column in sa.inspect(connection).get_columns("deployments")}
    migrate(database)
    assert DeploymentRegistry(database).find("digits").loaded


def test_a_job_of_an_earlier_release_is_found_and_has_deployed_nothing(database: Database) -> None:
    job, _ = JobQueue(database, 10).submit(quantize_request())
    downgrade(database, "0004")
    migrate(database)
    assert JobQueue(database, 10).find(job.id) == job
    with database.read() as connection:
        assert connection.execute(sa.select(JOBS.c.deployed)).scalar_one() is None


def test_a_database_of_a_newer_release_is_refused(database: Database, request: pytest.FixtureRequest) -> None:
    request.addfinalizer(lambda: set_version(database, HEAD))
    set_version(database, "9999")
    with pytest.raises(InvalidInput, match=f"schema 9999 of a newer Octavo, and this one knows {HEAD}"):
        migrate(database)


def set_version(database: Database, version: str) -> None:
    with database.write() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = :version"), {"version": version})


@pytest.mark.parametrize("is_folder", [False, True])
def test_a_file_that_is_no_database_is_refused_and_not_waited_for(tmp_path: Path, is_folder: bool) -> None:
    path = tmp_path / "octavo.db"
    if is_folder:
        path.mkdir()
    else:
        path.write_bytes(b"not a database" * 100)
    broken = Database(f"sqlite:///{path}")
    with pytest.raises(InvalidInput, match=r"octavo\.db.*name another with OCTAVO_DATABASE_URL"):
        migrate(broken)
    broken.close()


def test_the_migrations_make_the_tables_that_the_service_uses(database: Database) -> None:
    with database.read() as connection:
        inspector = sa.inspect(connection)
        for table in METADATA.sorted_tables:
            made = {column["name"] for column in inspector.get_columns(table.name)}
            assert made == set(table.columns.keys()), table.name


@pytest.mark.parametrize("version", ["ae1027a6acf", "00ff12", "head"])
def test_a_database_of_another_program_is_refused(
    database: Database, request: pytest.FixtureRequest, version: str
) -> None:
    request.addfinalizer(lambda: set_version(database, HEAD))
    set_version(database, version)
    with pytest.raises(InvalidInput, match=f"schema '{version}' of another program"):
        migrate(database)
