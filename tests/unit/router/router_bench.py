"""A router over a shelf of fake engines: runs a test's scenario on it, and asks it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from service.domain.inference import InferRequest, InferResult
from service.domain.limits import InferLimits
from service.metrics import REGISTRY
from service.router.router import Router
from tests.engine_shelf import EngineShelf
from tests.fake_engine import row
from tests.served_models import STABLE

INT8 = "int8-onnxruntime"


def run(scenario: Callable[[Router, EngineShelf], Awaitable[None]]) -> EngineShelf:
    shelf = EngineShelf(biases={f"m-1-{INT8}": 100.0, "m-2-" + STABLE: 200.0})

    async def main() -> None:
        router = Router(InferLimits(), shelf.load)
        try:
            async with asyncio.timeout(20):
                await scenario(router, shelf)
        finally:
            shelf.gate.set()
            await router.close(5)

    asyncio.run(main())
    assert all(engine.closed for engine in shelf.engines.values()), "every engine that was loaded is closed"
    return shelf


async def value(router: Router, variant: str | None = None, version: int | None = None) -> float:
    return float((await ask(router, variant, version)).outputs["y"][0, 0])


async def ask(router: Router, variant: str | None = None, version: int | None = None) -> InferResult:
    return await router.infer("m", version, InferRequest(row(1), variant=variant))


def sample(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0
