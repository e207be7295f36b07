"""How long a batch waits for company where no delay is set: turns of the event loop."""

from __future__ import annotations

import asyncio

import pytest

from tests.unit.router.bench import Bench, run, values


def test_a_request_that_comes_a_turn_after_another_shares_its_batch() -> None:
    async def scenario(bench: Bench) -> None:
        loop, later = asyncio.get_running_loop(), []
        first = [bench.send(value) for value in (1, 2)]
        # The first look at the queue is a turn away, and sees one that came beside the first.
        loop.call_soon(lambda: later.append(bench.send(3)))
        assert await values(*first) == [1, 2]
        assert await values(*later) == [3]
        assert bench.engine.batches == [[1, 2, 3]]

    run(scenario)
    run(scenario, inline_rows=8)


@pytest.mark.parametrize("timeout", [None, 5.0])
def test_those_who_come_one_by_one_are_not_waited_for_without_end(timeout: float | None) -> None:
    async def scenario(bench: Bench) -> None:
        loop, sent = asyncio.get_running_loop(), [bench.send(0, timeout)]

        def send_one() -> None:
            if len(sent) < 30 and not sent[0].done():
                sent.append(bench.send(len(sent), timeout))
                loop.call_soon(send_one)

        send_one()
        await values(*sent[:1])
        # Those of the turns that it waited, and the one that was sent beside it.
        assert len(bench.engine.batches[0]) <= (5 if timeout is None else 3)

    run(scenario, max_rows=32, inline_rows=32)


def test_a_lone_request_waits_for_nobody() -> None:
    async def scenario(bench: Bench) -> None:
        lone = bench.send(1)
        await asyncio.sleep(0)
        assert lone.done()

    run(scenario, inline_rows=8)


def test_a_batch_on_the_loop_gives_its_core_up_once_its_answers_are_out(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(bench: Bench) -> None:
        sent, answered = [bench.send(value) for value in (1, 2)], []
        monkeypatch.setattr("os.sched_yield", lambda: answered.append([one.done() for one in sent]))
        assert await values(*sent) == [1, 2]
        assert answered == [[True, True]]

    run(scenario, inline_rows=8)
