"""The loop that brings the router to what the deployments say."""

from __future__ import annotations

import asyncio

import pytest

from service.errors import EngineFailed, NotFound
from service.router.reconcile import Reconciler
from service.router.router import Router
from tests.async_waiting import until
from tests.engine_shelf import EngineShelf
from tests.served_models import STABLE
from tests.unit.router.reconciling import Wish, answers, run


def test_what_is_wished_is_served_and_what_is_not_is_withdrawn() -> None:
    async def scenario(reconciler: Reconciler, router: Router, wish: Wish, shelf: EngineShelf) -> None:
        wish.put("a")
        wish.put("b")
        await reconciler.reconcile_now()
        assert reconciler.first_pass.is_set()
        assert await answers(router, "a")
        assert await answers(router, "b")
        del wish.models["a"]
        await reconciler.reconcile_now()
        assert not await answers(router, "a")
        assert await answers(router, "b")

    assert run(scenario).loads.count("b-1-" + STABLE) == 1


def test_a_deployed_model_whose_engines_cannot_be_found_goes_on_with_what_it_has() -> None:
    async def scenario(reconciler: Reconciler, router: Router, wish: Wish, shelf: EngineShelf) -> None:
        wish.put("m")
        await reconciler.reconcile_now()
        wish.models["m"] = None
        await reconciler.reconcile_now()
        assert await answers(router, "m")

    run(scenario)


def test_one_models_failure_or_slow_load_holds_up_no_other() -> None:
    async def scenario(reconciler: Reconciler, router: Router, wish: Wish, shelf: EngineShelf) -> None:
        wish.put("broken")
        wish.put("slow")
        wish.put("good")
        shelf.broken.add("broken-1-" + STABLE)
        shelf.slow.add("slow-1-" + STABLE)
        passing = asyncio.ensure_future(reconciler.reconcile_now())
        await until(lambda: answers(router, "good"))
        assert not reconciler.first_pass.is_set()
        shelf.gate.set()
        await passing
        assert reconciler.first_pass.is_set()
        assert router.settled
        assert {line.name: line.state for line in router.statuses()} == {
            "broken": "UNAVAILABLE",
            "good": "READY",
            "slow": "READY",
        }

    run(scenario)


def test_a_failing_load_is_tried_again_ever_more_rarely() -> None:
    async def scenario(reconciler: Reconciler, router: Router, wish: Wish, shelf: EngineShelf) -> None:
        wish.put("m")
        shelf.broken.add("m-1-" + STABLE)
        for _ in range(100):
            await reconciler.reconcile_now()
            wish.now += 1.0
        assert 5 <= len(shelf.loads) <= 8
        shelf.broken.clear()
        wish.now += 60.0
        await reconciler.reconcile_now()
        assert await answers(router, "m")

    run(scenario)


def test_a_changed_wish_is_tried_at_once() -> None:
    async def scenario(reconciler: Reconciler, router: Router, wish: Wish, shelf: EngineShelf) -> None:
        wish.put("m")
        shelf.broken.add("m-1-" + STABLE)
        await reconciler.reconcile_now()
        wish.put("m", version=2, revision=2)
        await reconciler.reconcile_now()
        assert await answers(router, "m")

    run(scenario)


def test_settling_returns_when_the_revision_answers() -> None:
    async def scenario(reconciler: Reconciler, router: Router, wish: Wish, shelf: EngineShelf) -> None:
        wish.put("m", revision=3)
        await reconciler.settle("m", 3)
        assert await answers(router, "m")
        await reconciler.settle("m", 2)

    run(scenario)


def test_settling_raises_what_kept_the_engine_from_loading() -> None:
    async def scenario(reconciler: Reconciler, router: Router, wish: Wish, shelf: EngineShelf) -> None:
        wish.put("m")
        await reconciler.settle("m", 1)
        wish.put("m", version=2, revision=2)
        shelf.broken.add("m-2-" + STABLE)
        with pytest.raises(EngineFailed, match="m-2-fp32-onnxruntime is broken"):
            await reconciler.settle("m", 2)
        assert await answers(router, "m")
        with pytest.raises(NotFound, match="model 'gone' is not deployed"):
            await reconciler.settle("gone", 1)

    run(scenario)


def test_a_caller_that_stops_waiting_does_not_stop_the_load() -> None:
    async def scenario(reconciler: Reconciler, router: Router, wish: Wish, shelf: EngineShelf) -> None:
        wish.put("m")
        shelf.slow.add("m-1-" + STABLE)
        waiting = asyncio.ensure_future(reconciler.settle("m", 1))
        assert await asyncio.to_thread(shelf.loading.wait, 10)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        shelf.gate.set()
        await reconciler.settle("m", 1)

    assert run(scenario).loads == ["m-1-" + STABLE]


def test_a_model_withdrawn_while_it_loads_is_not_served() -> None:
    async def scenario(reconciler: Reconciler, router: Router, wish: Wish, shelf: EngineShelf) -> None:
        wish.put("m")
        shelf.slow.add("m-1-" + STABLE)
        loading = asyncio.ensure_future(reconciler.reconcile_now())
        assert await asyncio.to_thread(shelf.loading.wait, 10)
        wish.models.clear()
        await reconciler.reconcile_now()
        shelf.gate.set()
        await loading
        assert not await answers(router, "m")
        assert router.deployed == frozenset()

    run(scenario)


def test_a_load_that_is_no_longer_wished_is_ended() -> None:
    async def scenario(reconciler: Reconciler, router: Router, wish: Wish, shelf: EngineShelf) -> None:
        wish.put("m")
        shelf.slow.add("m-1-" + STABLE)
        loading = asyncio.ensure_future(reconciler.settle("m", 1))
        assert await asyncio.to_thread(shelf.loading.wait, 10)
        wish.put("m", revision=2, loaded=False)
        await reconciler.settle("m", 2)
        shelf.gate.set()
        await loading
        assert not await answers(router, "m")
        assert [(line.state, line.reason) for line in router.statuses()] == [("UNAVAILABLE", "unloaded")]

    run(scenario)


def test_a_failed_load_is_tried_again_at_once_where_that_is_asked_for() -> None:
    async def scenario(reconciler: Reconciler, router: Router, wish: Wish, shelf: EngineShelf) -> None:
        wish.put("m")
        shelf.broken.add("m-1-" + STABLE)
        with pytest.raises(EngineFailed):
            await reconciler.settle("m", 1)
        shelf.broken.clear()
        with pytest.raises(EngineFailed):
            await reconciler.settle("m", 1)
        await reconciler.settle("m", 1, retry=True)
        assert await answers(router, "m")

    run(scenario)


def test_settling_one_model_waits_for_no_other() -> None:
    async def scenario(reconciler: Reconciler, router: Router, wish: Wish, shelf: EngineShelf) -> None:
        wish.put("slow")
        wish.put("m")
        shelf.slow.add("slow-1-" + STABLE)
        await reconciler.settle("m", 1)
        assert await answers(router, "m")
        assert not shelf.gate.is_set()

    run(scenario)
