"""Waiting on the event loop for what other threads or callbacks do, without guessing how long it takes."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable


async def until(probe: Callable[[], bool | Awaitable[bool]], seconds: float = 10.0) -> None:
    """Asks `probe` until it says yes. Fails after `seconds`."""
    async with asyncio.timeout(seconds):
        while True:
            answer = probe()
            if await answer if inspect.isawaitable(answer) else answer:
                return
            await asyncio.sleep(0.001)
