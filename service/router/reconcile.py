"""Brings the router to what the deployments say, again and again. One model's failure holds up no other."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from service.domain.deployment import ServedModel
from service.errors import NotFound, NotReady, OctavoError
from service.router.router import Router

_log = logging.getLogger(__name__)
_MAX_BACKOFF_SECONDS = 60.0
_SETTLE_PASSES = 5


@dataclass(slots=True)
class _Attempt:
    """The last try at a model; while the wish is unchanged the next one waits, each time twice as long."""

    wanted: ServedModel
    wait_seconds: float
    not_before: float
    task: asyncio.Task[None]


class Reconciler:
    """`desired` reads the wish, every `period_seconds` and when woken; it blocks, so it is called in a thread.

    It gives None for a model that is deployed and cannot be told how: that one goes on with what it has.
    `first_pass` is set once every model wished at the start has been loaded or has failed.
    """

    def __init__(
        self,
        router: Router,
        desired: Callable[[], Mapping[str, ServedModel | None]],
        period_seconds: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._router = router
        self._desired = desired
        self._period_seconds = period_seconds
        self._clock = clock
        self._attempts: dict[str, _Attempt] = {}
        self._woken = asyncio.Event()
        self._turn = asyncio.Lock()
        self._next: asyncio.Task[None] | None = None
        self._read_failure = ""
        self._first: asyncio.Task[None] | None = None
        self.first_pass = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled. A wish that cannot be read is logged and read again; the router goes on as it is."""
        try:
            while True:
                # Before it reads: what is changed while it does needs another pass.
                self._woken.clear()
                await self._pass_and_log()
                try:
                    await asyncio.wait_for(self._woken.wait(), self._period_seconds)
                except TimeoutError:
                    continue
        finally:
            for attempt in self._attempts.values():
                attempt.task.cancel()

    def wake(self) -> None:
        """Has the next pass begin at once; call it on the event loop."""
        self._woken.set()

    async def reconcile_now(self) -> None:
        """One pass, and the loads it began. Raises what reading the wish raises; the router tells of failed loads."""
        await self._begin_pass()
        await self._announce()

    async def settle(self, model: str, revision: int, retry: bool = False) -> None:
        """Returns once this or a later revision of the model's deployment answers, or is unloaded where it says so.

        With `retry` what failed to load is tried again, however short a time ago that was. Raises what kept it from
        loading, NotFound when the model is not deployed any more, or NotReady.
        """
        attempt = self._attempts.get(model) if retry else None
        if attempt is not None:
            attempt.not_before = self._clock()
        for _ in range(_SETTLE_PASSES):
            await self._begin_pass()
            await self._finish_load(model)
            served = self._router.current(model)
            if served is not None and served.deployment.revision >= revision:
                return
            failure = self._router.failure(model, revision)
            if failure is not None:
                raise type(failure)(str(failure))
            if model not in self._router.deployed:
                raise NotFound(f"model {model!r} is not deployed; PUT /models/{model}/deployment deploys it")
        raise NotReady(
            f"revision {revision} of model {model!r} does not answer yet; look again with GET /v2/models/{model}/ready"
        )

    async def _pass_and_log(self) -> None:
        try:
            await self._begin_pass()
        except Exception as error:  # noqa: BLE001 (logged, and read again in a period)
            # An outage is one line in the log, not one a second; only what nobody expected shows where it arose.
            if str(error) != self._read_failure:
                expected = isinstance(error, OctavoError)
                _log.error("deployments cannot be read", extra={"error": str(error)}, exc_info=not expected)
            self._read_failure = str(error)
            return
        self._read_failure = ""
        if self._first is None:
            # Not awaited here: a slow first load must not keep a new deployment of another model waiting.
            self._first = asyncio.ensure_future(self._announce())

    async def _announce(self) -> None:
        await self._finish_loads()
        self.first_pass.set()

    async def _begin_pass(self) -> None:
        """A pass over what is wished now. Those who come while another reads share the next one."""
        if self._next is None:
            self._next = asyncio.ensure_future(self._take_turn())
        # It ends with none of the callers that wait for it.
        await asyncio.shield(self._next)

    async def _take_turn(self) -> None:
        # What was read before a change would undo what a pass after it did. Revisions alone do not tell the two
        # apart: a model that is withdrawn and deployed again begins at 1. No load is waited for here.
        async with self._turn:
            # Whoever comes from here on may have changed what is being read.
            self._next = None
            self._follow(await asyncio.to_thread(self._desired))

    def _follow(self, wanted: Mapping[str, ServedModel | None]) -> None:
        if self._router.stopping:
            return
        for model in self._router.deployed - wanted.keys():
            attempt = self._attempts.pop(model, None)
            if attempt is not None:
                attempt.task.cancel()
            self._router.withdraw(model)
        for served in filter(None, wanted.values()):
            self._end_unwanted_load(served)
            if self._is_due(served):
                self._attempts[served.name] = self._begin(served)

    def _end_unwanted_load(self, served: ServedModel) -> None:
        attempt = self._attempts.get(served.name)
        if attempt is not None and attempt.wanted.deployment.loaded and not served.deployment.loaded:
            attempt.task.cancel()
            del self._attempts[served.name]

    def _is_due(self, served: ServedModel) -> bool:
        last = self._attempts.get(served.name)
        if last is not None and not last.task.done():
            return False
        if self._router.current(served.name) == served:
            return False
        return last is None or last.wanted != served or self._clock() >= last.not_before

    def _begin(self, served: ServedModel) -> _Attempt:
        last = self._attempts.get(served.name)
        wait = self._period_seconds
        if last is not None and last.wanted == served:
            wait = min(2 * last.wait_seconds, _MAX_BACKOFF_SECONDS)
        task = asyncio.ensure_future(self._deploy(served))
        return _Attempt(served, wait, self._clock() + wait, task)

    async def _deploy(self, served: ServedModel) -> None:
        try:
            await self._router.deploy(served)
        except OctavoError as error:
            _log.error("model cannot be served as deployed", extra={"model": served.name, "error": str(error)})
        finally:
            # The wait is counted from the end: a load may take longer than its own wait.
            attempt = self._attempts.get(served.name)
            if attempt is not None:
                attempt.not_before = self._clock() + attempt.wait_seconds

    async def _finish_loads(self) -> None:
        tasks = [attempt.task for attempt in self._attempts.values()]
        if tasks:
            # Not gather: a caller that gives up waiting must not cancel the loads.
            await asyncio.wait(tasks)

    async def _finish_load(self, model: str) -> None:
        attempt = self._attempts.get(model)
        if attempt is not None:
            await asyncio.wait([attempt.task])
