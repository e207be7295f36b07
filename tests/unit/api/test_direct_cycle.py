"""An infer request that goes past ASGI, as uvicorn sees it."""

from __future__ import annotations

import asyncio
import gc

from service.api.direct_cycle import DirectCycle
from service.api.tensor_space import TensorSpace


def cycle() -> DirectCycle:
    return DirectCycle(("m", None), {b"content-length": b"3"}, True, TensorSpace())


def test_a_request_that_is_over_leaves_the_garbage_collector_nothing() -> None:
    gc.collect()
    cycle()
    assert gc.collect() == 0


def test_a_lost_connection_takes_its_request_back() -> None:
    loop, request = asyncio.new_event_loop(), cycle()
    request.message_event.set()
    request.answer = answer = loop.create_future()
    request.message_event.set()
    assert answer.cancelled()
    loop.close()
