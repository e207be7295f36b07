"""How many rows one engine may run on the event loop itself, which everybody else waits for."""

from __future__ import annotations

import asyncio
import logging

from service.router.warmup import INLINE_SECONDS

_log = logging.getLogger(__name__)
# An inline run this much over its allowance, so many times in a row, is no accident of scheduling.
_OVERRUN = 4.0
_OVERRUNS = 8
# Once this much over it is enough: everybody else waited for that run.
_STALL = 100.0
# How long such an engine stays off the loop before it is tried there again: a busy host makes every engine slow.
_REST_SECONDS = 10.0


class InlineRows:
    """`count` is what warming up found, and 0 where it is not allowed or the engine has become slow."""

    def __init__(self, learned: int, loop: asyncio.AbstractEventLoop) -> None:
        self.count = learned
        self._learned = learned
        self._loop = loop
        self._allowed = True
        self._overruns = 0

    def allow(self, allowed: bool) -> None:
        """A shadow, whose work must delay no one, keeps off the event loop."""
        self._allowed = allowed
        self.count = self._learned if allowed else 0

    def watch(self, seconds: float) -> None:
        """What a run on the loop took; runs over their allowance send the engine to its thread for a while."""
        if seconds <= INLINE_SECONDS * _OVERRUN:
            self._overruns = 0
            return
        self._overruns += 1
        if self._overruns == _OVERRUNS or seconds > INLINE_SECONDS * _STALL:
            _log.warning("engine is slow, so it leaves the event loop for its thread", extra={"seconds": seconds})
            self.count = self._overruns = 0
            self._loop.call_later(_REST_SECONDS, self._try_again)

    def _try_again(self) -> None:
        self.allow(self._allowed)
