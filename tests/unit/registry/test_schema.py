"""Databases of earlier releases are brought up to date with what they hold."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from service.jobs.queue import JobQueue
from service.registry.database import Database
from service.registry.deployments import DeploymentRegistry
from service.registry.models import ModelRegistry
from service.registry.schema import migrate
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


def test_the_migrations_make_the_tables_that_the_service_uses(database: Database) -> None:
    with database.read() as connection:
        inspector = sa.inspect(connection)
        for table in METADATA.sorted_tables:
            made = {column["name"] for column in inspector.get_columns(table.name)}
            assert made == set(table.columns.keys()), table.name
