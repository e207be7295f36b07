"""The queue before one engine: joins waiting requests into batches, and runs them on the event loop or on threads.

Refuses requests over the queue's limit, those it could not answer in time, and all after closing. A caller that left is
skipped and never stalls its batch.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from math import inf
from queue import SimpleQueue
from threading import Lock, Thread

from service.domain.batching import QueuePolicy
from service.router.backlog import Backlog
from service.router.batch import Batch, BatchRunner, Pending
from service.router.execution_times import ExecutionTimes
from service.router.inline_rows import InlineRows
from service.router.permit import (
    answering_seconds,
    check_deadline,
    displaced_by_priority,
    make_room,
    refuse,
    stopping,
    too_late,
)
from service.router.waiting import WaitingRequests

# A batch that waits for company starts when so many times its run are left: timers come late.
_HASTE = 1.5
# So many turns of the loop a batch waits at most for those who come one by one.
_MORE_TURNS = 2


class Batcher:
    """Lives on the running event loop. While the engine runs, arriving requests gather and share the next batch.

    `inline_rows` is how many rows may be run on the loop itself; `deliver` gets each finished batch, on the loop.
    Each of `runners` is an instance, which runs batches beside the others on one engine, in a thread of its own.
    """

    def __init__(
        self,
        runners: Sequence[BatchRunner],
        policy: QueuePolicy,
        times: ExecutionTimes,
        inline_rows: int,
        deliver: Callable[[Batch], None],
    ) -> None:
        self._runners = runners
        first = runners[0]
        # The loop runs batches while threads do: in their buffers it would overwrite the rows that they compute on.
        self._runner = BatchRunner(first.engine, first.max_rows, first.clock)
        self._policy = policy
        self._times = times
        self._deliver = deliver
        self._loop = asyncio.get_running_loop()
        self._inline = InlineRows(inline_rows, self._loop)
        self._waiting = WaitingRequests(policy.levels)
        self._backlog = Backlog(len(runners), times)
        self._lock = Lock()
        # Asleep: neither inside the engine nor on the way to look at the queue. A request must wake one of these.
        self._asleep = len(runners)
        self._timer: asyncio.TimerHandle | None = None
        self._delay_over = False
        self._turns: SimpleQueue[bool] = SimpleQueue()
        self._threads: list[Thread] = []
        self._closing = False
        self._closed = False
        self._drained = asyncio.Event()

    @property
    def queued_rows(self) -> int:
        return self._waiting.rows

    @property
    def runs_inline(self) -> bool:
        """Whether an answer comes within one turn of the loop, too soon to watch for the caller leaving."""
        return self._inline.count >= max(1, self._policy.max_rows)

    def allow_inline(self, allowed: bool) -> None:
        """A shadow, whose work must delay no one, keeps off the event loop."""
        self._inline.allow(allowed)

    def follow(self, policy: QueuePolicy) -> None:
        """Goes by `policy` from now on; what waits already is sorted anew and stays."""
        if policy == self._policy:
            return
        with self._lock:
            self._policy = policy
            before, self._waiting = self._waiting, WaitingRequests(policy.levels)
            for pending in sorted(before, key=lambda pending: pending.queued_at):
                pending.level = policy.level_of(pending.priority)
                self._waiting.append(pending)
        self._end_delay()

    def submit(self, pending: Pending) -> None:
        """Queues one request; it is answered on the loop. Raises QueueFull, DeadlineUnreachable or Stopping."""
        if self._closing:
            raise stopping()
        pending.queued_at = self._runner.clock()
        displaced: Sequence[Pending] = ()
        with self._lock:
            waiting, policy = self._waiting, self._policy
            pending.level = policy.level_of(pending.priority)
            if pending.timeout < inf:
                pending.deadline = pending.queued_at + answering_seconds(pending.timeout)
                check_deadline(pending, self._backlog, waiting, policy)
            if waiting.rows + pending.rows > policy.queue_rows:
                displaced = make_room(pending, self._backlog, waiting, policy)
            waiting.append(pending)
            wake = self._asleep > 0 and self._timer is None
            self._asleep -= wake
        if displaced:
            refuse(displaced, displaced_by_priority)
        if wake:
            self._wake()
        elif self._timer is not None and (pending.deadline < inf or self._waiting.rows >= self._policy.full_rows):
            self._end_delay()

    def _wake(self) -> None:
        """Has an instance, which is not counted asleep any more, look at the queue once a batch is due."""
        wait = 0.0
        if self._policy.delay_seconds:
            with self._lock:
                wait = self._due_at() - self._runner.clock()
        if wait > 0:
            self._timer = self._loop.call_later(wait, self._end_wait)
        else:
            # One turn later, so that requests read from the sockets in the same turn share the batch.
            self._loop.call_soon(self._start_together, self._waiting.rows, _MORE_TURNS)

    def _start_together(self, seen: int, turns: int) -> None:
        """Starts once a turn of the loop brought nobody, or after `turns` more; at once where there are deadlines."""
        waiting = self._waiting
        # Who sends as soon as answered comes a little after the others, and who just misses a batch waits for two.
        if turns and seen < waiting.rows < self._policy.full_rows and not waiting.deadlines:
            self._loop.call_soon(self._start_together, waiting.rows, turns - 1)
        else:
            self._start()

    def _due_at(self) -> float:
        """When the waiting requests start at the latest, company or not. Called with the lock held."""
        waiting, policy = self._waiting, self._policy
        # Nothing waits where another instance took it all: a timer for that would never fire, and wake nobody.
        if self._closing or self._delay_over or not waiting or waiting.rows >= policy.full_rows:
            return -inf
        run = _HASTE * self._times.bound(waiting.rows)
        return min(waiting.oldest_at() + policy.delay_seconds, waiting.latest_start(run))

    def _end_wait(self) -> None:
        # Said and not computed again: a timer may fire a little early.
        self._delay_over = True
        self._timer = None
        self._start()

    def _end_delay(self) -> None:
        """The wait for company is looked at anew."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._loop.call_soon(self._start)

    def _start(self) -> None:
        # A timer that is set by now is another instance's.
        if self._closed:
            return
        if not self._fits_inline():
            self._give_turn()
            return
        with self._lock:
            batch = self._take(min(self._inline.count, self._policy.batch_rows))
        if batch is not None:
            self._runner.run(batch)
            self._inline.watch(batch.seconds)
            self._finish(batch)
            # Who waits for this core would do so to the end of the kernel's slice, in which several such batches fit.
            os.sched_yield()
        if batch is None:
            self._wait_on()
        elif self._waiting:
            self._loop.call_soon(self._start)
        else:
            with self._lock:
                self._fall_asleep()

    def _wait_on(self) -> None:
        """An instance found nothing due: what waits has a timer, and where nothing does the instance sleeps."""
        with self._lock:
            if self._timer is not None or not self._waiting:
                self._fall_asleep()
                return
        self._wake()

    def _fall_asleep(self) -> None:
        """Called with the lock held, and nothing due."""
        self._asleep += 1
        if self._closing and self._asleep == len(self._runners):
            self._loop.call_soon_threadsafe(self._drained.set)

    def _fits_inline(self) -> bool:
        return self.runs_inline or self._waiting.rows <= self._inline.count

    def _give_turn(self) -> None:
        if not self._threads:
            self._threads = [
                Thread(target=self._serve, args=(runner,), name=f"octavo-engine-{number}", daemon=True)
                for number, runner in enumerate(self._runners)
            ]
            for thread in self._threads:
                thread.start()
        self._turns.put(True)

    def _serve(self, runner: BatchRunner) -> None:
        """An instance's thread: each turn runs batches until nothing is due."""
        while self._turns.get():
            while (batch := self._next(runner)) is not None:
                runner.run(batch)
                with self._lock:
                    self._backlog.end(runner)
                self._loop.call_soon_threadsafe(self._finish, batch)

    def _next(self, runner: BatchRunner) -> Batch | None:
        with self._lock:
            batch = self._take(self._share())
            if batch is not None:
                self._backlog.begin(runner, batch.rows, self._runner.clock())
                # What a share leaves of all that was due is due as well, for those that sleep or are on their way.
                if self._waiting and self._backlog.running < len(self._runners):
                    self._delay_over = not self._policy.preferred_rows
                    if self._asleep:
                        self._asleep -= 1
                        self._turns.put(True)
            elif self._waiting:
                self._loop.call_soon_threadsafe(self._wait_on)
            else:
                self._fall_asleep()
        return batch

    def _share(self) -> int:
        """What waits is shared out among the instances that could run it now, in preferred sizes where they are set."""
        policy, rows = self._policy, self._waiting.rows
        share = -(-rows // (len(self._runners) - self._backlog.running))
        return min(policy.batch_rows, max(share, policy.cut(rows)) if policy.preferred_rows else share)

    def _take(self, max_rows: int) -> Batch | None:
        """The next batch of up to `max_rows` rows; None where none is due. Called with the lock held."""
        policy, waiting, now = self._policy, self._waiting, self._runner.clock()
        if policy.delay_seconds and not self._delay_over and now < self._due_at():
            return None
        self._delay_over = False
        limit = policy.cut(min(max_rows, waiting.rows)) if policy.preferred_rows else max_rows
        taken = waiting.take(limit, self._times, now)
        if taken.late:
            self._loop.call_soon_threadsafe(refuse, taken.late, too_late)
        return Batch(taken.members, taken.rows) if taken.members else None

    def _finish(self, batch: Batch) -> None:
        if batch.whole:
            # As callers feel it: with the way from the thread to here.
            with self._lock:
                self._times.observe(batch.rows, self._runner.clock() - batch.started_at)
        self._deliver(batch)

    async def drain(self, seconds: float) -> bool:
        """Refuses newcomers and waits for those inside; whether all were answered within `seconds`."""
        with self._lock:
            self._closing = True
            if self._asleep == len(self._runners):
                self._drained.set()
        self._end_delay()
        try:
            await asyncio.wait_for(self._drained.wait(), seconds)
        except TimeoutError:
            return False
        return True

    async def close(self, seconds: float) -> bool:
        """Refuses what still waits and ends the threads; whether they ended, a hung engine's do not."""
        self._closing = self._closed = True
        with self._lock:
            waiting = self._waiting.clear()
        refuse(waiting, lambda _: stopping())
        for _ in self._threads:
            self._turns.put(False)
        deadline = self._loop.time() + seconds
        for thread in self._threads:
            await asyncio.to_thread(thread.join, max(0.0, deadline - self._loop.time()))
        return not any(thread.is_alive() for thread in self._threads)
