"""What the database promises about its address, its connections and its outages."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from threading import Thread

import pytest
import sqlalchemy as sa

from service.errors import InUse, InvalidInput, Unavailable
from service.registry.database import MAX_CONNECTIONS, Database
from service.registry.datasets import DatasetRegistry
from service.registry.deployments import DeploymentRegistry
from service.registry.models import ModelRegistry
from tests.samples import new_dataset, new_model


@pytest.mark.parametrize(
    "url",
    [
        "octavo:hunter2@host:99999/octavo",
        "postgresql://octavo:hunter2@host:port/octavo",
        "mysql://octavo:hunter2@host/octavo",
        "postgresql://octavo:hunter2@127.0.0.1:1/octavo",
    ],
)
def test_an_address_that_leads_nowhere_is_refused_without_its_password(url: str) -> None:
    with (
        pytest.raises((InvalidInput, Unavailable), match=r"use sqlite|check that it is up") as refused,
        ExitStack() as stack,
    ):
        stack.enter_context(Database(url).read())
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite:///file::memory:?uri=true"])
def test_a_database_in_memory_is_refused(url: str) -> None:
    with pytest.raises(
        InvalidInput, match="in memory or no path, where other processes may not see it; use sqlite:///PATH"
    ):
        Database(url)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InvalidInput, match=rf"{tmp_path}/file.*OCTAVO_DATA_DIR"):
        Database(f"sqlite:///{tmp_path}/file/octavo.db")


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "octavo.db").write_bytes(b"not a database" * 100)
    database = Database(f"sqlite:///{tmp_path}/octavo.db")
    with pytest.raises(Unavailable, match="not a database"), database.read() as connection:
        connection.execute(sa.text("SELECT 1 FROM jobs"))
    database.close()


def test_callers_beyond_the_last_connection_are_told_to_try_again(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/octavo.db", wait_seconds=0.01)
    with ExitStack() as stack:
        for _ in range(MAX_CONNECTIONS):
            stack.enter_context(database.read())
        with pytest.raises(Unavailable, match="try again"), database.read():
            pass
    database.close()


def test_a_deletion_needs_one_connection_alone(database: Database) -> None:
    # Two at once: callers that each hold their first wait for one another's second, for ever.
    models, datasets = ModelRegistry(database), DatasetRegistry(database)
    models.add(new_model())
    datasets.add(new_dataset())
    with ExitStack() as stack:
        for _ in range(MAX_CONNECTIONS - 1):
            stack.enter_context(database.read())
        datasets.delete("rows")
        with pytest.raises(InUse, match="is deployed"):
            models.delete("digits", 1)
        DeploymentRegistry(database).withdraw("digits")
        models.delete("digits", 1)


def test_the_clock_of_durable_jobs_works_on_every_sqlite(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'octavo.db'}")
    with database.read() as connection:
        milliseconds = connection.exec_driver_sql("SELECT unixepoch('subsec') * 1000").scalar_one()
    database.close()
    assert milliseconds is not None
    assert abs(milliseconds / 1000 - time.time()) < 60


def test_a_held_name_is_held_against_every_process_and_others_are_free(database: Database) -> None:
    # Another process has another object on the same database.
    other = Database(database.url.render_as_string(hide_password=False))
    order: list[str] = []

    def wait_for_both() -> None:
        with other.held(["b", "a"]):
            order.append("second")

    thread = Thread(target=wait_for_both)
    with database.held(["a"]):
        with other.held(["c"]), database.write() as connection:
            connection.execute(sa.select(1))
        thread.start()
        thread.join(0.2)
        order.append("first")
    thread.join(20)
    assert order == ["first", "second"]
    other.close()


def test_a_name_is_free_again_after_a_failure(database: Database) -> None:
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), database.held(["a"]):
            raise ZeroDivisionError


def test_names_cannot_be_held_while_the_database_is_away() -> None:
    with pytest.raises(Unavailable), Database("postgresql://octavo@127.0.0.1:1/octavo").held(["a"]):
        pass


def test_a_caller_that_is_paused_in_a_transaction_does_not_hold_its_locks_for_ever(postgresql_url: str) -> None:
    database = Database(postgresql_url)
    with database.read() as connection:
        assert connection.execute(sa.text("SHOW idle_in_transaction_session_timeout")).scalar_one() == "30s"
    database.close()


def test_a_database_host_that_vanishes_is_noticed_within_half_a_minute(postgresql_url: str) -> None:
    settings = _libpq_settings(postgresql_url)
    silence = settings["keepalives_idle"] + settings["keepalives_interval"] * settings["keepalives_count"]
    assert max(silence, settings["tcp_user_timeout"] / 1000, settings["connect_timeout"]) <= 30


def test_a_patience_that_the_address_names_holds(postgresql_url: str) -> None:
    assert _libpq_settings(f"{postgresql_url}&tcp_user_timeout=5000")["tcp_user_timeout"] == 5000


def _libpq_settings(url: str) -> dict[str, int]:
    database = Database(url)
    with database.read() as connection:
        driver = connection.connection.driver_connection
        assert driver is not None
        told = driver.info.get_parameters()
    database.close()
    return {name: int(value) for name, value in told.items() if value.isdigit()}


def test_changes_are_counted_by_whichever_connection_they_come_and_reading_is_none(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'octavo.db'}"
    database, other = Database(url), Database(url)
    seen = [database.changes()]
    for changing in (database, other, database):
        with changing.write() as connection:
            connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS t (x INTEGER)")
            connection.exec_driver_sql("INSERT INTO t VALUES (1)")
        seen.append(database.changes())
        with changing.read() as connection:
            connection.exec_driver_sql("SELECT * FROM t").all()
        assert database.changes() == seen[-1]
    assert None not in seen
    assert len(set(seen)) == 4
    for one in (database, other):
        one.close()


def test_changes_are_not_told_where_the_file_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "octavo.db").write_bytes(b"no database" * 100)
    database = Database(f"sqlite:///{tmp_path / 'octavo.db'}")
    assert database.changes() is None
    database.close()
