"""Waits an outage of the database out. A job must not fail, nor stay unfinished, because its row was out of reach."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from service.domain.job import Job, Stage
from service.errors import Unavailable
from service.registry.jobs import JobRegistry

_FIRST_WAIT_SECONDS = 0.5
_MAX_WAIT_SECONDS = 15.0
_log = logging.getLogger(__name__)
T = TypeVar("T")


def until_answered(work: Callable[[], T], pause: Callable[[float], None] = time.sleep) -> T:
    """What `work` gives, called again for as long as the database is away; `work` must bear being called twice.

    Raises whatever else it raises: a full or silent store is another matter, and has its own retries.
    """
    wait = _FIRST_WAIT_SECONDS
    while True:
        try:
            return work()
        except Unavailable as error:
            if type(error) is not Unavailable:
                raise
            _log.warning("waiting for the database", extra={"wait_seconds": wait, "reason": str(error)})
            pause(wait)
            wait = min(2 * wait, _MAX_WAIT_SECONDS)


class PatientRows:
    """Job rows as a worker writes them. What decides a job's course waits for the database; the rest does without.

    An attempt at a job that another worker has begun anew meanwhile writes nothing.
    """

    def __init__(self, rows: JobRegistry, pause: Callable[[float], None] = time.sleep) -> None:
        self._rows = rows
        self._pause = pause

    def find(self, job_id: str) -> Job:
        return until_answered(lambda: self._rows.find(job_id), self._pause)

    def begin(self, job_id: str) -> Job:
        return until_answered(lambda: self._rows.begin(job_id), self._pause)

    def set_stage(self, job: Job, stage: Stage, progress: float) -> None:
        until_answered(lambda: self._rows.set_stage(job.id, stage, progress, job.attempt), self._pause)

    def finish(
        self, job: Job, state: str, error: dict[str, Any] | None = None, result: dict[str, Any] | None = None
    ) -> None:
        until_answered(lambda: self._rows.finish(job.id, state, error, result, job.attempt), self._pause)

    def set_progress(self, job: Job, progress: float) -> None:
        """Written a moment later all the same, so an outage costs nothing here."""
        with suppress(Unavailable):
            self._rows.set_progress(job.id, progress, job.attempt)

    def is_cancel_requested(self, job_id: str) -> bool:
        """False while it cannot be read: the stage goes on, and asks again."""
        with suppress(Unavailable):
            return self._rows.is_cancel_requested(job_id)
        return False
