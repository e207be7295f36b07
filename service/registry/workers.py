"""The workers of an installation: one row each, with a count that its worker raises for as long as it lives."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import sqlalchemy as sa

from service.registry.database import Database
from service.registry.tables import WORKERS

_LOCK = "workers"
_SIGNED_OFF = -1
# Its jobs are being handed on: it may only be cut off, and must not come back to life.
_STRUCK_OFF = -2


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """What a worker has said last. Its count standing still for `lease_seconds` says that it is dead."""

    id: str
    beat: int
    lease_seconds: float

    @property
    def lives(self) -> bool:
        """Whether it has neither signed off nor been struck off."""
        return self.beat >= 0

    @property
    def signed_off(self) -> bool:
        return self.beat == _SIGNED_OFF


class WorkerRegistry:
    """Reads and writes the workers' rows. Every method raises Unavailable in an outage of the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def list(self) -> list[WorkerRow]:
        with self._database.read() as connection:
            return [WorkerRow(row.id, row.beat, row.lease_seconds) for row in connection.execute(sa.select(WORKERS))]

    def sign_on(self, worker: str, lease_seconds: float) -> None:
        """Writes the row of a worker that begins."""
        self._add([worker], 0, lease_seconds)

    def add_dead(self, ids: Iterable[str], lease_seconds: float) -> None:
        """Writes a row, struck off, for each id that has none."""
        self._add(ids, _STRUCK_OFF, lease_seconds)

    def beat(self, worker: str) -> bool:
        """Raises the worker's count. False where it signed off, or another has declared it dead."""
        with self._database.alone() as connection:
            one_more = sa.update(WORKERS).where(*_lives(worker)).values(beat=WORKERS.c.beat + 1)
            return connection.execute(one_more).rowcount == 1

    def is_known(self, worker: str) -> bool:
        """Whether nobody has declared it dead."""
        with self._database.read() as connection:
            return connection.execute(sa.select(WORKERS.c.id).where(*_lives(worker))).first() is not None

    def sign_off(self, worker: str) -> None:
        """Says that the worker ends now, so that nobody need wait for its lease to run out."""
        with self._database.alone() as connection:
            connection.execute(sa.update(WORKERS).where(*_lives(worker)).values(beat=_SIGNED_OFF))

    def strike_off(self, row: WorkerRow) -> bool:
        """Declares the worker dead, unless it has said something since."""
        with self._database.alone() as connection:
            seen = sa.update(WORKERS).where(WORKERS.c.id == row.id, WORKERS.c.beat == row.beat)
            return connection.execute(seen.values(beat=_STRUCK_OFF)).rowcount == 1

    def remove(self, worker: str) -> None:
        """Deletes the row of a worker that was struck off, and that nothing is left of."""
        with self._database.alone() as connection:
            connection.execute(sa.delete(WORKERS).where(WORKERS.c.id == worker, WORKERS.c.beat == _STRUCK_OFF))

    def _add(self, ids: Iterable[str], beat: int, lease_seconds: float) -> None:
        with self._database.write(_LOCK) as connection:
            for worker in ids:
                known = connection.execute(sa.select(WORKERS.c.id).where(WORKERS.c.id == worker)).first()
                if known is None:
                    values = {"id": worker, "beat": beat, "lease_seconds": lease_seconds}
                    connection.execute(sa.insert(WORKERS).values(values))


def _lives(worker: str) -> tuple[sa.ColumnElement[bool], sa.ColumnElement[bool]]:
    return WORKERS.c.id == worker, WORKERS.c.beat >= 0
