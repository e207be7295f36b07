"""The queue before one engine: who shares a batch, who waits, who is refused, and what callers that left cost."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest

from service.domain.inference import InferRequest
from service.domain.tensor import TensorSpec
from service.errors import DeadlineExceeded, EngineFailed, QueueFull, Stopping
from service.router import inline_rows
from tests.async_waiting import until
from tests.fake_engine import rows
from tests.unit.router.bench import ROUTE, Bench, run, values


def test_requests_that_come_while_the_engine_runs_share_the_next_batch() -> None:
    async def scenario(bench: Bench) -> None:
        first = await bench.busy()
        others = [bench.send(value) for value in (1, 2, 3)]
        bench.engine.gate.set()
        assert await values(first, *others) == [0, 1, 2, 3]
        assert bench.engine.batches == [[0], [1, 2, 3]]

    run(scenario)


def test_requests_of_one_turn_of_the_loop_share_a_batch_even_on_an_idle_engine() -> None:
    async def scenario(bench: Bench) -> None:
        assert await values(*[bench.send(value) for value in (1, 2, 3)]) == [1, 2, 3]
        assert bench.engine.batches == [[1, 2, 3]]

    run(scenario)
    run(scenario, inline_rows=8)


def test_a_batch_never_has_more_rows_than_allowed_and_order_is_kept() -> None:
    async def scenario(bench: Bench) -> None:
        first = await bench.busy()
        pair = bench.replica.submit(InferRequest(rows(1, 2)), ROUTE)
        late = [bench.send(value) for value in (3, 4)]
        bench.engine.gate.set()
        await values(first, pair, *late)
        assert bench.engine.batches == [[0], [1, 2, 3], [4]]

    run(scenario, max_rows=3)


def test_requests_of_other_row_shapes_are_joined_among_themselves() -> None:
    async def scenario(bench: Bench) -> None:
        first = await bench.busy()
        sent = [
            bench.replica.submit(InferRequest({"x": np.full((1, width), width, np.float32)}), ROUTE)
            for width in (2, 3, 2, 3)
        ]
        bench.engine.gate.set()
        assert await values(*sent) == [4, 9, 4, 9]
        await first
        assert bench.engine.batches == [[0], [2, 2], [3, 3]]

    run(scenario, takes=TensorSpec("x", "FP32", (-1, -1)))


def test_a_model_without_a_batch_axis_runs_its_requests_one_by_one() -> None:
    async def scenario(bench: Bench) -> None:
        assert await values(*[bench.send(value) for value in (1, 2)]) == [1, 2]
        assert bench.engine.batches == [[1], [2]]

    run(scenario, max_rows=0)


def test_a_full_queue_refuses_the_next_request_and_keeps_those_inside() -> None:
    async def scenario(bench: Bench) -> None:
        first = await bench.busy()
        inside = [bench.send(value) for value in (1, 2)]
        with pytest.raises(QueueFull, match="Exceeds maximum queue size: 2 of 2 rows wait"):
            bench.send(3)
        bench.engine.gate.set()
        assert await values(first, *inside) == [0, 1, 2]
        assert await values(bench.send(4)) == [4], "and there is room again"

    run(scenario, max_queue_rows=2)


def test_a_caller_that_left_is_skipped_and_the_others_are_answered() -> None:
    async def scenario(bench: Bench) -> None:
        first = await bench.busy()
        stays, leaves, stays_too = (bench.send(value) for value in (1, 2, 3))
        leaves.cancel()
        bench.engine.gate.set()
        assert await values(first, stays, stays_too) == [0, 1, 3]
        assert bench.engine.batches == [[0], [1, 3]]
        assert bench.replica.queued_rows == 0

    run(scenario)


def test_a_caller_that_leaves_while_its_batch_runs_disturbs_no_one() -> None:
    async def scenario(bench: Bench) -> None:
        first = await bench.busy()
        first.cancel()
        after = bench.send(1)
        bench.engine.gate.set()
        assert await values(after) == [1]

    run(scenario)


def test_a_failed_batch_resolves_every_member() -> None:
    async def scenario(bench: Bench) -> None:
        bench.engine.poison = 2
        good, bad = bench.send(1), bench.send(2)
        assert await values(good) == [1]
        with pytest.raises(EngineFailed, match="poisoned"):
            await bad

    run(scenario)
    run(scenario, inline_rows=8)


def test_an_idle_engine_waits_the_batch_delay_for_company() -> None:
    async def scenario(bench: Bench) -> None:
        first = bench.send(1)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        second = bench.send(2)
        assert await values(first, second) == [1, 2]
        assert bench.engine.batches == [[1, 2]]

    run(scenario, max_delay_seconds=0.2)


def test_a_batch_that_fills_does_not_wait_for_the_delay() -> None:
    async def scenario(bench: Bench) -> None:
        began = asyncio.get_running_loop().time()
        assert await values(*[bench.send(value) for value in (1, 2, 3, 4)]) == [1, 2, 3, 4]
        assert asyncio.get_running_loop().time() - began < 5

    run(scenario, max_rows=4, max_delay_seconds=600.0)


def test_a_quick_engine_runs_on_the_loops_own_thread_and_a_slow_one_on_another() -> None:
    async def scenario(bench: Bench) -> None:
        await values(bench.send(1))
        assert (bench.engine.threads == {threading.get_ident()}) is bench.replica.runs_inline

    run(scenario, inline_rows=8)
    run(scenario, inline_rows=0)


def test_a_quick_engine_kept_off_the_loop_runs_on_its_thread() -> None:
    async def scenario(bench: Bench) -> None:
        bench.replica.allow_inline(False)
        await values(bench.send(1))
        assert threading.get_ident() not in bench.engine.threads

    run(scenario, inline_rows=8)


def test_an_engine_that_became_slow_leaves_the_loop_for_its_thread_and_comes_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The clock steps by 10 ms a reading, so every inline run seems to overrun."""
    monkeypatch.setattr(inline_rows, "_REST_SECONDS", 0.05)

    async def scenario(bench: Bench) -> None:
        ticks = iter(range(1_000_000))
        bench.replica._batcher._runner.clock = lambda: next(ticks) / 100
        for value in range(8):
            await values(bench.send(value))
        assert bench.engine.threads == {threading.get_ident()}
        assert not bench.replica.runs_inline
        await values(bench.send(9))
        assert len(bench.engine.threads) == 2
        await until(lambda: bench.replica.runs_inline)

    run(scenario, inline_rows=8)


def test_an_engine_leaves_the_loop_after_the_first_run_that_held_it_up_for_long() -> None:
    """The clock steps by a second a reading."""

    async def scenario(bench: Bench) -> None:
        ticks = iter(range(1_000_000))
        bench.replica._batcher._runner.clock = lambda: float(next(ticks))
        await values(bench.send(1))
        assert bench.engine.threads == {threading.get_ident()}
        await values(bench.send(2))
        assert len(bench.engine.threads) == 2

    run(scenario, inline_rows=8)


def test_a_large_queue_goes_to_the_thread_where_only_small_batches_are_quick() -> None:
    async def scenario(bench: Bench) -> None:
        await values(*[bench.send(value) for value in range(5)])
        assert threading.get_ident() not in bench.engine.threads
        assert bench.engine.batches == [[0, 1, 2, 3, 4]]
        while threading.get_ident() not in bench.engine.threads:
            # The thread takes what comes before it has gone to sleep.
            await values(bench.send(1))

    run(scenario, inline_rows=2)


def test_a_deadline_holds_while_the_engine_is_busy_and_what_expired_is_not_run() -> None:
    async def scenario(bench: Bench) -> None:
        first = await bench.busy()
        with pytest.raises(DeadlineExceeded, match="Request timeout expired after 1000 microseconds"):
            await bench.send(1, timeout=0.001)
        bench.engine.gate.set()
        assert await values(first, bench.send(2, timeout=60)) == [0, 2]
        assert bench.engine.batches == [[0], [2]]

    run(scenario)


def test_draining_answers_what_was_admitted_and_refuses_the_rest() -> None:
    async def scenario(bench: Bench) -> None:
        first = await bench.busy()
        waiting = bench.send(1)
        closing = asyncio.ensure_future(bench.replica.close(5))
        await asyncio.sleep(0)
        with pytest.raises(Stopping, match="Server is stopping"):
            bench.send(2)
        assert not bench.engine.closed
        bench.engine.gate.set()
        await closing
        assert await values(first, waiting) == [0, 1]

    run(scenario)


def test_draining_does_not_wait_for_company_that_is_refused() -> None:
    async def scenario(bench: Bench) -> None:
        waiting = bench.send(1)
        await bench.replica.close(1)
        assert await values(waiting) == [1]

    run(scenario, max_delay_seconds=600.0)
    run(scenario, max_delay_seconds=600.0, inline_rows=8)


def test_what_is_not_drained_in_time_is_refused_and_the_running_batch_still_answers() -> None:
    async def scenario(bench: Bench) -> None:
        first = await bench.busy()
        waiting = bench.send(1)
        closing = asyncio.ensure_future(bench.replica.close(0.01))
        with pytest.raises(Stopping):
            await waiting
        bench.engine.gate.set()
        await closing
        assert await values(first) == [0]

    run(scenario)


def test_the_answer_tells_variant_route_wait_and_run() -> None:
    async def scenario(bench: Bench) -> None:
        result = await bench.send(1)
        assert (result.variant, result.version, result.route) == ("v", 1, "stable")
        assert result.queue_us >= 0
        assert result.compute_us >= 0

    run(scenario)
