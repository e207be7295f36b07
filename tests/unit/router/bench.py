"""A replica of a fake engine on a running loop, and what runs a test's scenario on it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any

from service.domain.inference import InferRequest
from service.domain.limits import InferLimits
from service.domain.tensor import TensorSpec
from service.router.answer import Answer
from service.router.replica import Replica
from service.router.route import Route
from service.router.warmup import WarmEngine
from tests.fake_engine import ROW, FakeEngine, row
from tests.served_models import artifact

ROUTE = Route("stable", "m", 1, "v")


class Bench:
    """A replica of a fake engine on the running loop."""

    def __init__(
        self,
        limits: InferLimits,
        max_rows: int,
        inline_rows: int,
        takes: TensorSpec,
        seconds: Mapping[int, float] = MappingProxyType({}),
    ) -> None:
        """`seconds` are what the engine is thought to take at first, by rows."""
        self.engine = FakeEngine(inputs=(takes,))
        warm = WarmEngine(self.engine, max_rows, inline_rows, seconds)
        self.replica = Replica(artifact(), warm, limits, _clock())

    def send(self, value: float, timeout: float | None = None, priority: int = 0) -> Answer:
        return self.replica.submit(InferRequest(row(value), timeout_seconds=timeout, priority=priority), ROUTE)

    async def busy(self) -> Answer:
        """A request inside the engine, which stays there until the gate opens."""
        self.engine.block()
        first = self.send(0)
        assert await asyncio.to_thread(self.engine.running.wait, 10)
        return first


def _clock() -> Callable[[], float]:
    return asyncio.get_running_loop().time


def run(
    scenario: Callable[[Bench], Awaitable[None]],
    max_rows: int = 8,
    inline_rows: int = 0,
    takes: TensorSpec = ROW,
    seconds: Mapping[int, float] = MappingProxyType({}),
    **limits: Any,
) -> None:
    async def main() -> None:
        bench = Bench(InferLimits(**limits), max_rows, inline_rows, takes, seconds)
        try:
            async with asyncio.timeout(10):
                await scenario(bench)
        finally:
            bench.engine.gate.set()
            await bench.replica.close(5)
        assert bench.engine.closed

    asyncio.run(main())


async def values(*answers: Answer) -> list[float]:
    return [float((await answer).outputs["y"][0, 0]) for answer in answers]
