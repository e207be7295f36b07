"""Lets workers take over the jobs of a dead one, whatever it was called and wherever it ran.

A worker raises its count in the database several times within a lease; who sees another's count stand still for that
one's lease strikes it off, once, and hands its jobs back to the queue. No clocks are compared. A worker that was only
cut off learns of it and ends; until then what it records of a job is refused, as the job has another owner.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Event

from service.jobs.life_marks import LifeMarks
from service.registry.workers import WorkerRegistry, WorkerRow

LOOKS_PER_LEASE = 6
# However long the lease: a worker that signed off is replaced by the next look.
_MAX_PAUSE_SECONDS = 10.0
_log = logging.getLogger(__name__)


class LeaseLost(BaseException):
    """Others took this worker for dead, and its jobs are theirs. No handler of a job's failures may catch it."""


@dataclass(frozen=True, slots=True)
class HeldJobs:
    """The durable workflows of jobs. `holders` lists the workers that run unfinished ones; `release` queues those of
    one worker again; `forget_ended` deletes what only an unfinished job needs.
    """

    holders: Callable[[], set[str]]
    release: Callable[[str], None]
    forget_ended: Callable[[], None]


@dataclass
class Lease:
    """One worker's sign of life, and its watch over the others. Not thread-safe but for `confirm`."""

    worker: str
    seconds: float
    rows: WorkerRegistry
    jobs: HeldJobs
    marks: LifeMarks
    # Worker -> its row when last looked at, and in how many looks since it was the same.
    _seen: dict[str, tuple[WorkerRow, int]] = field(default_factory=dict)

    @property
    def _pause_seconds(self) -> float:
        return min(self.seconds / LOOKS_PER_LEASE, _MAX_PAUSE_SECONDS)

    def begin(self) -> None:
        """Signs the worker on. Raises Unavailable."""
        self.rows.sign_on(self.worker, self.seconds)

    def end(self) -> None:
        """Signs the worker off: its jobs are free at once. Raises Unavailable."""
        self.rows.sign_off(self.worker)

    def confirm(self) -> None:
        """Raises LeaseLost where the worker was declared dead, Unavailable where that cannot be known."""
        if not self.rows.is_known(self.worker):
            raise LeaseLost(self.worker)

    def keep(self, stopped: Event) -> None:
        """Looks, time and again, until `stopped`. Raises LeaseLost."""
        while True:
            try:
                self.look()
            except Exception as error:  # noqa: BLE001
                # Whatever fails must not end the signs of life. In an outage others are as silent: count anew after it.
                self._seen.clear()
                _log.warning("other workers cannot be watched now", extra={"reason": str(error)})
            if stopped.wait(self._pause_seconds):
                return

    def look(self) -> None:
        """Gives a sign of life, and takes over from whoever gives none. Raises LeaseLost, and Unavailable."""
        if not self.rows.beat(self.worker):
            raise LeaseLost(self.worker)
        others = {row.id: row for row in self.rows.list() if row.id != self.worker}
        # Jobs whose worker has no row: it was struck off, and took another before it learned of it.
        rowless = self.jobs.holders() - others.keys() - {self.worker}
        if rowless:
            self.rows.add_dead(rowless, self.seconds)
        dead_here = self.marks.dead()
        for worker in dead_here - others.keys() - rowless:
            self.marks.forget(worker)
        self._seen = {row.id: self._seen_again(row) for row in others.values()}
        for row, looks in list(self._seen.values()):
            silent = looks * self._pause_seconds >= row.lease_seconds
            if row.signed_off or silent or row.id in dead_here:
                self._take_over(row)
        self.jobs.forget_ended()

    def _seen_again(self, row: WorkerRow) -> tuple[WorkerRow, int]:
        earlier, looks = self._seen.get(row.id, (None, 0))
        return row, looks + 1 if row == earlier else 0

    def _take_over(self, row: WorkerRow) -> None:
        if self.rows.strike_off(row):
            self.jobs.release(row.id)
            self.rows.remove(row.id)
            # Who signed off did what it was told.
            level = logging.INFO if row.signed_off else logging.WARNING
            _log.log(level, "a worker is gone; its unfinished jobs are queued again", extra={"gone": row.id})
