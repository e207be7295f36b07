"""What a model's owner sets for its queue, and that it takes effect on the requests that wait already."""

from __future__ import annotations

import asyncio
import threading

import pytest

from service.domain.batching import Batching
from service.domain.inference import InferRequest
from service.errors import DeadlineExceeded, DeadlineUnreachable, InvalidTensor, QueueFull
from service.router.permit import answering_seconds
from tests.fake_engine import rows
from tests.unit.router.bench import ROUTE, Bench, run, values


def test_a_batch_has_the_largest_preferred_size_that_waits() -> None:
    async def scenario(bench: Bench) -> None:
        bench.replica.follow(Batching(preferred_batch_rows=(2, 4)))
        first = await bench.busy()
        sent = [bench.send(value) for value in (1, 2, 3, 4, 5, 6, 7)]
        bench.engine.gate.set()
        assert await values(first, *sent) == [0, 1, 2, 3, 4, 5, 6, 7]
        assert bench.engine.batches == [[0], [1, 2, 3, 4], [5, 6], [7]]

    run(scenario)


# An engine of one core: two rows a batch are answered as fast, each, as any more are.
SATURATED_AT_2 = {1: 0.0047, 2: 0.0091, 4: 0.0181, 8: 0.0369}


def test_a_batch_takes_no_more_rows_than_make_the_engine_faster() -> None:
    async def scenario(bench: Bench) -> None:
        first = await bench.busy()
        sent = [bench.send(value) for value in (1, 2, 3, 4, 5)]
        bench.engine.gate.set()
        assert await values(first, *sent) == [0, 1, 2, 3, 4, 5]
        assert bench.engine.batches == [[0], [1, 2], [3, 4], [5]]

    async def on_the_loop(bench: Bench) -> None:
        assert await values(*[bench.send(value) for value in (1, 2, 3)]) == [1, 2, 3]
        assert bench.engine.batches == [[1, 2], [3]]

    run(scenario, seconds=SATURATED_AT_2)
    run(on_the_loop, seconds=SATURATED_AT_2, inline_rows=8)


def test_a_request_of_more_rows_than_that_is_one_batch_still() -> None:
    async def scenario(bench: Bench) -> None:
        first = await bench.busy()
        whole = bench.replica.submit(InferRequest(rows(1, 2, 3), admitted={}), ROUTE)
        after = bench.send(4)
        bench.engine.gate.set()
        assert await values(first, after) == [0, 4]
        assert len((await whole).outputs["y"]) == 3
        assert bench.engine.batches == [[0], [1, 2, 3], [4]]

    run(scenario, seconds=SATURATED_AT_2)


def test_preferred_sizes_hold_beyond_that() -> None:
    async def scenario(bench: Bench) -> None:
        bench.replica.follow(Batching(preferred_batch_rows=(4,)))
        first = await bench.busy()
        sent = [bench.send(value) for value in (1, 2, 3, 4, 5)]
        bench.engine.gate.set()
        await values(first, *sent)
        assert bench.engine.batches == [[0], [1, 2, 3, 4], [5]]

    run(scenario, seconds=SATURATED_AT_2)


def test_no_request_waits_for_company_that_makes_the_engine_no_faster() -> None:
    async def scenario(bench: Bench) -> None:
        bench.replica.follow(Batching(batch_delay_seconds=9.0))
        assert await values(bench.send(1), bench.send(2)) == [1, 2]

    run(scenario, seconds=SATURATED_AT_2)


def test_preferred_sizes_end_the_wait_for_company_and_what_is_left_waits_on() -> None:
    async def scenario(bench: Bench) -> None:
        bench.replica.follow(Batching(preferred_batch_rows=(2,), batch_delay_seconds=9.0))
        pair, alone = [bench.send(value) for value in (1, 2)], bench.send(3)
        assert await values(*pair) == [1, 2]
        await asyncio.sleep(0.01)
        assert not alone.done()
        assert await values(alone, bench.send(4)) == [3, 4]
        assert bench.engine.batches == [[1, 2], [3, 4]]

    run(scenario)
    run(scenario, inline_rows=8)
    run(scenario, instances=2)


def test_the_delay_counts_from_a_requests_arrival_even_behind_a_busy_engine() -> None:
    async def scenario(bench: Bench) -> None:
        bench.replica.follow(Batching(batch_delay_seconds=9.0, max_batch_rows=3))
        bench.engine.block()
        full = [bench.send(value) for value in (1, 2, 3)]
        assert await asyncio.to_thread(bench.engine.running.wait, 10)
        early = bench.send(4)
        bench.engine.gate.set()
        assert await values(*full) == [1, 2, 3]
        await asyncio.sleep(0.01)
        assert not early.done(), "it may wait for company yet"
        assert await values(early, *[bench.send(value) for value in (5, 6)]) == [4, 5, 6]
        assert bench.engine.batches == [[1, 2, 3], [4, 5, 6]]

    run(scenario)


def test_a_shorter_delay_ends_the_wait_of_those_that_wait_already() -> None:
    async def scenario(bench: Bench) -> None:
        bench.replica.follow(Batching(batch_delay_seconds=10.0))
        waiting = bench.send(1)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        bench.replica.follow(Batching(batch_delay_seconds=0.0))
        assert await values(waiting) == [1]

    run(scenario)
    run(scenario, inline_rows=8)


def test_fewer_rows_a_batch_hold_from_the_next_request_on() -> None:
    async def scenario(bench: Bench) -> None:
        pair = InferRequest(rows(1, 2), admitted={})
        await bench.replica.submit(pair, ROUTE)
        bench.replica.follow(Batching(max_batch_rows=1))
        with pytest.raises(InvalidTensor, match="must be <= 1"):
            bench.replica.submit(pair, ROUTE)
        assert await values(bench.send(3), bench.send(4)) == [3, 4]
        assert bench.engine.batches == [[1, 2], [3], [4]]
        bench.replica.follow(Batching(max_batch_rows=1000))
        assert bench.replica.max_rows == 8, "what the engine takes at once bounds it"

    run(scenario)


def test_higher_priority_goes_first_and_no_priority_is_the_default_one() -> None:
    async def scenario(bench: Bench) -> None:
        bench.replica.follow(Batching(priority_levels=3, default_priority=2, max_batch_rows=2))
        first = await bench.busy()
        sent = [bench.send(value, priority=priority) for value, priority in ((1, 3), (2, 0), (3, 1), (4, 2), (5, 9))]
        bench.engine.gate.set()
        assert await values(first, *sent) == [0, 1, 2, 3, 4, 5]
        assert bench.engine.batches == [[0], [3, 2], [4, 5], [1]]

    run(scenario)


def test_without_levels_priorities_change_nothing() -> None:
    async def scenario(bench: Bench) -> None:
        first = await bench.busy()
        sent = [bench.send(1, priority=3), bench.send(2, priority=1)]
        bench.engine.gate.set()
        await values(first, *sent)
        assert bench.engine.batches == [[0], [1, 2]]

    run(scenario)


def test_those_who_wait_are_sorted_anew_when_levels_are_set() -> None:
    async def scenario(bench: Bench) -> None:
        first = await bench.busy()
        sent = [bench.send(1, priority=3), bench.send(2, priority=1)]
        bench.replica.follow(Batching(priority_levels=3, default_priority=2))
        bench.engine.gate.set()
        await values(first, *sent)
        assert bench.engine.batches == [[0], [2, 1]]

    run(scenario)


def test_a_full_queue_gives_the_newest_of_lower_priority_up_for_a_higher_one() -> None:
    async def scenario(bench: Bench) -> None:
        bench.replica.follow(Batching(priority_levels=2, default_priority=2, max_queue_rows=2))
        first = await bench.busy()
        older, newer = bench.send(1), bench.send(2)
        urgent = bench.send(3, priority=1)
        with pytest.raises(QueueFull, match="higher priority"):
            await newer
        with pytest.raises(QueueFull, match="2 of 2 rows wait"):
            bench.send(4)
        bench.engine.gate.set()
        assert await values(first, older, urgent) == [0, 1, 3]

    run(scenario)


def test_a_queue_full_of_callers_that_left_has_room() -> None:
    async def scenario(bench: Bench) -> None:
        first = await bench.busy()
        left = [bench.send(value) for value in (1, 2)]
        for answer in left:
            answer.cancel()
        stays = bench.send(3)
        bench.engine.gate.set()
        assert await values(first, stays) == [0, 3]

    run(scenario, max_queue_rows=2)


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

    run(scenario, max_delay_seconds=9.0)
    run(scenario, max_delay_seconds=9.0, inline_rows=8)


def test_one_flooded_model_on_the_loop_leaves_every_other_its_turn() -> None:
    async def scenario(bench: Bench) -> None:
        neighbour = Bench(bench.replica._limits, 8, 8, bench.engine.inputs[0])
        flood = [bench.send(value) for value in range(800)]
        answer = neighbour.send(1)
        before = []
        answer.add_done_callback(lambda _: before.append(sum(one.done() for one in flood)))
        await answer
        assert before[0] < 100, "it came after a few of the flood's hundred batches"
        assert await values(*flood) == list(range(800))
        await neighbour.replica.close(5)

    run(scenario, inline_rows=8)


def test_a_little_of_every_timeout_is_kept_for_the_answers_way_back() -> None:
    assert answering_seconds(10.0) == 9.995
    assert answering_seconds(0.1) == pytest.approx(0.098)
    assert answering_seconds(float("inf")) == float("inf")


@pytest.mark.parametrize("inline_rows", [0, 1, 8])
def test_a_batch_on_the_loop_has_no_more_rows_than_the_model_is_allowed_either(inline_rows: int) -> None:
    async def scenario(bench: Bench) -> None:
        bench.replica.follow(Batching(max_batch_rows=3))
        assert await values(*[bench.send(value) for value in range(8)]) == list(range(8))
        assert max(len(batch) for batch in bench.engine.batches) <= 3

    run(scenario, inline_rows=inline_rows)


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
