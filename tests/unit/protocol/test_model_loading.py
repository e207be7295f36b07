"""Load and unload by name over a real registry and router; only the engines are fakes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from service.domain.inference import InferRequest
from service.domain.limits import InferLimits
from service.errors import EngineFailed, NotFound
from service.protocol.model_loading import IndexLine, ModelLoading
from service.registry.blob_cache import BlobCache
from service.registry.blobs import Blobs
from service.registry.database import Database
from service.registry.deployments import DeploymentRegistry
from service.registry.models import ModelRegistry
from service.registry.serving import ServingRegistry
from service.router.reconcile import Reconciler
from service.router.router import Router
from tests.engine_shelf import EngineShelf
from tests.fake_engine import row
from tests.samples import new_model

DIGEST = "a" * 64
Scenario = Callable[[ModelLoading, Router, EngineShelf], Awaitable[None]]


@pytest.fixture
def run(database: Database, tmp_path: Path) -> Callable[[Scenario], EngineShelf]:
    """Runs a scenario on one uploaded model, of which nothing is loaded yet."""
    ModelRegistry(database).add(new_model(sha256=DIGEST))
    blobs = Blobs((tmp_path / "store").as_uri(), BlobCache(tmp_path / "cache", 10**9))

    def start(scenario: Scenario) -> EngineShelf:
        shelf = EngineShelf()

        async def main() -> None:
            router = Router(InferLimits(), shelf.load)
            reconciler = Reconciler(router, ServingRegistry(database, blobs).wanted)
            loading = ModelLoading(router, reconciler, DeploymentRegistry(database), ModelRegistry(database))
            try:
                async with asyncio.timeout(20):
                    await scenario(loading, router, shelf)
            finally:
                shelf.gate.set()
                await router.close(5)

        asyncio.run(main())
        return shelf

    return start


def test_load_returns_when_the_model_answers_and_unload_when_its_engine_is_closed(
    run: Callable[[Scenario], EngineShelf],
) -> None:
    async def scenario(loading: ModelLoading, router: Router, shelf: EngineShelf) -> None:
        await loading.load("digits")
        await router.infer("digits", None, InferRequest(row(1)))
        assert await loading.index() == [IndexLine("digits", "1", "READY")]
        await loading.unload("digits")
        assert shelf.engines[DIGEST].closed
        assert await loading.index() == [IndexLine("digits", "1", "UNAVAILABLE", "unloaded")]
        assert await loading.index(only_ready=True) == []
        await loading.unload("digits")
        await loading.load("digits")
        await loading.load("digits")

    assert run(scenario).loads == [DIGEST] * 2


def test_a_failed_load_says_why_and_another_tries_at_once(run: Callable[[Scenario], EngineShelf]) -> None:
    async def scenario(loading: ModelLoading, router: Router, shelf: EngineShelf) -> None:
        shelf.broken.add(DIGEST)
        for _ in range(2):
            with pytest.raises(EngineFailed, match=f"failed to load 'digits', {DIGEST} is broken"):
                await loading.load("digits")
        assert await loading.index() == [IndexLine("digits", "1", "UNAVAILABLE", f"{DIGEST} is broken")]
        shelf.broken.clear()
        await loading.load("digits")
        assert await loading.index() == [IndexLine("digits", "1", "READY")]

    assert run(scenario).loads == [DIGEST] * 3


@pytest.mark.parametrize("name", ["nope", "", "a/b", "a\0b", "grün", "n" * 300, "\ud800"])
def test_a_name_that_nothing_was_uploaded_under_is_refused(run: Callable[[Scenario], EngineShelf], name: str) -> None:
    async def scenario(loading: ModelLoading, router: Router, shelf: EngineShelf) -> None:
        with pytest.raises(NotFound, match=r"failed to load .*, there is no such model"):
            await loading.load(name)
        with pytest.raises(NotFound, match="failed to unload"):
            await loading.unload(name)

    run(scenario)


def test_what_answers_is_listed_in_an_outage_of_the_database(
    run: Callable[[Scenario], EngineShelf], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(loading: ModelLoading, router: Router, shelf: EngineShelf) -> None:
        await loading.load("digits")
        with monkeypatch.context() as outage:
            outage.setattr(database, "engine", Database("postgresql://127.0.0.1:1/nowhere").engine)
            assert await loading.index() == [IndexLine("digits", "1", "READY")]

    run(scenario)
