"""Several instances of one engine on one queue: they share the work, and nothing is lost or mixed between them."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace

import pytest

from service.domain.batching import Batching
from service.domain.inference import InferRequest
from service.domain.limits import InferLimits
from service.router.batcher import Batcher
from service.router.execution_times import ExecutionTimes
from service.router.replica import Replica
from service.router.waiting import Taken, WaitingRequests
from service.router.warmup import WarmEngine
from tests.async_waiting import until
from tests.fake_engine import FakeEngine, row, rows
from tests.served_models import artifact
from tests.unit.router.bench import ROUTE, Bench, run, values


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

        class Waiting(WaitingRequests):
            def take(self, max_rows: int, times: ExecutionTimes, now: float) -> Taken:
                unlocked.extend([] if lock.locked() else [now])
                return super().take(max_rows, times, now)

        bench.replica._batcher._waiting = Waiting()
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
    run(scenario, instances=2, max_rows=4, max_delay_seconds=600.0)


@pytest.mark.parametrize("requests", range(4, 9))
def test_what_two_instances_take_at_once_leaves_nobody_waiting(requests: int) -> None:
    async def scenario(bench: Bench) -> None:
        async with asyncio.timeout(10):
            assert await values(*[bench.send(value) for value in range(requests)]) == list(range(requests))

    for _ in range(20):
        run(scenario, instances=2, max_rows=4, max_delay_seconds=600.0)


def test_what_fills_no_preferred_size_waits_for_company_beside_idle_instances() -> None:
    async def scenario(bench: Bench) -> None:
        bench.replica.follow(Batching(preferred_batch_rows=(4,), batch_delay_seconds=600.0))
        async with asyncio.timeout(10):
            first = [bench.send(value) for value in range(5)]
            assert await values(*first[:4]) == [0, 1, 2, 3]
            assert await values(first[4], *[bench.send(value) for value in range(5, 8)]) == [4, 5, 6, 7]
        assert [len(batch) for batch in bench.engine.batches] == [4, 4]

    run(scenario, instances=2)


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


@pytest.mark.parametrize(("runtime", "beside"), [("tensorrt", 2), ("onnxruntime-cuda", 2), ("onnxruntime", 1)])
def test_engines_on_a_gpu_run_two_batches_at_once_unasked(runtime: str, beside: int) -> None:
    async def scenario() -> None:
        engine = FakeEngine()
        clock = asyncio.get_running_loop().time
        replica = Replica(replace(artifact(), runtime=runtime), WarmEngine(engine, 1, 0), InferLimits(), clock)
        engine.block()
        answers = [replica.submit(InferRequest(row(value)), ROUTE) for value in range(3)]
        await until(lambda: engine.inside == beside)
        engine.gate.set()
        assert [float((await answer).outputs["y"][0, 0]) for answer in answers] == [0, 1, 2]
        await replica.close(5)

    asyncio.run(scenario())


def test_an_instance_that_is_woken_for_what_another_took_in_between_sleeps_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario(bench: Bench) -> None:
        bench.replica.follow(Batching(batch_delay_seconds=0.001, max_batch_rows=2))
        bench.engine.block()
        first = bench.replica.submit(InferRequest(rows(1, 2)), ROUTE)
        assert await asyncio.to_thread(bench.engine.running.wait, 10)
        wake, taken = Batcher._wake, threading.Event()

        def late(batcher: Batcher) -> None:
            bench.engine.gate.set()
            assert taken.wait(10)
            wake(batcher)

        take = WaitingRequests.take

        def noted(waiting: WaitingRequests, max_rows: int, times: ExecutionTimes, now: float) -> Taken:
            found = take(waiting, max_rows, times, now)
            taken.set()
            return found

        monkeypatch.setattr(Batcher, "_wake", late)
        monkeypatch.setattr(WaitingRequests, "take", noted)
        second = bench.replica.submit(InferRequest(rows(3, 4)), ROUTE)
        monkeypatch.undo()
        assert await values(first, second) == [1, 3]
        assert await values(bench.send(5)) == [5], "it waits for nothing that is gone"

    run(scenario, instances=2)


def test_no_instance_is_left_behind_on_a_timer_that_another_has_ended(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(bench: Bench) -> None:
        bench.replica.follow(Batching(batch_delay_seconds=600.0))
        # The second has the delay looked at anew; before that happens, the third wakes the other instance.
        sent = [bench.send(1), bench.send(2, timeout=60), bench.send(3)]
        await asyncio.sleep(0.01)
        bench.replica.follow(Batching())
        assert await values(*sent) == [1, 2, 3]
        await bench.replica.close(0.5)
        assert not caplog.messages, "both sleep, so there is nothing to drain"

    run(scenario, instances=2)
