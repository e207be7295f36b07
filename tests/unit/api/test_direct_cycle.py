"""An infer request that goes past ASGI, as uvicorn sees it."""

from __future__ import annotations

import gc

from service.api.direct_cycle import DirectCycle
from service.router.answer import Answer


def cycle() -> DirectCycle:
    return DirectCycle(("m", None), {b"content-length": b"3"}, True)


def test_a_request_that_is_over_leaves_the_garbage_collector_nothing() -> None:
    gc.collect()
    cycle()
    assert gc.collect() == 0


def test_a_lost_connection_takes_its_request_back() -> None:
    request = cycle()
    request.message_event.set()
    request.answer = answer = Answer()
    request.message_event.set()
    assert answer.cancelled()
