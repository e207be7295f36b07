"""What an engine holds lies in huge pages before the engine serves."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from service.domain.engine import EngineArtifact
from service.domain.inference import Array
from service.domain.limits import InferLimits
from service.router.router import Router
from tests.engine_shelf import EngineShelf
from tests.fake_engine import FakeEngine
from tests.large_memory import BYTES, Bytes, fresh_memory, kernel_bytes, needs_huge_pages
from tests.served_models import deployment, served


class Growing(FakeEngine):
    """It holds `memory` from its first run on."""

    def __init__(self, memory: Bytes) -> None:
        super().__init__()
        self._memory = memory

    def infer(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        self._memory[:] = 1
        return super().infer(inputs)


class Shelf(EngineShelf):
    def __init__(self, memory: Bytes) -> None:
        super().__init__()
        self._memory = memory

    def load(self, artifact: EngineArtifact) -> FakeEngine:
        return Growing(self._memory)


@needs_huge_pages
def test_an_engine_that_serves_was_gathered_in_huge_pages_once_it_was_warm() -> None:
    async def scenario() -> None:
        memory = fresh_memory()
        router = Router(InferLimits(), Shelf(memory).load)
        await router.deploy(served(deployment()))
        assert kernel_bytes(memory, "AnonHugePages") == BYTES
        await router.close(5)

    asyncio.run(scenario())
