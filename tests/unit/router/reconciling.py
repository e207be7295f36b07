"""A reconciler over wishes and a clock that the test moves, and engines that are loaded when it says so."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

from service.domain.deployment import ServedModel
from service.domain.inference import InferRequest
from service.domain.limits import InferLimits
from service.errors import NotFound
from service.router.reconcile import Reconciler
from service.router.router import Router
from tests.engine_shelf import EngineShelf
from tests.fake_engine import row
from tests.served_models import deployment, served


class Wish:
    """What the deployments say, and a clock that only the test moves."""

    def __init__(self) -> None:
        self.models: dict[str, ServedModel | None] = {}
        self.error: Exception | None = None
        self.now = 0.0
        self.reads = 0
        self.held = threading.Event()
        self.gate: threading.Event | None = None

    def read(self) -> dict[str, ServedModel | None]:
        self.reads += 1
        found, error = dict(self.models), self.error
        gate, self.gate = self.gate, None
        if gate is not None:
            self.held.set()
            assert gate.wait(10), "the test never opened the gate"
        if error is not None:
            raise error
        return found

    def hold(self) -> threading.Event:
        """The next read is held up after it has read, until what this gives is set."""
        self.gate = threading.Event()
        return self.gate

    def put(self, model: str, version: int = 1, revision: int = 1, loaded: bool = True) -> None:
        wanted = deployment(version=version, revision=revision, model=model)
        self.models[model] = served(replace(wanted, loaded=loaded))

    def clock(self) -> float:
        return self.now


Scenario = Callable[[Reconciler, Router, Wish, EngineShelf], Awaitable[None]]


def run(scenario: Scenario, period_seconds: float = 1.0) -> EngineShelf:
    shelf, wish = EngineShelf(), Wish()

    async def main() -> None:
        router = Router(InferLimits(), shelf.load)
        reconciler = Reconciler(router, wish.read, period_seconds, wish.clock)
        try:
            async with asyncio.timeout(20):
                await scenario(reconciler, router, wish, shelf)
        finally:
            shelf.gate.set()
            await router.close(5)

    asyncio.run(main())
    return shelf


async def answers(router: Router, model: str) -> bool:
    try:
        await router.infer(model, None, InferRequest(row(1)))
    except NotFound:
        return False
    return True


@asynccontextmanager
async def looping(reconciler: Reconciler) -> AsyncIterator[None]:
    """The reconciler's own loop runs beside the block, and is cancelled after it."""
    running = asyncio.ensure_future(reconciler.run())
    try:
        yield
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
