"""Passes of the reconciler and its loop: one after another, woken, and through an outage."""

from __future__ import annotations

import asyncio

import pytest

from service.errors import StoreUnavailable
from service.router.reconcile import Reconciler
from service.router.router import Router
from tests.async_waiting import until
from tests.engine_shelf import EngineShelf
from tests.unit.router.reconciling import Wish, answers, looping, run


def test_a_read_from_before_a_change_undoes_nothing_that_was_acknowledged_since() -> None:
    async def scenario(reconciler: Reconciler, router: Router, wish: Wish, shelf: EngineShelf) -> None:
        wish.put("m")
        await reconciler.settle("m", 1)
        gate = wish.hold()
        older = asyncio.ensure_future(reconciler.reconcile_now())
        assert await asyncio.to_thread(wish.held.wait, 10)
        wish.put("m", revision=2, loaded=False)
        wish.put("new")
        newer = asyncio.gather(reconciler.settle("m", 2), reconciler.settle("new", 1))
        # Both would be acknowledged by then, were they not to wait for the older read.
        await asyncio.wait({newer}, timeout=0.1)
        gate.set()
        await asyncio.gather(older, newer)
        assert not await answers(router, "m")
        assert await answers(router, "new")

    run(scenario)


@pytest.mark.parametrize("error", [None, StoreUnavailable("the database is away")])
def test_callers_that_come_while_a_pass_reads_share_the_next_one(error: Exception | None) -> None:
    async def scenario(reconciler: Reconciler, router: Router, wish: Wish, shelf: EngineShelf) -> None:
        gate = wish.hold()
        first = asyncio.ensure_future(reconciler.reconcile_now())
        assert await asyncio.to_thread(wish.held.wait, 10)
        wish.put("m")
        wish.error = error
        callers = [asyncio.ensure_future(reconciler.settle("m", 1)) for _ in range(9)]
        await asyncio.sleep(0)
        # The others do not depend on one that gives up.
        callers.pop(0).cancel()
        gate.set()
        assert await asyncio.gather(first, *callers, return_exceptions=True) == [None, *[error] * 8]
        assert wish.reads == 2

    run(scenario)


def test_the_loop_reads_again_after_an_outage_and_when_woken() -> None:
    async def scenario(reconciler: Reconciler, router: Router, wish: Wish, shelf: EngineShelf) -> None:
        wish.error = StoreUnavailable("the database is away")
        async with looping(reconciler):
            await until(lambda: wish.reads >= 3)
            assert not reconciler.first_pass.is_set()
            wish.error = None
            wish.put("m")
            await reconciler.first_pass.wait()
            assert await answers(router, "m")

    run(scenario, period_seconds=0.002)


def test_an_outage_is_one_line_in_the_log_however_long_it_lasts(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(reconciler: Reconciler, router: Router, wish: Wish, shelf: EngineShelf) -> None:
        wish.error = StoreUnavailable("the database is away")
        async with looping(reconciler):
            await until(lambda: wish.reads >= 5)

    run(scenario, period_seconds=0.002)
    lines = [record for record in caplog.records if record.message == "deployments cannot be read"]
    assert [bool(record.exc_info) for record in lines] == [False]


def test_waking_begins_a_pass_without_waiting_for_the_period() -> None:
    async def scenario(reconciler: Reconciler, router: Router, wish: Wish, shelf: EngineShelf) -> None:
        async with looping(reconciler):
            await reconciler.first_pass.wait()
            wish.put("m")
            while not await answers(router, "m"):
                reconciler.wake()
                await asyncio.sleep(0.001)

    run(scenario, period_seconds=3600)


def test_waking_while_a_pass_reads_begins_another_after_it() -> None:
    async def scenario(reconciler: Reconciler, router: Router, wish: Wish, shelf: EngineShelf) -> None:
        gate = wish.hold()
        async with looping(reconciler):
            assert await asyncio.to_thread(wish.held.wait, 10)
            wish.put("m")
            reconciler.wake()
            gate.set()
            await until(lambda: answers(router, "m"))

    run(scenario, period_seconds=3600)


def test_a_router_that_stops_while_a_pass_reads_is_given_nothing_to_load(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(reconciler: Reconciler, router: Router, wish: Wish, shelf: EngineShelf) -> None:
        wish.put("m")
        await router.close(5)
        await reconciler.reconcile_now()

    run(scenario)
    assert caplog.records == []
