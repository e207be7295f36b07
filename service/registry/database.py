"""The one database of an installation: SQLite in WAL mode, or PostgreSQL. Metadata and durable jobs share it."""

from __future__ import annotations

import fcntl
import sqlite3
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

import sqlalchemy as sa

from service.errors import InvalidInput, Unavailable

MAX_CONNECTIONS = 24
_KEPT_CONNECTIONS = 8
# Of the locks that `held` takes on PostgreSQL: how many, and what tells them from those of `write`.
_STRIPES = 256
_HELD = 1
_BUSY_MILLISECONDS = 30_000
# An older one answers NULL to unixepoch('subsec'), and no job could be written.
_SUBSECONDS_SINCE = (3, 42)
# A host that drops packets, or is gone, would otherwise hold a thread for minutes, with a worker's signs of life.
# libpq's own settings: seconds and, of what was sent and not acknowledged, milliseconds.
_PATIENCE = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,
}
_IDLE_SECONDS = 30


class Database:
    """Connections for reading and for writing. Thread-safe. A writer's block commits whole or not at all."""

    def __init__(self, url: str, wait_seconds: float = 30.0) -> None:
        """`wait_seconds`: how long a caller waits while every connection is in use.

        Raises InvalidInput for a URL that is neither sqlite:/// nor postgresql://, or a folder that cannot be made.
        """
        self.url = _read_url(url)
        if self.url.drivername == "postgresql":
            self.url = self.url.set(drivername="postgresql+psycopg")
        if self.url.get_backend_name() not in ("sqlite", "postgresql"):
            raise InvalidInput(f"the database {self.url.drivername!r} is not supported; use sqlite or postgresql")
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        if self.is_sqlite and (self.url.database or ":memory:").startswith((":memory:", "file:")):
            raise InvalidInput(
                f"the database {self.url.database!r} is in memory or no path, where other processes may not see it; "
                "use sqlite:///PATH"
            )
        if self.is_sqlite and self.url.database:
            make_folder(Path(self.url.database).parent)
        self.engine = sa.create_engine(
            self.url,
            pool_pre_ping=not self.is_sqlite,
            pool_size=_KEPT_CONNECTIONS,
            max_overflow=MAX_CONNECTIONS - _KEPT_CONNECTIONS,
            pool_timeout=wait_seconds,
            connect_args=_connect_arguments(self.url),
        )
        sa.event.listen(self.engine, "connect", _prepare_sqlite if self.is_sqlite else _prepare_postgresql)
        self._watch: sqlite3.Connection | None = None
        self._watch_lock = Lock()

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A connection for queries; nothing done on it is kept."""
        with translated_errors(), self.engine.connect() as connection:
            yield connection

    @contextmanager
    def snapshot(self) -> Iterator[sa.Connection]:
        """As `read`, and all queries see the database as it was at the first of them."""
        options = {} if self.is_sqlite else {"isolation_level": "REPEATABLE READ"}
        with translated_errors(), self.engine.connect().execution_options(**options) as connection:
            if self.is_sqlite:
                # Its driver begins a transaction before a write alone.
                connection.exec_driver_sql("BEGIN")
            yield connection

    def changes(self) -> int | None:
        """A number that is another one after every commit, by whichever process; None where asking costs as much as
        reading: on PostgreSQL, and while the file cannot be read.
        """
        if not self.is_sqlite or not self.url.database:
            return None
        with self._watch_lock:
            try:
                if self._watch is None:
                    # Of its own: a connection does not count what was committed over itself.
                    self._watch = sqlite3.connect(self.url.database, check_same_thread=False)
                return int(self._watch.execute("PRAGMA data_version").fetchone()[0])
            except sqlite3.Error:
                return None

    @contextmanager
    def write(self, lock: str = "octavo") -> Iterator[sa.Connection]:
        """A transaction that holds `lock` alone: the whole file on SQLite, an advisory lock on PostgreSQL."""
        with translated_errors(), self.engine.begin() as connection:
            if self.is_sqlite:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            else:
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtext(lock))))
            yield connection

    @contextmanager
    def alone(self) -> Iterator[sa.Connection]:
        """A connection for one statement that stands by itself. On PostgreSQL it commits as it ends, so that a caller
        that is paused in between holds up nobody; SQLite has one writer at a time.
        """
        if self.is_sqlite:
            with self.write() as connection:
                yield connection
        else:
            options = {"isolation_level": "AUTOCOMMIT"}
            with translated_errors(), self.engine.connect().execution_options(**options) as connection:
                yield connection

    @contextmanager
    def held(self, names: Iterable[str]) -> Iterator[None]:
        """Holds `names` alone among all callers of the database, in this process and in others, for as long as the
        block takes: no transaction, so that the block may read and write. Raises Unavailable.
        """
        # In one order for every caller, so that no two can wait for each other.
        numbers = sorted({zlib.crc32(name.encode()) % _STRIPES for name in names})
        with ExitStack() as stack:
            if self.is_sqlite:
                # Whoever shares the file shares its folder.
                folder = Path(f"{self.url.database}.locks")
                make_folder(folder)
                for number in numbers:
                    fcntl.flock(stack.enter_context((folder / str(number)).open("w")), fcntl.LOCK_EX)
            else:
                # Beside the pool, of whose connections the block needs some.
                with translated_errors():
                    lock_engine = sa.create_engine(
                        self.url, poolclass=sa.NullPool, connect_args=_connect_arguments(self.url)
                    )
                    connection = lock_engine.connect()
                    # Closed without a word of its own: what the block did stands, and a lost connection holds nothing.
                    stack.callback(connection.invalidate)
                    for number in numbers:
                        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_HELD, number)))
            yield

    def close(self) -> None:
        self.engine.dispose()
        with self._watch_lock:
            if self._watch is not None:
                self._watch.close()
                self._watch = None


def _read_url(url: str) -> sa.URL:
    try:
        return sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        # Neither the URL nor what its reader said of it is shown: it may hold a password.
        raise InvalidInput(
            "the database URL (OCTAVO_DATABASE_URL) cannot be read; use sqlite:///PATH or "
            "postgresql://USER:PASSWORD@HOST:PORT/NAME"
        ) from None


def _connect_arguments(url: sa.URL) -> dict[str, Any]:
    if url.get_backend_name() == "sqlite":
        return {}
    return {name: value for name, value in _PATIENCE.items() if name not in url.query}


def make_folder(path: Path) -> None:
    """Makes a folder of the installation's state, where it is missing. Raises InvalidInput naming it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInput(
            f"the folder {str(path)!r} cannot be made: {error.strerror}; "
            "choose one that can be written with OCTAVO_DATA_DIR or --data-dir"
        ) from error


def _prepare_sqlite(connection: Any, _record: object) -> None:
    # IMMEDIATE: a transaction that reads first and writes later would otherwise fail when another wrote in between.
    connection.isolation_level = "IMMEDIATE"
    connection.execute(f"PRAGMA busy_timeout={_BUSY_MILLISECONDS}")
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")
    if sqlite3.sqlite_version_info < _SUBSECONDS_SINCE:
        connection.create_function("unixepoch", -1, _unix_epoch)


def _prepare_postgresql(connection: Any, _record: object) -> None:
    # A process that is paused in the middle of a transaction would hold its locks for as long as it is.
    with connection.cursor() as cursor:
        cursor.execute(f"SET idle_in_transaction_session_timeout = '{_IDLE_SECONDS}s'")
    connection.commit()


def _unix_epoch(modifier: str = "now") -> float:
    """SQLite's own, with the fractions of a second that DBOS asks for on Python 3.12 and later, whatever the SQLite."""
    return time.time() if modifier == "subsec" else int(time.time())


# Lost connections; a standby that is not promoted yet; a broken file. Their subclasses tell of our own mistakes.
_OUTAGES = (sa.exc.OperationalError, sa.exc.InternalError, sa.exc.DatabaseError)


@contextmanager
def translated_errors() -> Iterator[None]:
    """Raises Unavailable for what any user of the same database meets in an outage of it."""
    try:
        yield
    except sa.exc.TimeoutError as error:
        raise Unavailable("every connection to the database is in use; try again") from error
    except sa.exc.DatabaseError as error:
        if type(error) not in _OUTAGES:
            raise
        raise Unavailable(f"the database did not answer: {error.orig}; try again, or check that it is up") from error
