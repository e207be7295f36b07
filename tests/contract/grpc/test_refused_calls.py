"""A call that is refused leaves nothing for the garbage collector: its message may be megabytes."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from service.rpc.inference import Call
from tests.contract.grpc.serving import GrpcServing
from tests.contract.grpc.tensors import fake_row, one_input
from tests.waiting import wait_until


@pytest.fixture(autouse=True)
def _uncollected() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def calls_left() -> int:
    return sum(isinstance(each, Call) for each in gc.get_objects())


@pytest.mark.parametrize(("array", "model"), [(np.zeros((1, 3), np.float32), "fake"), (fake_row(7), "nobody's")])
def test_the_message_of_a_call_that_is_refused_is_gone_at_once(client: Any, array: Any, model: str) -> None:
    with suppress(InferenceServerException):
        client.infer(model, [one_input(array)])
        raise AssertionError("it was not refused")
    wait_until(lambda: calls_left() == 0)


def test_the_message_of_a_call_whose_engine_fails_is_gone_at_once(client: Any, serving: GrpcServing) -> None:
    serving.fake.poison = 7
    with suppress(InferenceServerException):
        client.infer("fake", [one_input(fake_row(7))])
        raise AssertionError("it did not fail")
    wait_until(lambda: calls_left() == 0)
