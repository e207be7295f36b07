"""A request that is refused or fails leaves nothing for the garbage collector: its tensors may be megabytes."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from weakref import ref

import numpy as np
import pytest

from service.domain.inference import InferRequest
from service.errors import DeadlineUnreachable, DeviceFailed, EngineFailed, QueueFull
from service.router.answer import Answer
from tests.fake_engine import row
from tests.unit.router.bench import ROUTE, Bench, run


@pytest.fixture(autouse=True)
def _uncollected() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


def refused(bench: Bench, error: type[Exception], timeout: float | None = None) -> ref[np.ndarray[Any, Any]]:
    """The tensor of a request that was refused with `error`."""
    inputs = row(1)
    with suppress(error):
        bench.replica.submit(InferRequest(inputs, timeout_seconds=timeout), ROUTE)
        raise AssertionError("it was not refused")
    return ref(inputs["x"])


def test_the_tensors_of_a_request_that_comes_to_a_full_queue_are_gone_at_once() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.busy()
        bench.send(1)
        assert refused(bench, QueueFull)() is None

    run(scenario, max_queue_rows=1)


def test_the_tensors_of_a_request_that_cannot_be_answered_in_time_are_gone_at_once() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.busy()
        assert refused(bench, DeadlineUnreachable, timeout=1.0)() is None

    run(scenario, seconds={1: 5.0})


async def failed(bench: Bench, error: type[Exception], value: float) -> ref[np.ndarray[Any, Any]]:
    """The tensor of a request whose batch failed with `error`."""
    inputs = row(value)
    answer = bench.replica.submit(InferRequest(inputs), ROUTE)
    with suppress(error):
        await answer
        raise AssertionError("it did not fail")
    return ref(inputs["x"])


def test_the_tensors_of_a_request_that_fails_in_its_engine_are_gone_with_the_answer() -> None:
    async def scenario(bench: Bench) -> None:
        bench.engine.poison = 7
        tensor = await failed(bench, EngineFailed, 7)
        assert tensor() is None

    run(scenario, inline_rows=8)


def test_the_tensors_of_requests_that_fail_each_alone_are_gone_with_the_answers() -> None:
    async def scenario(bench: Bench) -> None:
        bench.engine.poison = 7
        beside = bench.send(7)
        tensor = await failed(bench, EngineFailed, 7)
        assert isinstance(beside.exception(), EngineFailed)
        assert tensor() is None

    run(scenario, inline_rows=8)


def test_a_replica_that_is_lost_keeps_no_tensors_of_the_request_that_was_told_first() -> None:
    async def scenario(bench: Bench) -> None:
        bench.engine.device_lost = True
        tensor = await failed(bench, DeviceFailed, 7)
        assert isinstance(bench.replica.lost, DeviceFailed)
        assert tensor() is None

    run(scenario, inline_rows=8)


class Asker:
    """Who holds an answer while it is told the error."""

    def __init__(self) -> None:
        self.answer = Answer()
        self.answer.set_exception(EngineFailed("no"))

    def ask(self) -> None:
        with suppress(EngineFailed):
            self.answer.result()

    async def wait(self) -> None:
        with suppress(EngineFailed):
            await self.answer


def test_who_is_told_an_answers_error_is_gone_with_the_answer() -> None:
    asker, waiter = Asker(), Asker()
    asker.ask()
    asyncio.run(waiter.wait())
    kept = ref(asker), ref(waiter)
    del asker, waiter
    assert [each() for each in kept] == [None, None]
