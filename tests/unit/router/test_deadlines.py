"""What a request's time limit promises: refused when it comes, or answered in time, and never late."""

from __future__ import annotations

import threading

import pytest

from service.domain.batching import Batching, QueuePolicy
from service.domain.tensor import TensorSpec
from service.errors import DeadlineExceeded, DeadlineUnreachable
from service.router.answer import Answer
from service.router.backlog import Backlog
from service.router.batch import Pending
from service.router.execution_times import ExecutionTimes
from service.router.permit import answering_seconds
from service.router.waiting import WaitingRequests
from tests.unit.router.bench import ROUTE, Bench, run, values


def test_what_cannot_be_answered_in_time_is_refused_at_the_door() -> None:
    async def scenario(bench: Bench) -> None:
        first = await bench.busy()
        waiting = [bench.send(value) for value in range(1, 9)]
        with pytest.raises(DeadlineUnreachable, match="8 rows waiting") as refusal:
            bench.send(9, timeout=5.0)
        assert refusal.value.retry_after_seconds >= 1
        assert refusal.value.retryable
        in_time = bench.send(10, timeout=600.0)
        bench.engine.gate.set()
        assert await values(first, *waiting, in_time) == [0, *range(1, 9), 10]

    run(scenario, seconds={1: 1.0, 8: 4.0})


def test_what_the_short_rows_of_warming_up_took_says_nothing_of_a_callers_longer_ones() -> None:
    async def scenario(bench: Bench) -> None:
        first = await bench.busy()
        waiting = [bench.send(value) for value in range(1, 9)]
        hurried = bench.send(9, timeout=5.0)
        bench.engine.gate.set()
        assert await values(first, *waiting, hurried) == [0, *range(1, 10)]

    # By these a request that has eight rows before it takes more than 9 s.
    run(scenario, seconds={1: 5.0, 8: 9.0}, takes=TensorSpec("x", "FP32", (-1, -1)))


def test_the_models_timeout_bounds_that_of_each_request() -> None:
    async def scenario(bench: Bench) -> None:
        bench.replica.follow(Batching(timeout_seconds=0.02))
        first = await bench.busy()
        for timeout in (None, 60.0):
            with pytest.raises(DeadlineExceeded, match="after 20000 microseconds"):
                await bench.send(1, timeout=timeout)
        with pytest.raises(DeadlineExceeded, match="after 1000 microseconds"):
            await bench.send(1, timeout=0.001)
        bench.engine.gate.set()
        with pytest.raises(DeadlineExceeded):
            await first

    run(scenario)


def test_a_batch_grows_no_further_than_its_most_urgent_member_allows() -> None:
    async def scenario(bench: Bench) -> None:
        first = await bench.busy()
        sent = [bench.send(1, timeout=40.0), bench.send(2), bench.send(3)]
        bench.engine.gate.set()
        assert await values(first, *sent) == [0, 1, 2, 3]
        assert bench.engine.batches[:2] == [[0], [1, 2]]

    # With its margin a batch of two takes 30 s and one of three 42 s.
    run(scenario, seconds={1: 8.0, 2: 15.0, 3: 21.0})


def test_times_that_refuse_every_request_are_forgotten_step_by_step() -> None:
    async def scenario(bench: Bench) -> None:
        refused = 0
        while True:
            try:
                answer = bench.send(1, timeout=5.0)
            except DeadlineUnreachable:
                refused += 1
                assert refused < 100
            else:
                break
        assert refused > 1
        assert await values(answer) == [1]

    run(scenario, seconds={1: 60.0})


def test_a_deadline_ends_the_wait_for_company() -> None:
    async def scenario(bench: Bench) -> None:
        patient, hasty = bench.send(1), bench.send(2, timeout=1.0)
        assert await values(patient, hasty) == [1, 2]

    run(scenario, max_delay_seconds=600.0)
    run(scenario, max_delay_seconds=600.0, inline_rows=8)


def test_a_little_of_every_timeout_is_kept_for_the_answers_way_back() -> None:
    assert answering_seconds(10.0) == 9.995
    assert answering_seconds(0.1) == pytest.approx(0.098)
    assert answering_seconds(float("inf")) == float("inf")


def test_an_answer_that_comes_after_its_deadline_is_not_given_though_no_timer_could_tell() -> None:
    async def scenario(bench: Bench) -> None:
        bench.engine.block()
        # The run holds the loop up, and with it the timers.
        threading.Timer(0.1, bench.engine.gate.set).start()
        late, patient = bench.send(1, timeout=0.02), bench.send(2)
        with pytest.raises(DeadlineExceeded, match="after 20000 microseconds"):
            await late
        assert await values(patient) == [2]

    run(scenario, inline_rows=8)


def test_a_long_queue_is_given_a_margin_for_batches_that_are_slow_together() -> None:
    times = ExecutionTimes({1: 0.01})
    for _ in range(200):
        times.observe(1, 0.01)
    assert times.margin(1) < 1e-6, "each batch for itself is never late"
    waiting = WaitingRequests()
    pending = [Pending({}, None, 1, None, ROUTE, Answer()) for _ in range(101)]
    for one in pending[:100]:
        waiting.append(one)
    seconds = Backlog(1, times).seconds_until_answered(waiting, QueuePolicy(max_rows=1, batch_rows=1), pending[100])
    assert seconds == pytest.approx(100 * 0.01 * 1.05 + 0.01)
