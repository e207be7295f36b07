"""What an engine holds lies in huge pages before the engine serves."""

from __future__ import annotations

import asyncio

from service.domain.engine import EngineArtifact
from service.domain.limits import InferLimits
from service.router.router import Router
from tests.engine_shelf import EngineShelf
from tests.fake_engine import FakeEngine
from tests.large_memory import MIB, fresh_memory, kernel_bytes, needs_huge_pages
from tests.served_models import deployment, served


class Large(EngineShelf):
    """Its engines hold `memory`."""

    memory = fresh_memory()

    def load(self, artifact: EngineArtifact) -> FakeEngine:
        self.memory[:] = 1
        return FakeEngine()


@needs_huge_pages
def test_an_engine_that_serves_was_gathered_in_huge_pages() -> None:
    async def scenario() -> None:
        router = Router(InferLimits(), Large().load)
        await router.deploy(served(deployment()))
        assert kernel_bytes(Large.memory, "AnonHugePages") >= 8 * MIB
        await router.close(5)

    asyncio.run(scenario())
