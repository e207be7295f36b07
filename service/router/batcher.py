"""The queue before one engine: joins waiting requests into batches, and runs them on the event loop or on threads.

Refuses requests over the queue's limit and after closing. A caller that left is skipped and never stalls its batch.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from threading import Lock, Thread

from service.domain.limits import InferLimits
from service.errors import QueueFull, Stopping
from service.router.batch import Batch, BatchRunner, Pending
from service.router.warmup import INLINE_SECONDS

_log = logging.getLogger(__name__)
# An inline run this much over its allowance, so many times in a row, is no accident of scheduling.
_OVERRUN = 4.0
_OVERRUNS = 8
# How long such an engine stays off the loop before it is tried there again: a busy host makes every engine slow.
_REST_SECONDS = 10.0


class Batcher:
    """Lives on the running event loop. While the engine runs, arriving requests gather and share the next batch.

    `inline_rows` is how many rows may be run on the loop itself; `deliver` gets each finished batch, on the loop.
    Each of `runners` is an instance, which runs batches beside the others on one engine, in a thread of its own.
    """

    def __init__(
        self, runners: Sequence[BatchRunner], limits: InferLimits, inline_rows: int, deliver: Callable[[Batch], None]
    ) -> None:
        self._runners = runners
        first = runners[0]
        # The loop runs batches while threads do: in their buffers it would overwrite the rows that they compute on.
        self._runner = runner = BatchRunner(first.engine, first.max_rows, first.clock)
        self._limits = limits
        self._deliver = deliver
        self._loop = asyncio.get_running_loop()
        self._max_rows = runner.max_rows
        self._inline_rows = self._learned_inline_rows = inline_rows
        self._inline_allowed = True
        self._overruns = 0
        self._delay = limits.max_delay_seconds if runner.max_rows else 0.0
        self._queue: deque[Pending] = deque()
        self._queued_rows = 0
        self._lock = Lock()
        # Asleep: neither inside the engine nor on the way to look at the queue. A request must wake one of these.
        self._asleep = len(runners)
        self._running = 0
        self._timer: asyncio.TimerHandle | None = None
        self._turns: SimpleQueue[bool] = SimpleQueue()
        self._threads: list[Thread] = []
        self._closing = False
        self._closed = False
        self._drained = asyncio.Event()

    @property
    def queued_rows(self) -> int:
        return self._queued_rows

    @property
    def runs_inline(self) -> bool:
        """Whether an answer comes within one turn of the loop, too soon to watch for the caller leaving."""
        return self._inline_rows >= max(1, self._max_rows)

    def allow_inline(self, allowed: bool) -> None:
        """A shadow, whose work must delay no one, keeps off the event loop."""
        self._inline_allowed = allowed
        self._inline_rows = self._learned_inline_rows if allowed else 0

    def submit(self, pending: Pending) -> None:
        """Queues one request; its future is resolved on the loop. Raises QueueFull or Stopping."""
        if self._closing:
            raise stopping()
        if self._queued_rows + pending.rows > self._limits.max_queue_rows and self._queue:
            raise QueueFull(
                f"Exceeds maximum queue size: {self._queued_rows} of {self._limits.max_queue_rows} rows wait; "
                "try again after the seconds in Retry-After"
            )
        pending.queued_at = self._runner.clock()
        with self._lock:
            self._queue.append(pending)
            self._queued_rows += pending.rows
            wake = self._asleep > 0 and self._timer is None
            self._asleep -= wake
        if wake:
            self._wake()
        elif self._queued_rows >= self._max_rows:
            self._end_delay()

    def _wake(self) -> None:
        if self._delay and self._queued_rows < self._max_rows:
            self._timer = self._loop.call_later(self._delay, self._start)
        else:
            # One turn later, so that requests read from the sockets in the same turn share the batch.
            self._loop.call_soon(self._start)

    def _end_delay(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._loop.call_soon(self._start)

    def _start(self) -> None:
        self._timer = None
        if self._closed:
            return
        if not self._fits_inline():
            self._give_turn()
            return
        with self._lock:
            batch = self._take(self._inline_rows)
        if batch is not None:
            self._runner.run(batch)
            self._watch_overruns(batch.seconds)
            self._deliver(batch)
        if self._queue:
            self._loop.call_soon(self._start)
            return
        with self._lock:
            self._fall_asleep()

    def _fall_asleep(self) -> None:
        """Called with the lock held, and nothing waiting."""
        self._asleep += 1
        if self._closing and self._asleep == len(self._runners):
            self._loop.call_soon_threadsafe(self._drained.set)

    def _fits_inline(self) -> bool:
        return self.runs_inline or self._queued_rows <= self._inline_rows

    def _watch_overruns(self, seconds: float) -> None:
        if seconds <= INLINE_SECONDS * _OVERRUN:
            self._overruns = 0
            return
        self._overruns += 1
        if self._overruns == _OVERRUNS:
            _log.warning("engine is slow, so it leaves the event loop for its thread", extra={"seconds": seconds})
            self._inline_rows = self._overruns = 0
            self._loop.call_later(_REST_SECONDS, self._try_inline)

    def _try_inline(self) -> None:
        self.allow_inline(self._inline_allowed)

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
        """An instance's thread: each turn runs batches until nothing waits."""
        while self._turns.get():
            while (batch := self._next()) is not None:
                runner.run(batch)
                with self._lock:
                    self._running -= 1
                self._loop.call_soon_threadsafe(self._deliver, batch)

    def _next(self) -> Batch | None:
        with self._lock:
            # What waits is shared out among the instances that could run it now.
            share = -(-self._queued_rows // (len(self._runners) - self._running))
            batch = self._take(min(self._max_rows, share))
            if batch is None:
                self._fall_asleep()
            else:
                self._running += 1
                # After a batch delay only one was woken; the shares that it leaves are for those that sleep.
                if self._queue and self._asleep:
                    self._asleep -= 1
                    self._turns.put(True)
        return batch

    def _take(self, max_rows: int) -> Batch | None:
        """The longest waiting request and those that may join it, up to `max_rows` rows; None where nobody waits.

        Called with the lock held.
        """
        members: list[Pending] = []
        others: list[Pending] = []
        rows, queue = 0, self._queue
        while queue:
            pending = queue[0]
            if members and (not self._max_rows or rows + pending.rows > max_rows):
                break
            queue.popleft()
            if pending.future.done():
                self._queued_rows -= pending.rows
            elif members and pending.key != members[0].key:
                others.append(pending)
            else:
                members.append(pending)
                rows += pending.rows
        queue.extendleft(reversed(others))
        self._queued_rows -= rows
        return Batch(members, rows) if members else None

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
        self._refuse_waiting()
        for _ in self._threads:
            self._turns.put(False)
        deadline = self._loop.time() + seconds
        for thread in self._threads:
            await asyncio.to_thread(thread.join, max(0.0, deadline - self._loop.time()))
        return not any(thread.is_alive() for thread in self._threads)

    def _refuse_waiting(self) -> None:
        with self._lock:
            waiting, self._queued_rows = list(self._queue), 0
            self._queue.clear()
        for pending in waiting:
            if not pending.future.done():
                pending.future.set_exception(stopping())


def stopping() -> Stopping:
    return Stopping(
        "Server is stopping, scheduler for model has stopped accepting new inference requests; go elsewhere"
    )
