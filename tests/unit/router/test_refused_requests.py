"""A request that is refused or fails leaves nothing for the garbage collector: its tensors may be megabytes."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from weakref import ref

import numpy as np
import pytest

from service.domain.inference import InferRequest
from service.errors import DeadlineUnreachable, EngineFailed, QueueFull
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


def test_an_answers_error_is_gone_with_the_answer() -> None:
    answer, error = Answer(), EngineFailed("no")
    kept = ref(error)
    answer.set_exception(error)
    del error
    with suppress(EngineFailed):
        answer.result()
    del answer
    assert kept() is None
