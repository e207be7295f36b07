"""How many workers live, as a server sees it that asks now and then: those whose count rose within their lease."""

from __future__ import annotations

import time
from collections.abc import Callable

from service.registry.workers import WorkerRegistry


class LivingWorkers:
    """Compares no clocks: a worker's silence is timed from the call that saw its count stand still first, so one that
    was dead before any call is counted for one lease. Not thread-safe.
    """

    def __init__(self, rows: WorkerRegistry, clock: Callable[[], float] = time.monotonic) -> None:
        self._rows = rows
        self._clock = clock
        # Worker -> its count, and when that was first seen.
        self._seen: dict[str, tuple[int, float]] = {}

    def count(self) -> int:
        """Raises Unavailable in an outage of the database."""
        now = self._clock()
        rows = [row for row in self._rows.list() if row.lives]
        self._seen = {row.id: self._seen_again(row.id, row.beat, now) for row in rows}
        return sum(now - self._seen[row.id][1] < row.lease_seconds for row in rows)

    def _seen_again(self, worker: str, beat: int, now: float) -> tuple[int, float]:
        known = self._seen.get(worker)
        return known if known is not None and known[0] == beat else (beat, now)
