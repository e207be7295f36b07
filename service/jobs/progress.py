"""A job's progress as one number: stages count alike, and writes are rare enough not to burden the database."""

from __future__ import annotations

import time
from collections.abc import Callable

from service.domain.job import STAGES, Job
from service.jobs.patience import PatientRows

_MIN_SECONDS_BETWEEN_WRITES = 0.25


class StageProgress:
    """Takes one stage's fraction, 0 to 1, and writes the whole job's progress at most four times a second."""

    def __init__(self, rows: PatientRows, job: Job, stage: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._rows = rows
        self._job = job
        self._index = STAGES.index(stage)
        self._clock = clock
        self._written_at = float("-inf")

    def total(self, fraction: float) -> float:
        """The whole job's progress when this stage is `fraction` done."""
        return (self._index + min(max(fraction, 0.0), 1.0)) / len(STAGES)

    def __call__(self, fraction: float) -> None:
        now = self._clock()
        if now - self._written_at >= _MIN_SECONDS_BETWEEN_WRITES:
            self._written_at = now
            self._rows.set_progress(self._job, self.total(fraction))
