"""Job rows: what callers see of a job, written by the queue and by the worker that runs it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from service.domain.job import FINISHED, STAGES, Job, Stage
from service.errors import NotFound
from service.registry.database import Database
from service.registry.tables import JOBS

# A job that ended so may be asked for again with the same words.
_REPEATABLE = frozenset({"failed", "cancelled"})


class JobRegistry:
    """Reads and writes job rows. A finished job never changes again, and whoever passes the number of an `attempt`
    changes one only while no later attempt has begun.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, job_id: str) -> Job:
        """Raises NotFound."""
        with self._database.read() as connection:
            row = connection.execute(sa.select(JOBS).where(JOBS.c.id == job_id)).one_or_none()
        if row is None:
            raise NotFound(f"job {job_id!r} does not exist; GET /jobs lists what does")
        return job_of_row(row)

    def list(
        self, model: str | None = None, state: str | None = None, limit: int = 50, before: str | None = None
    ) -> list[Job]:
        """Newest first, at most `limit`, from the one after job `before`. Raises NotFound for an unknown `before`."""
        query = sa.select(JOBS).order_by(JOBS.c.created_at.desc(), JOBS.c.id.desc()).limit(limit)
        if model is not None:
            query = query.where(JOBS.c.model == model)
        if state is not None:
            query = query.where(JOBS.c.state == state)
        if before is not None:
            last = self.find(before)
            older = sa.tuple_(JOBS.c.created_at, JOBS.c.id) < sa.tuple_(
                sa.literal(last.created_at, JOBS.c.created_at.type), sa.literal(last.id)
            )
            query = query.where(older)
        with self._database.read() as connection:
            return [job_of_row(row) for row in connection.execute(query)]

    def begin(self, job_id: str) -> Job:
        """Counts an attempt and marks the job running, unless it is finished. Gives back the job."""
        now = datetime.now(UTC)
        values = {
            "state": "running",
            "attempt": JOBS.c.attempt + 1,
            "started_at": sa.func.coalesce(JOBS.c.started_at, sa.literal(now, JOBS.c.started_at.type)),
        }
        with self._database.write(f"job:{job_id}") as connection:
            begun = sa.update(JOBS).where(*_unfinished(job_id)).values(values).returning(*JOBS.c)
            row = connection.execute(begun).one_or_none()
        return self.find(job_id) if row is None else job_of_row(row)

    def set_stage(self, job_id: str, stage: Stage, progress: float, attempt: int | None = None) -> None:
        """Records the stage's state and the whole job's progress, 0 to 1."""
        with self._database.write(f"job:{job_id}") as connection:
            stages = connection.execute(sa.select(JOBS.c.stages).where(JOBS.c.id == job_id)).scalar_one()
            merged = [asdict(stage) if item["name"] == stage.name else item for item in stages]
            values = {"stages": merged, "stage": stage.name, "progress": progress}
            connection.execute(sa.update(JOBS).where(*_unfinished(job_id, attempt)).values(values))

    def set_progress(self, job_id: str, progress: float, attempt: int | None = None) -> None:
        self._update(job_id, {"progress": progress}, attempt)

    def finish(
        self,
        job_id: str,
        state: str,
        error: dict[str, Any] | None = None,
        result: dict[str, Any] | None = None,
        attempt: int | None = None,
    ) -> None:
        """Ends the job in `state`; a job that is finished stays as it is."""
        values: dict[str, Any] = {"state": state, "error": error, "result": result, "finished_at": datetime.now(UTC)}
        if state in ("succeeded", "rejected"):
            values["progress"] = 1.0
        timed = ((result or {}).get("certificate") or {}).get("min_speedup") is not None
        if state in _REPEATABLE or (state == "rejected" and timed):
            values["active_digest"] = None
        self._update(job_id, values, attempt)

    def request_cancel(self, job_id: str) -> Job:
        """Ends a queued job at once; asks the worker to end a running one. Gives back the job. Raises NotFound."""
        self._update(job_id, {"cancel_requested": True})
        with self._database.write(f"job:{job_id}") as connection:
            values = {"state": "cancelled", "active_digest": None, "finished_at": datetime.now(UTC)}
            connection.execute(sa.update(JOBS).where(JOBS.c.id == job_id, JOBS.c.state == "queued").values(values))
        return self.find(job_id)

    def is_cancel_requested(self, job_id: str) -> bool:
        with self._database.read() as connection:
            query = sa.select(JOBS.c.cancel_requested).where(JOBS.c.id == job_id)
            return bool(connection.execute(query).scalar())

    def counts(self) -> dict[tuple[str, str], int]:
        """(kind, state) -> number of jobs."""
        query = sa.select(JOBS.c.kind, JOBS.c.state, sa.func.count()).group_by(JOBS.c.kind, JOBS.c.state)
        with self._database.read() as connection:
            return {(kind, state): number for kind, state, number in connection.execute(query)}

    def durations(self, buckets: tuple[float, ...]) -> dict[tuple[str, str], tuple[Sequence[int], int, float]]:
        """(kind, state) -> (jobs at or under each bucket's seconds, jobs, sum of seconds), of jobs that ran."""
        query = sa.select(JOBS.c.kind, JOBS.c.state, JOBS.c.started_at, JOBS.c.finished_at).where(
            JOBS.c.started_at.is_not(None), JOBS.c.finished_at.is_not(None)
        )
        found: dict[tuple[str, str], tuple[Sequence[int], int, float]] = {}
        with self._database.read() as connection:
            for kind, state, started, finished in connection.execute(query):
                seconds = (finished - started).total_seconds()
                under, number, total = found.get((kind, state), ([0] * len(buckets), 0, 0.0))
                under = [count + (seconds <= bound) for count, bound in zip(under, buckets, strict=True)]
                found[kind, state] = (under, number + 1, total + seconds)
        return found

    def _update(self, job_id: str, values: dict[str, Any], attempt: int | None = None) -> None:
        with self._database.write(f"job:{job_id}") as connection:
            connection.execute(sa.update(JOBS).where(*_unfinished(job_id, attempt)).values(values))


def new_job_values(job_id: str, request: dict[str, Any], digest: str) -> dict[str, Any]:
    """The row of a job that waits for a worker."""
    return {
        "id": job_id,
        "kind": "quantize",
        "model": request["model"],
        "version": request["version"],
        "state": "queued",
        "stage": None,
        "progress": 0.0,
        "attempt": 0,
        "stages": [asdict(Stage(name)) for name in STAGES],
        "request": request,
        "active_digest": digest,
        "cancel_requested": False,
        "created_at": datetime.now(UTC),
    }


def job_of_row(row: sa.Row[Any]) -> Job:
    """The domain's job of a database row."""
    values = dict(row._mapping)
    del values["active_digest"], values["deployed"]
    values["stages"] = tuple(Stage(**stage) for stage in values["stages"])
    return Job(**values)


def _unfinished(job_id: str, attempt: int | None = None) -> tuple[sa.ColumnElement[bool], ...]:
    unfinished = JOBS.c.id == job_id, JOBS.c.state.not_in(FINISHED)
    return unfinished if attempt is None else (*unfinished, JOBS.c.attempt == attempt)
