"""How long a newcomer would wait for its answer behind what waits and runs. Refuses nothing; not thread-safe."""

from __future__ import annotations

from math import sqrt

from service.domain.batching import QueuePolicy
from service.router.batch import Pending
from service.router.execution_times import ExecutionTimes
from service.router.waiting import WaitingRequests

# Batches deviate each for itself, which evens out, and together where the host is busy, which does not.
_DRIFT = 0.05


class Backlog:
    """What the instances of one engine are busy with, as far as learned times tell."""

    __slots__ = ("_ends", "_instances", "times")

    def __init__(self, instances: int, times: ExecutionTimes) -> None:
        self.times = times
        self._instances = instances
        self._ends: dict[object, float] = {}

    @property
    def running(self) -> int:
        return len(self._ends)

    def begin(self, runner: object, rows: int, now: float) -> None:
        self._ends[runner] = now + self.times.expected(rows)

    def end(self, runner: object) -> None:
        self._ends.pop(runner, None)

    def until_free(self, now: float) -> float:
        """Seconds until an instance takes its next batch; 0 where one is free."""
        if len(self._ends) < self._instances:
            return 0.0
        return max(0.0, min(self._ends.values()) - now)

    def seconds_until_answered(self, waiting: WaitingRequests, policy: QueuePolicy, pending: Pending) -> float:
        """What the request, queued now, rarely has to wait longer than, run included; on an idle engine, on average."""
        times = self.times
        before = waiting.rows_before(pending.level)
        if not before and not self._ends:
            # Nothing is lost by trying, and learned times are corrected by runs alone.
            return times.expected(pending.rows)
        largest = max(1, policy.batch_rows)
        batches, rest = divmod(before, largest)
        if rest and rest + pending.rows > largest:
            batches, rest = batches + 1, 0
        own = rest + pending.rows
        waits = self.until_free(pending.queued_at) + batches * times.expected(largest) / self._instances
        return waits * (1 + _DRIFT) + times.expected(own) + times.margin(own) * sqrt(1 + batches)
