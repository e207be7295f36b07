"""The requests that wait before one engine, by priority and then by age. Refuses nothing; not thread-safe."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from math import inf
from typing import NamedTuple

from service.router.batch import Pending
from service.router.execution_times import ExecutionTimes

_RESERVE = 0.2
_SWEEP_SECONDS = 0.01


class Taken(NamedTuple):
    """The members of a batch and their rows, and those that could not have been answered in time any more."""

    members: list[Pending]
    rows: int
    late: list[Pending]


class WaitingRequests:
    """`rows` counts those of callers that have left too, until `sweep` or a batch passes them over."""

    __slots__ = ("_levels", "_swept_at", "deadlines", "rows")

    def __init__(self, levels: int = 1) -> None:
        self._levels: tuple[deque[Pending], ...] = tuple(deque() for _ in range(levels))
        self._swept_at = -inf
        self.rows = 0
        # How many of them must be answered by some time.
        self.deadlines = 0

    def __bool__(self) -> bool:
        return self.rows > 0

    def __iter__(self) -> Iterator[Pending]:
        return (pending for level in self._levels for pending in level)

    def append(self, pending: Pending) -> None:
        self._levels[pending.level].append(pending)
        self.rows += pending.rows
        self.deadlines += pending.deadline < inf

    def rows_before(self, level: int) -> int:
        """Rows that go before a newcomer of this level."""
        if len(self._levels) == 1:
            return self.rows
        return sum(pending.rows for queue in self._levels[: level + 1] for pending in queue)

    def oldest_at(self) -> float:
        """When the longest waiting one came; infinity where none waits."""
        return min((level[0].queued_at for level in self._levels if level), default=inf)

    def latest_start(self, seconds: float) -> float:
        """When a run of `seconds` must start for every deadline; infinity where there is none.

        A fifth of what a request allows is left over: a busy host is late for its timers.
        """
        if not self.deadlines:
            return inf
        return min(
            pending.deadline - max(seconds, _RESERVE * pending.timeout) for pending in self if pending.deadline < inf
        )

    def sweep(self, now: float) -> None:
        """Gives the places of callers that left back; not again within 10 ms, for it looks at every one that waits."""
        if now < self._swept_at + _SWEEP_SECONDS:
            return
        self._swept_at = now
        for level in self._levels:
            stayed = [pending for pending in level if not pending.answer.done()]
            if len(stayed) < len(level):
                level.clear()
                level.extend(stayed)
        self._count()

    def displace(self, rows: int, level: int) -> list[Pending]:
        """Takes the newest of the lowest levels out until `rows` rows are; none where those below `level` are fewer."""
        lower = [pending for queue in reversed(self._levels[level + 1 :]) for pending in reversed(queue)]
        displaced: list[Pending] = []
        freed = 0
        for pending in lower:
            if freed >= rows:
                break
            displaced.append(pending)
            freed += pending.rows
        if freed < rows:
            return []
        for pending in displaced:
            self._levels[pending.level].pop()
        self._count()
        return displaced

    def clear(self) -> list[Pending]:
        """All that waited, best level first."""
        waiting = list(self)
        for level in self._levels:
            level.clear()
        self._count()
        return waiting

    def take(self, max_rows: int, times: ExecutionTimes, now: float) -> Taken:
        """The first request and those that may join it, up to `max_rows` rows; 0 joins nothing.

        A request joins where the grown batch would still answer every member in time. One that no batch can is late.
        """
        members: list[Pending] = []
        late: list[Pending] = []
        rows, left = 0, inf
        for level in self._levels:
            others: list[Pending] = []
            while level and (rows < max_rows or not members):
                pending = level[0]
                stays = not pending.answer.done()
                if members and pending.key != members[0].key:
                    others.append(level.popleft())
                    continue
                own = pending.deadline - now
                grown = rows + pending.rows
                if stays and members:
                    shortest = min(left, own)
                    if grown > max_rows or (shortest < inf and times.bound(grown) > shortest):
                        break
                level.popleft()
                self.rows -= pending.rows
                self.deadlines -= own < inf
                if stays and own < inf and times.expected(pending.rows) > own:
                    late.append(pending)
                elif stays:
                    members.append(pending)
                    rows, left = grown, min(left, own)
            level.extendleft(reversed(others))
        return Taken(members, rows, late)

    def _count(self) -> None:
        self.rows = sum(pending.rows for pending in self)
        self.deadlines = sum(pending.deadline < inf for pending in self)
