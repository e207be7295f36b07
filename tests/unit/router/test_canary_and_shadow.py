"""What of a deployment's canary and shadow callers see, and what they never see."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from service.domain.batching import Batching
from service.router.route import metrics_of
from service.router.router import Router
from tests.async_waiting import until
from tests.engine_shelf import EngineShelf
from tests.served_models import STABLE, deployment, served, with_canary, with_shadow
from tests.unit.router.router_bench import INT8, ask, run, sample, value


def test_the_canary_gets_its_share_and_each_variant_can_be_named() -> None:
    async def scenario(router: Router, shelf: EngineShelf) -> None:
        await router.deploy(served(with_canary(deployment(), INT8, 25)))
        answers = [await ask(router) for _ in range(100)]
        assert 23 <= sum(answer.route == "canary" for answer in answers) <= 27
        assert await value(router, variant=INT8) == 101
        assert await value(router, variant=STABLE) == 1

    run(scenario)


def test_the_shadow_sees_every_request_and_changes_no_answer() -> None:
    async def scenario(router: Router, shelf: EngineShelf) -> None:
        labels = {"model": "m", "version": "1", "variant": INT8}
        before = sample("octavo_shadow_comparisons_total", **labels, outcome="differ")
        await router.deploy(served(with_shadow(deployment(), INT8)))
        assert [(await ask(router)).route for _ in range(5)] == ["stable"] * 5
        await until(lambda: sample("octavo_shadow_comparisons_total", **labels, outcome="differ") == before + 5)

    run(scenario)


def test_a_variant_that_is_canary_and_shadow_counts_each_row_under_its_own_part() -> None:
    async def scenario(router: Router, shelf: EngineShelf) -> None:
        await router.deploy(served(with_shadow(with_canary(deployment(), INT8, 50), INT8)))
        engine = shelf.engines["m-1-" + INT8]
        # On its thread requests wait for each other; on the loop each would be run as it comes.
        router.routes("m").replicas[INT8].allow_inline(False)
        before = {part: rows_of(part) for part in ("canary", "shadow")}
        engine.block()
        first = asyncio.ensure_future(ask(router, variant=INT8))
        await until(lambda: engine.running.is_set())
        asked = [asyncio.ensure_future(ask(router)) for _ in range(8)]
        # Four wait for the canary, and four that the stable variant answered wait for the shadow.
        await until(lambda: router.routes("m").replicas[INT8].queued_rows == 8)
        engine.gate.set()
        answers = await asyncio.gather(first, *asked)
        assert sum(answer.route == "canary" for answer in answers) == 5
        await until(lambda: rows_of("shadow") == before["shadow"] + 9)
        assert rows_of("canary") == before["canary"] + 5

    run(scenario)


def rows_of(part: str) -> int:
    return sum(rows * count.runs for rows, count in metrics_of(("m", "1", INT8, part)).sizes.items())


def test_a_stuck_shadow_delays_no_answer_and_costs_no_more_than_its_queue() -> None:
    async def scenario(router: Router, shelf: EngineShelf) -> None:
        labels = {"model": "m", "version": "1", "variant": INT8, "outcome": "dropped"}
        before = sample("octavo_shadow_comparisons_total", **labels)
        await router.deploy(served(with_shadow(deployment(), INT8)))
        shadow = shelf.engines["m-1-" + INT8]
        shadow.block()
        for _ in range(1100):
            assert await value(router) == 1
        await until(lambda: sample("octavo_shadow_comparisons_total", **labels) > before)
        shadow.gate.set()

    run(scenario)


def test_a_shadow_too_slow_for_the_models_timeout_has_dropped_and_not_failed_a_request() -> None:
    async def scenario(router: Router, shelf: EngineShelf) -> None:
        labels = {"model": "m", "version": "1", "variant": INT8}
        dropped, failed = (
            sample("octavo_shadow_comparisons_total", **labels, outcome=each) for each in ("dropped", "failed")
        )
        timeout = Batching(timeout_seconds=0.05)
        await router.deploy(served(replace(with_shadow(deployment(), INT8), batching=timeout)))
        shelf.engines["m-1-" + INT8].block()
        assert await value(router) == 1
        await until(lambda: sample("octavo_shadow_comparisons_total", **labels, outcome="dropped") == dropped + 1)
        shelf.engines["m-1-" + INT8].gate.set()
        assert sample("octavo_shadow_comparisons_total", **labels, outcome="failed") == failed

    run(scenario)


def test_a_failing_shadow_is_counted_and_not_heard() -> None:
    async def scenario(router: Router, shelf: EngineShelf) -> None:
        labels = {"model": "m", "version": "1", "variant": INT8, "outcome": "failed"}
        before = sample("octavo_shadow_comparisons_total", **labels)
        await router.deploy(served(with_shadow(deployment(), INT8)))
        shelf.engines["m-1-" + INT8].poison = 1
        assert await value(router) == 1
        await until(lambda: sample("octavo_shadow_comparisons_total", **labels) > before)

    run(scenario)
