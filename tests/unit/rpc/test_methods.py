"""What a call that was refused leaves behind."""

from __future__ import annotations

import asyncio
import gc
from typing import Any
from weakref import ref

from google.protobuf.message import Message
from grpc.aio import AbortError

from service.errors import NotFound
from service.rpc.generated.inference_pb2 import ModelReadyRequest
from service.rpc.methods import _counted


class KeepingContext:
    """As the library's own, it keeps the error that ends its call."""

    error: AbortError | None = None

    async def abort(self, *_: Any) -> None:
        self.error = AbortError()
        raise self.error


class Request(bytearray):
    """Bytes that can be watched."""


async def refuse(_: Message) -> Message:
    raise NotFound("no such model")


def test_a_refused_calls_request_is_gone_while_its_context_lives() -> None:
    context, answer = KeepingContext(), _counted("ModelReady", ModelReadyRequest, refuse)

    async def call() -> ref[Request]:
        request = Request()
        kept = ref(request)
        calling = asyncio.ensure_future(answer(request, context))  # type: ignore[arg-type]
        del request
        await asyncio.wait([calling])
        assert isinstance(calling.exception(), AbortError)
        return kept

    gc.disable()
    try:
        assert asyncio.run(call())() is None
    finally:
        gc.enable()
