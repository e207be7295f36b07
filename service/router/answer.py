"""The answer to one request, before and after it is there: told to whoever waits in the very turn it comes in.

A future of the event loop would tell a turn later, which takes as long as parsing a request does.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Generator
from copy import copy

from service.domain.inference import InferResult

_log = logging.getLogger(__name__)


class Answer:
    """What is needed of a future. Belongs to the event loop. A request is not run whose answer is cancelled before."""

    __slots__ = ("_done", "_error", "_result", "_told")

    def __init__(self) -> None:
        self._done = False
        self._result: InferResult | None = None
        self._error: BaseException | None = None
        self._told: tuple[Callable[[Answer], object], ...] = ()

    def done(self) -> bool:
        return self._done

    def cancelled(self) -> bool:
        return self._done and self._result is None and self._error is None

    def result(self) -> InferResult:
        """Raises the request's error, CancelledError where it was cancelled, InvalidStateError where it is not done."""
        if self._result is not None:
            return self._result
        error = self.exception()
        assert error is not None
        # A new one each time: whoever is told may hold this answer, and the raised error's traceback holds them.
        raise copy(error)

    def exception(self) -> BaseException | None:
        """Why it failed; None where it did not. Raises as `result` where there is no answer."""
        if not self._done:
            raise asyncio.InvalidStateError("there is no answer yet")
        if self._result is None and self._error is None:
            raise asyncio.CancelledError
        return self._error

    def set_result(self, result: InferResult) -> None:
        self._result = result
        self._end()

    def set_exception(self, error: BaseException) -> None:
        self._error = error
        self._end()

    def cancel(self) -> bool:
        if self._done:
            return False
        self._end()
        return True

    def add_done_callback(self, callback: Callable[[Answer], object]) -> None:
        """Called once with this answer as soon as it is done. What it raises is logged."""
        if self._done:
            asyncio.get_running_loop().call_soon(callback, self)
        else:
            self._told += (callback,)

    def _end(self) -> None:
        self._done = True
        told, self._told = self._told, ()
        for callback in told:
            try:
                callback(self)
            except Exception:  # noqa: BLE001 (the others wait too)
                _log.exception("who waited for an answer failed")

    def __await__(self) -> Generator[object, None, InferResult]:
        if not self._done:
            waiter = asyncio.get_running_loop().create_future()

            def wake(_: Answer) -> None:
                if not waiter.done():
                    waiter.set_result(None)

            self.add_done_callback(wake)
            try:
                yield from waiter
            except asyncio.CancelledError:
                self.cancel()
                raise
        return self.result()
