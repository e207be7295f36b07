"""What a model's owner sets for its queue, and that it takes effect on the requests that wait already."""

from __future__ import annotations

import asyncio

import pytest

from service.domain.batching import Batching
from service.domain.inference import InferRequest
from service.errors import InvalidTensor, QueueFull
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
        bench.replica.follow(Batching(batch_delay_seconds=600.0))
        assert await values(bench.send(1), bench.send(2)) == [1, 2]

    run(scenario, seconds=SATURATED_AT_2)


def test_preferred_sizes_end_the_wait_for_company_and_what_is_left_waits_on() -> None:
    async def scenario(bench: Bench) -> None:
        bench.replica.follow(Batching(preferred_batch_rows=(2,), batch_delay_seconds=600.0))
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
        bench.replica.follow(Batching(batch_delay_seconds=600.0, max_batch_rows=3))
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


@pytest.mark.parametrize("inline_rows", [0, 1, 8])
def test_a_batch_on_the_loop_has_no_more_rows_than_the_model_is_allowed_either(inline_rows: int) -> None:
    async def scenario(bench: Bench) -> None:
        bench.replica.follow(Batching(max_batch_rows=3))
        assert await values(*[bench.send(value) for value in range(8)]) == list(range(8))
        assert max(len(batch) for batch in bench.engine.batches) <= 3

    run(scenario, inline_rows=inline_rows)
