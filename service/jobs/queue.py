"""Accepts jobs: one row and one durable workflow, written in one transaction, so neither exists without the other."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import sqlalchemy as sa

from service.domain.job import FINISHED, Job
from service.domain.recipe import QuantizeRequest
from service.errors import Conflict, QueueFull
from service.jobs.living_workers import LivingWorkers
from service.registry.database import Database
from service.registry.jobs import JobRegistry, job_of_row, new_job_values
from service.registry.tables import IDEMPOTENCY_KEYS, JOBS
from service.registry.workers import WorkerRegistry

if TYPE_CHECKING:
    from dbos import DBOSClient

APPLICATION = "octavo"
QUEUE = "quantize"
WORKFLOW = "quantize"


class Key(NamedTuple):
    """An Idempotency-Key and the SHA-256 of what was asked with it, before any name in it was looked up."""

    key: str
    body_digest: str


class JobQueue:
    """The callers' end of the queue. Thread-safe, but for `living_workers`."""

    def __init__(self, database: Database, max_unfinished: int) -> None:
        self._database = database
        self._rows = JobRegistry(database)
        self._max_unfinished = max_unfinished
        self.find = self._rows.find
        self.list = self._rows.list
        self.counts = self._rows.counts
        self.durations = self._rows.durations
        self.living_workers = LivingWorkers(WorkerRegistry(database)).count

    @cached_property
    def _client(self) -> DBOSClient:
        # Imported at the first job: the serving process starts without it.
        from dbos import DBOSClient

        return DBOSClient(system_database_engine=self._database.engine, application_name=APPLICATION, lazy=True)

    def find_keyed(self, key: Key) -> Job | None:
        """The job that was asked for with this key, whatever has become of its model and data since. Raises Conflict
        where the key was used with another request.
        """
        with self._database.read() as connection:
            job_id = _keyed_job(connection, key)
        return None if job_id is None else self._rows.find(job_id)

    def submit(self, request: QuantizeRequest, key: Key | None = None) -> tuple[Job, bool]:
        """The job of this request, and whether this call made it. An equal request finds the earlier job, unless that
        failed, was cancelled, or was rejected under a `min_speedup`, for speed is measured anew. Raises Conflict for a
        key used with another request, QueueFull when full.
        """
        digest = request.digest()
        with self._database.write("jobs") as connection:
            existing = _keyed_job(connection, key) or _active_job(connection, digest)
            job_id = existing or uuid.uuid4().hex
            if existing is None:
                self._refuse_when_full(connection)
                values = new_job_values(job_id, request.to_json(), digest)
                connection.execute(sa.insert(JOBS).values(values))
                options = {"workflow_name": WORKFLOW, "queue_name": QUEUE, "workflow_id": job_id}
                self._client.enqueue_in_transaction(connection, options, job_id)  # type: ignore[arg-type]
            if key is not None:
                _remember_key(connection, key, job_id)
            row = connection.execute(sa.select(JOBS).where(JOBS.c.id == job_id)).one()
            return job_of_row(row), existing is None

    def cancel(self, job_id: str) -> Job:
        """Ends a queued job at once and asks a running one's worker to end it. Raises NotFound, and Conflict for a
        job that has ended.
        """
        if self._rows.find(job_id).finished:
            raise Conflict(f"job {job_id} is {self._rows.find(job_id).state} already; there is nothing to cancel")
        return self._rows.request_cancel(job_id)

    def close(self) -> None:
        if "_client" in self.__dict__:
            self._client.destroy()

    def _refuse_when_full(self, connection: sa.Connection) -> None:
        unfinished = sa.select(sa.func.count()).select_from(JOBS).where(JOBS.c.state.not_in(FINISHED))
        waiting = connection.execute(unfinished).scalar_one()
        if waiting >= self._max_unfinished:
            raise QueueFull(
                f"{waiting} jobs are waiting or running and the limit is {self._max_unfinished}; try again later, "
                "cancel some, or raise OCTAVO_MAX_QUEUED_JOBS"
            )


def _keyed_job(connection: sa.Connection, key: Key | None) -> str | None:
    if key is None:
        return None
    row = connection.execute(sa.select(IDEMPOTENCY_KEYS).where(IDEMPOTENCY_KEYS.c.key == key.key)).one_or_none()
    if row is None:
        return None
    if row.request_digest != key.body_digest:
        raise Conflict(
            f"the Idempotency-Key {key.key!r} was used for another request (job {row.job}); choose another key"
        )
    return str(row.job)


def _active_job(connection: sa.Connection, digest: str) -> str | None:
    found = connection.execute(sa.select(JOBS.c.id).where(JOBS.c.active_digest == digest)).scalar_one_or_none()
    return str(found) if found is not None else None


def _remember_key(connection: sa.Connection, key: Key, job_id: str) -> None:
    known = connection.execute(sa.select(IDEMPOTENCY_KEYS.c.key).where(IDEMPOTENCY_KEYS.c.key == key.key)).first()
    if known is None:
        values = {"key": key.key, "request_digest": key.body_digest, "job": job_id, "created_at": datetime.now(UTC)}
        connection.execute(sa.insert(IDEMPOTENCY_KEYS).values(values))
