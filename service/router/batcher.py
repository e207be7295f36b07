"""The queue before one engine: joins waiting requests into batches, and runs them on the event loop or on one thread.

Refuses requests over the queue's limit and after closing. A caller that left is skipped and never stalls its batch.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
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
    """

    def __init__(
        self, runner: BatchRunner, limits: InferLimits, inline_rows: int, deliver: Callable[[Batch], None]
    ) -> None:
        self._runner = runner
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
        # Asleep: nothing waits, nothing runs, and nobody is on the way to look. The next request must wake someone.
        self._asleep = True
        self._timer: asyncio.TimerHandle | None = None
        self._turns: SimpleQueue[bool] = SimpleQueue()
        self._thread: Thread | None = None
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
            wake, self._asleep = self._asleep, False
        if wake:
            self._wake()
        elif self._timer is not None and self._queued_rows >= self._max_rows:
            self._timer.cancel()
            self._timer = None
            self._loop.call_soon(self._start)

    def _wake(self) -> None:
        if self._delay and self._queued_rows < self._max_rows:
            self._timer = self._loop.call_later(self._delay, self._start)
        else:
            # One turn later, so that requests read from the sockets in the same turn share the batch.
            self._loop.call_soon(self._start)

    def _start(self) -> None:
        self._timer = None
        if self._closed:
            return
        if not self._fits_inline():
            self._give_turn()
            return
        batch = self._take(self._inline_rows)
        if batch is not None:
            self._runner.run(batch)
            self._watch_overruns(batch.seconds)
            self._deliver(batch)
        if self._queue:
            self._loop.call_soon(self._start)
            return
        self._asleep = True
        if self._closing:
            self._drained.set()

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
        if self._thread is None:
            self._thread = Thread(target=self._serve, name="octavo-engine", daemon=True)
            self._thread.start()
        self._turns.put(True)

    def _serve(self) -> None:
        """The engine's thread: each turn runs batches until nothing waits, or the loop may as well run the rest."""
        while self._turns.get():
            while (batch := self._next()) is not None:
                self._runner.run(batch)
                self._loop.call_soon_threadsafe(self._deliver, batch)

    def _next(self) -> Batch | None:
        with self._lock:
            batch = self._take(self._max_rows)
            self._asleep = batch is None
            if batch is None and self._closing:
                self._loop.call_soon_threadsafe(self._drained.set)
        return batch

    def _take(self, max_rows: int) -> Batch | None:
        """The longest waiting request and those that may join it, up to `max_rows` rows; None where nobody waits."""
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
            if self._asleep:
                self._drained.set()
        try:
            await asyncio.wait_for(self._drained.wait(), seconds)
        except TimeoutError:
            return False
        return True

    async def close(self, seconds: float) -> bool:
        """Refuses what still waits and ends the thread; whether it ended, a hung engine's does not."""
        self._closing = self._closed = True
        self._refuse_waiting()
        if self._thread is None:
            return True
        self._turns.put(False)
        await asyncio.to_thread(self._thread.join, seconds)
        return not self._thread.is_alive()

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
