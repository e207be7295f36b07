"""What those who wait for an answer are told, and when."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from service.domain.inference import InferResult
from service.errors import EngineFailed
from service.router.answer import Answer

RESULT = InferResult({}, "fp32", 1, "stable", 1, 2)


def test_everybody_who_waits_is_told_once_and_at_once() -> None:
    answer, told = Answer(), list[tuple[int, InferResult]]()
    for number in (1, 2):
        answer.add_done_callback(lambda done, number=number: told.append((number, done.result())))  # type: ignore[misc]
    assert not answer.done()
    answer.set_result(RESULT)
    assert told == [(1, RESULT), (2, RESULT)]
    assert (answer.done(), answer.cancelled(), answer.exception()) == (True, False, None)


def test_a_failed_one_raises_its_error() -> None:
    answer = Answer()
    answer.set_exception(EngineFailed("no"))
    assert isinstance(answer.exception(), EngineFailed)
    assert not answer.cancelled()
    with pytest.raises(EngineFailed, match="no"):
        answer.result()


def test_a_cancelled_one_has_neither_result_nor_error_and_is_cancelled_once() -> None:
    answer, told = Answer(), list[bool]()
    answer.add_done_callback(lambda done: told.append(done.cancelled()))
    assert answer.cancel()
    assert not answer.cancel()
    assert told == [True]
    for ask in (answer.result, answer.exception):
        with pytest.raises(asyncio.CancelledError):
            ask()


def test_one_that_is_not_there_yet_cannot_be_read() -> None:
    for ask in (Answer().result, Answer().exception):
        with pytest.raises(asyncio.InvalidStateError):
            ask()


def test_one_who_fails_when_told_keeps_nobody_else_from_it(caplog: pytest.LogCaptureFixture) -> None:
    def fail(_: Answer) -> None:
        raise RuntimeError("broken waiter")

    answer, told = Answer(), list[Answer]()
    answer.add_done_callback(fail)
    answer.add_done_callback(told.append)
    answer.set_result(RESULT)
    assert told == [answer]
    assert "broken waiter" in caplog.text


def on_a_loop(scenario: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(10):
            await scenario()

    asyncio.run(main())


def test_who_comes_late_is_told_a_turn_later() -> None:
    async def scenario() -> None:
        answer, told = Answer(), list[Answer]()
        answer.set_result(RESULT)
        answer.add_done_callback(told.append)
        assert not told
        await asyncio.sleep(0)
        assert told == [answer]

    on_a_loop(scenario)


def test_it_can_be_awaited_before_and_after() -> None:
    async def scenario() -> None:
        answer = Answer()
        asyncio.get_running_loop().call_soon(answer.set_result, RESULT)
        assert await answer == RESULT
        assert await answer == RESULT

    on_a_loop(scenario)


def test_who_stops_awaiting_takes_the_request_back() -> None:
    async def scenario() -> None:
        answer = Answer()

        async def wait() -> InferResult:
            return await answer

        waiting = asyncio.create_task(wait())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert answer.cancelled()

    on_a_loop(scenario)


def test_an_answer_that_comes_as_its_waiter_leaves_is_kept() -> None:
    async def scenario() -> None:
        answer = Answer()

        async def wait() -> InferResult:
            return await answer

        waiting = asyncio.create_task(wait())
        await asyncio.sleep(0)
        answer.set_result(RESULT)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert answer.result() == RESULT

    on_a_loop(scenario)
