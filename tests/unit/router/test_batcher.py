"""The queue before one engine: who shares a batch, who waits, who is refused, and what callers that left cost."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest

from service.domain.inference import InferRequest, InferResult
from service.domain.limits import InferLimits
from service.domain.tensor import TensorSpec
from service.errors import DeadlineExceeded, EngineFailed, QueueFull, Stopping
from service.router import batcher
from service.router.batch import Pending
from service.router.replica import Replica
from service.router.route import Route
from service.router.warmup import WarmEngine
from tests.async_waiting import until
from tests.fake_engine import ROW, FakeEngine, row, rows
from tests.served_models import artifact

ROUTE = Route("stable", "m", 1, "v")
Answer = asyncio.Future[InferResult]


class Bench:
    """A replica of a fake engine on the running loop."""

    def __init__(self, limits: InferLimits, max_rows: int, inline_rows: int, takes: TensorSpec) -> None:
        self.engine = FakeEngine(inputs=(takes,))
        self.replica = Replica(artifact(), WarmEngine(self.engine, max_rows, inline_rows), limits, _clock())

    def send(self, value: float, timeout: float | None = None) -> Answer:
        return self.replica.submit(InferRequest(row(value), timeout_seconds=timeout), ROUTE)

    async def busy(self) -> Answer:
        """A request inside the engine, which stays there until the gate opens."""
        self.engine.block()
        first = self.send(0)
        assert await asyncio.to_thread(self.engine.running.wait, 10)
        return first


def _clock() -> Callable[[], float]:
    return asyncio.get_running_loop().time


def run(
    scenario: Callable[[Bench], Awaitable[None]],
    max_rows: int = 8,
    inline_rows: int = 0,
    takes: TensorSpec = ROW,
    **limits: Any,
) -> None:
    async def main() -> None:
        bench = Bench(InferLimits(**limits), max_rows, inline_rows, takes)
        try:
            async with asyncio.timeout(10):
                await scenario(bench)
        finally:
            bench.engine.gate.set()
            await bench.replica.close(5)
        assert bench.engine.closed

    asyncio.run(main())


async def values(*answers: Answer) -> list[float]:
    return [float((await answer).outputs["y"][0, 0]) for answer in answers]


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

    run(scenario, max_rows=4, max_delay_seconds=9.0)


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
    monkeypatch.setattr(batcher, "_REST_SECONDS", 0.05)

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


def test_a_large_queue_goes_to_the_thread_where_only_small_batches_are_quick() -> None:
    async def scenario(bench: Bench) -> None:
        await values(*[bench.send(value) for value in range(5)])
        assert threading.get_ident() not in bench.engine.threads
        assert bench.engine.batches == [[0, 1, 2, 3, 4]]
        while threading.get_ident() not in bench.engine.threads:
            # The thread takes what comes before it has gone to sleep.
            await values(bench.send(1))

    run(scenario, inline_rows=2)


def test_each_instance_of_an_engine_runs_a_batch_beside_the_others() -> None:
    async def scenario(bench: Bench) -> None:
        bench.engine.block()
        first = bench.send(1)
        await until(lambda: bench.engine.inside == 1)
        second, third = bench.send(2), bench.send(3)
        await until(lambda: bench.engine.inside == 2)
        assert bench.replica.queued_rows == 1, "the third waits: there are two instances"
        bench.engine.gate.set()
        assert await values(first, second, third) == [1, 2, 3]

    run(scenario, max_rows=1, instances=2)


def test_requests_of_one_turn_are_shared_out_among_idle_instances() -> None:
    async def scenario(bench: Bench) -> None:
        bench.engine.block()
        sent = [bench.send(value) for value in range(4)]
        await until(lambda: bench.engine.inside == 2)
        bench.engine.gate.set()
        assert await values(*sent) == [0, 1, 2, 3]
        assert sorted(bench.engine.batches) == [[0, 1], [2, 3]]

    run(scenario, instances=2)


def test_an_instance_that_slept_is_woken_for_the_next_request() -> None:
    async def scenario(bench: Bench) -> None:
        for value in range(20):
            assert await values(bench.send(value), bench.send(value + 1)) == [value, value + 1]

    run(scenario, max_rows=1, instances=3)
    run(scenario, max_rows=8, instances=3, max_delay_seconds=0.001)
    run(scenario, max_rows=8, instances=3, inline_rows=1)


class ByThread(threading.Event):
    """A gate that the loop passes freely, and each of two engine threads as often as it was let."""

    def __init__(self) -> None:
        super().__init__()
        self.let = {f"octavo-engine-{number}": threading.Semaphore(0) for number in (0, 1)}

    def wait(self, timeout: float | None = None) -> bool:
        passes = self.let.get(threading.current_thread().name)
        return self.is_set() or passes is None or passes.acquire(timeout=timeout)


def test_a_batch_on_the_loop_leaves_the_rows_of_one_in_a_thread_alone() -> None:
    async def scenario(bench: Bench) -> None:
        bench.engine.gate = gate = ByThread()
        firsts = [bench.replica.submit(InferRequest(rows(value, value, value)), ROUTE) for value in (8, 9)]
        await until(lambda: bench.engine.inside == 2)
        joined = [bench.send(value) for value in (1, 2, 3)]
        gate.let["octavo-engine-0"].release()
        await until(lambda: bench.replica.queued_rows == 0 and bench.engine.inside == 2)
        gate.let["octavo-engine-1"].release()
        await until(lambda: bench.replica._batcher._asleep == 1)
        assert await values(bench.send(4), bench.send(5)) == [4, 5]
        assert threading.get_ident() in bench.engine.threads
        gate.set()
        gate.let["octavo-engine-0"].release()
        assert await values(*firsts, *joined) == [8, 9, 1, 2, 3]

    run(scenario, instances=2, inline_rows=2)


def test_the_loop_takes_requests_under_the_lock_that_the_threads_take_them_under() -> None:
    async def scenario(bench: Bench) -> None:
        lock, unlocked = bench.replica._batcher._lock, []

        class Queue(deque[Pending]):
            def popleft(self) -> Pending:
                unlocked.extend([] if lock.locked() else [self[0]])
                return super().popleft()

        bench.replica._batcher._queue = Queue()
        assert await values(bench.send(1), bench.send(2)) == [1, 2]
        assert not unlocked

    run(scenario, inline_rows=8)
    run(scenario, inline_rows=0)


def test_what_an_instance_leaves_after_a_batch_delay_is_run_beside_it() -> None:
    async def scenario(bench: Bench) -> None:
        bench.engine.block()
        sent = [bench.send(value) for value in range(4)]
        await until(lambda: bench.engine.inside == 2)
        bench.engine.gate.set()
        assert await values(*sent) == [0, 1, 2, 3]

    run(scenario, instances=2, max_delay_seconds=0.001)
    run(scenario, instances=2, max_rows=4, max_delay_seconds=9.0)


def test_draining_waits_for_every_instance() -> None:
    async def scenario(bench: Bench) -> None:
        bench.engine.block()
        sent = [bench.send(1), bench.send(2)]
        await until(lambda: bench.engine.inside == 2)
        closing = asyncio.ensure_future(bench.replica.close(5))
        await asyncio.sleep(0)
        assert not bench.engine.closed
        bench.engine.gate.set()
        await closing
        assert await values(*sent) == [1, 2]

    run(scenario, max_rows=1, instances=2)


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

    run(scenario, max_delay_seconds=9.0)
    run(scenario, max_delay_seconds=9.0, inline_rows=8)


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
