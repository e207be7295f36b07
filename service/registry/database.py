"""The one database of an installation: SQLite in WAL mode, or PostgreSQL. Metadata and durable jobs share it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from service.errors import InvalidInput, Unavailable

_BUSY_MILLISECONDS = 30_000


class Database:
    """Connections for reading and for writing. Thread-safe. A writer's block commits whole or not at all."""

    def __init__(self, url: str) -> None:
        """Raises InvalidInput for a URL that is neither sqlite:/// nor postgresql://."""
        try:
            self.url = sa.make_url(url)
        except sa.exc.ArgumentError as error:
            raise InvalidInput(
                f"the database URL {url!r} cannot be read; use sqlite:///PATH or postgresql://..."
            ) from error
        if self.url.drivername == "postgresql":
            self.url = self.url.set(drivername="postgresql+psycopg")
        if self.url.get_backend_name() not in ("sqlite", "postgresql"):
            raise InvalidInput(f"the database {self.url.drivername!r} is not supported; use sqlite or postgresql")
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        if self.is_sqlite and self.url.database:
            Path(self.url.database).parent.mkdir(parents=True, exist_ok=True)
        self.engine = sa.create_engine(self.url, pool_pre_ping=not self.is_sqlite, pool_size=8, max_overflow=16)
        if self.is_sqlite:
            sa.event.listen(self.engine, "connect", _prepare_sqlite)

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A connection for queries; nothing done on it is kept."""
        with _foreign_errors(), self.engine.connect() as connection:
            yield connection

    @contextmanager
    def write(self, lock: str = "octavo") -> Iterator[sa.Connection]:
        """A transaction that holds `lock` alone: the whole file on SQLite, an advisory lock on PostgreSQL."""
        with _foreign_errors(), self.engine.begin() as connection:
            if self.is_sqlite:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            else:
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtext(lock))))
            yield connection

    def close(self) -> None:
        self.engine.dispose()


def _prepare_sqlite(connection: Any, _record: object) -> None:
    # IMMEDIATE: a transaction that reads first and writes later would otherwise fail when another wrote in between.
    connection.isolation_level = "IMMEDIATE"
    connection.execute(f"PRAGMA busy_timeout={_BUSY_MILLISECONDS}")
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")


@contextmanager
def _foreign_errors() -> Iterator[None]:
    try:
        yield
    except sa.exc.OperationalError as error:
        raise Unavailable(f"the database did not answer: {error.orig}; try again, or check that it is up") from error
