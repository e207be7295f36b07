"""What answers while a variant loads, and after it failed to: all that did before, and a word on what does not."""

from __future__ import annotations

import asyncio
import gc
from contextlib import suppress
from weakref import ref

import pytest

from service.domain.engine import EngineArtifact
from service.domain.limits import InferLimits
from service.engines.engine import Engine
from service.errors import EngineFailed, NotFound, NotReady
from service.router.model_state import READY, UNAVAILABLE
from service.router.router import Router
from tests.engine_shelf import EngineShelf
from tests.served_models import STABLE, deployment, served, with_canary
from tests.unit.router.router_bench import INT8, ask, run, value


def test_a_failed_load_leaves_what_answers_alone_and_is_told() -> None:
    async def scenario(router: Router, shelf: EngineShelf) -> None:
        await router.deploy(served(deployment()))
        shelf.broken.add("m-2-" + STABLE)
        with pytest.raises(EngineFailed, match="m-2-fp32-onnxruntime is broken"):
            await router.deploy(served(deployment(version=2, revision=2)))
        assert await value(router) == 1
        assert [(line.version, line.state, line.reason) for line in router.statuses()] == [
            (1, READY, ""),
            (2, UNAVAILABLE, "m-2-fp32-onnxruntime is broken"),
        ]
        assert str(router.failure("m", 2)) == "m-2-fp32-onnxruntime is broken"
        assert router.failure("m", 3) is None
        shelf.broken.clear()
        await router.deploy(served(deployment(version=2, revision=2)))
        assert await value(router) == 201
        assert router.failure("m", 2) is None

    run(scenario)


async def fail_to_add_canary(router: Router, shelf: EngineShelf) -> None:
    """The stable variant answers, and a canary beside it cannot be loaded."""
    base = deployment()
    await router.deploy(served(base))
    shelf.broken.add("m-1-" + INT8)
    with pytest.raises(EngineFailed):
        await router.deploy(served(with_canary(base, INT8, 100)))


def test_a_broken_canary_does_not_replace_what_answers() -> None:
    async def scenario(router: Router, shelf: EngineShelf) -> None:
        await fail_to_add_canary(router, shelf)
        assert await value(router) == 1
        assert router.current("m") == served(deployment())

    run(scenario)


def test_a_deployed_variant_that_is_not_loaded_is_told_from_one_that_is_not_deployed() -> None:
    async def scenario(router: Router, shelf: EngineShelf) -> None:
        base = deployment()
        await router.deploy(served(base))
        shelf.slow.add("m-1-" + INT8)
        loading = asyncio.ensure_future(router.deploy(served(with_canary(base, INT8, 100))))
        assert await asyncio.to_thread(shelf.loading.wait, 10)
        with pytest.raises(NotReady, match=f"variant '{INT8}' of model 'm' is not at ready state; it is loading"):
            await ask(router, variant=INT8)
        shelf.broken.add("m-1-" + INT8)
        shelf.gate.set()
        with pytest.raises(EngineFailed):
            await loading
        with pytest.raises(NotReady, match="its load failed: m-1-int8-onnxruntime is broken"):
            await ask(router, variant=INT8)
        with pytest.raises(NotFound, match="is not deployed; name one of"):
            await ask(router, variant="fp64")

    run(scenario)


def test_what_loads_is_not_told_to_have_failed_because_an_earlier_wish_has() -> None:
    async def scenario(router: Router, shelf: EngineShelf) -> None:
        await fail_to_add_canary(router, shelf)
        shelf.broken.clear()
        shelf.slow.add("m-1-" + INT8)
        loading = asyncio.ensure_future(router.deploy(served(with_canary(deployment(revision=3), INT8, 100))))
        assert await asyncio.to_thread(shelf.loading.wait, 10)
        with pytest.raises(NotReady, match="it is loading: try again"):
            await ask(router, variant=INT8)
        assert router.failure("m", 3) is None
        shelf.gate.set()
        await loading
        assert (await ask(router, variant=INT8)).version == 1

    run(scenario)


def test_at_the_first_load_a_broken_canary_leaves_the_stable_variant_answering() -> None:
    async def scenario(router: Router, shelf: EngineShelf) -> None:
        shelf.broken.add("m-1-" + INT8)
        wanted = served(with_canary(deployment(), INT8, 100))
        with pytest.raises(EngineFailed):
            await router.deploy(wanted)
        assert await value(router) == 1
        assert router.current("m") is None, "it is not all there yet"
        (status,) = router.statuses()
        assert (status.state, status.reason) == (READY, "m-1-int8-onnxruntime is broken")
        shelf.broken.clear()
        await router.deploy(wanted)
        assert await value(router) == 101

    shelf = run(scenario)
    assert shelf.loads.count("m-1-" + STABLE) == 1


def test_a_variant_of_the_version_that_loads_is_not_looked_for_in_the_one_that_answers() -> None:
    async def scenario(router: Router, shelf: EngineShelf) -> None:
        await router.deploy(served(deployment()))
        shelf.slow.add("m-2-" + INT8)
        wanted = with_canary(deployment(version=2, revision=2), INT8, 100)
        loading = asyncio.ensure_future(router.deploy(served(wanted)))
        assert await asyncio.to_thread(shelf.loading.wait, 10)
        with pytest.raises(NotReady, match=f"variant '{INT8}' of model 'm' is not at ready state; it is loading"):
            await ask(router, variant=INT8)
        with pytest.raises(NotFound, match="is not deployed; name one of"):
            await ask(router, variant=INT8, version=1)
        shelf.gate.set()
        await loading
        assert (await ask(router, variant=INT8)).version == 2

    run(scenario)


class HalfAnEngine:
    """What a load has in hand when it fails: gigabytes, and a part of a GPU."""


def test_a_failed_load_that_is_told_of_keeps_nothing_of_its_engine() -> None:
    kept: list[ref[HalfAnEngine]] = []

    def load(_: EngineArtifact) -> Engine:
        half = HalfAnEngine()
        kept.append(ref(half))
        raise EngineFailed("it takes a type that there is no array of")

    async def main() -> None:
        router = Router(InferLimits(), load)
        with suppress(EngineFailed):
            await router.deploy(served(deployment()))
        # The loop lets go of what woke this only now.
        await asyncio.sleep(0)
        assert str(router.failure("m", 1)) == "it takes a type that there is no array of"
        assert [half() for half in kept] == [None]
        await router.close(5)

    gc.disable()
    try:
        asyncio.run(main())
    finally:
        gc.enable()
