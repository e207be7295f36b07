"""Request bodies as they arrive. Refuses one that stalls or is cut short, and a JSON body over its limit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect
from starlette.types import Message

from service.errors import DeadlineExceeded, InputTooLarge, InvalidRequest

IDLE_SECONDS = 60.0
# A recipe with every field at its limit stays under this.
MAX_JSON_BYTES = 256 * 1024


async def body_chunks(request: Request) -> AsyncGenerator[bytes]:
    """The body's chunks. Raises DeadlineExceeded after a minute without one, InvalidRequest when the client leaves."""
    async with aclosing(request.stream()) as stream:
        while True:
            try:
                async with asyncio.timeout(IDLE_SECONDS):
                    chunk = await anext(stream, None)
            except TimeoutError as error:
                raise DeadlineExceeded(f"the body sent nothing for {IDLE_SECONDS:g} s; send it again") from error
            except ClientDisconnect as error:
                raise InvalidRequest("the client left before the body ended; send it again whole") from error
            if chunk is None:
                return
            yield chunk


class BoundedJsonRoute(APIRoute):
    """A route that reads at most MAX_JSON_BYTES of body; the framework alone would take any amount into memory."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        if self.body_field is None:
            return handle

        async def read_then_handle(request: Request) -> Response:
            message: Message = {"type": "http.request", "body": await _bounded(request), "more_body": False}

            async def replay() -> Message:
                return message

            return await handle(Request(request.scope, replay))

        return read_then_handle


async def _bounded(request: Request) -> bytes:
    body = bytearray()
    async with aclosing(body_chunks(request)) as chunks:
        async for chunk in chunks:
            body += chunk
            if len(body) > MAX_JSON_BYTES:
                raise InputTooLarge(f"the JSON body is over {MAX_JSON_BYTES} bytes; send at most {MAX_JSON_BYTES}")
    return bytes(body)
