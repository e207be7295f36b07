"""The loop that brings the router to what the deployments say."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from service.domain.deployment import ServedModel
from service.domain.inference import InferRequest
from service.domain.limits import InferLimits
from service.errors import EngineFailed, NotFound, StoreUnavailable
from service.router.reconcile import Reconciler
from service.router.router import Router
from tests.async_waiting import until
from tests.engine_shelf import EngineShelf
from tests.fake_engine import row
from tests.served_models import STABLE, deployment, served


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
        reconciler.retry("nothing")
        reconciler.retry("m")
        await reconciler.settle("m", 1)
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
        running = asyncio.ensure_future(reconciler.run())
        await until(lambda: wish.reads >= 3)
        assert not reconciler.first_pass.is_set()
        wish.error = None
        wish.put("m")
        await reconciler.first_pass.wait()
        assert await answers(router, "m")
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    run(scenario, period_seconds=0.002)


def test_an_outage_is_one_line_in_the_log_however_long_it_lasts(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(reconciler: Reconciler, router: Router, wish: Wish, shelf: EngineShelf) -> None:
        wish.error = StoreUnavailable("the database is away")
        running = asyncio.ensure_future(reconciler.run())
        await until(lambda: wish.reads >= 5)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    run(scenario, period_seconds=0.002)
    lines = [record for record in caplog.records if record.message == "deployments cannot be read"]
    assert [bool(record.exc_info) for record in lines] == [False]


def test_waking_begins_a_pass_without_waiting_for_the_period() -> None:
    async def scenario(reconciler: Reconciler, router: Router, wish: Wish, shelf: EngineShelf) -> None:
        running = asyncio.ensure_future(reconciler.run())
        await reconciler.first_pass.wait()
        wish.put("m")
        while not await answers(router, "m"):
            reconciler.wake()
            await asyncio.sleep(0.001)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    run(scenario, period_seconds=3600)


def test_waking_while_a_pass_reads_begins_another_after_it() -> None:
    async def scenario(reconciler: Reconciler, router: Router, wish: Wish, shelf: EngineShelf) -> None:
        gate = wish.hold()
        running = asyncio.ensure_future(reconciler.run())
        assert await asyncio.to_thread(wish.held.wait, 10)
        wish.put("m")
        reconciler.wake()
        gate.set()
        await until(lambda: answers(router, "m"))
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    run(scenario, period_seconds=3600)


def test_a_router_that_stops_while_a_pass_reads_is_given_nothing_to_load(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(reconciler: Reconciler, router: Router, wish: Wish, shelf: EngineShelf) -> None:
        wish.put("m")
        await router.close(5)
        await reconciler.reconcile_now()

    run(scenario)
    assert caplog.records == []
