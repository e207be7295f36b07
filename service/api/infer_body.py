"""The ASGI side of an infer request: its body within a limit, and whether its caller is still there."""

from __future__ import annotations

import asyncio
from functools import partial

from starlette.types import Receive

from service.domain.inference import InferResult
from service.errors import DeadlineExceeded, InputTooLarge, InvalidInput
from service.router.answer import Answer

# A body that sends nothing for this long is given up.
IDLE_SECONDS = 60.0
Headers = dict[bytes, bytes]


class ClientLeft(Exception):
    """The connection closed before the answer."""


def check_declared_length(headers: Headers, limit: int) -> None:
    """Raises InputTooLarge for a Content-Length over `limit`, before any of the body is read."""
    declared = headers.get(b"content-length", b"0")
    if not declared.isdigit():
        raise InvalidInput(f"Content-Length is {declared[:40].decode('latin-1')!r}; send the body's count of bytes")
    if len(declared) > 15 or int(declared) > limit:
        raise too_large(declared[:40].decode("latin-1"), limit)


async def read_body(receive: Receive, limit: int) -> bytes:
    """The whole body. Raises InputTooLarge, DeadlineExceeded where it stalls, and ClientLeft."""
    message = await receive()
    chunks, size = [], 0
    while True:
        if message["type"] == "http.disconnect":
            raise ClientLeft
        chunk: bytes = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise too_large(f"over {limit}", limit)
        chunks.append(chunk)
        if not message.get("more_body", False):
            return b"".join(chunks)
        try:
            async with asyncio.timeout(IDLE_SECONDS):
                message = await receive()
        except TimeoutError as error:
            raise DeadlineExceeded(f"the body sent nothing for {IDLE_SECONDS:g} s after {size} bytes") from error


def too_large(got: str, limit: int) -> InputTooLarge:
    return InputTooLarge(f"the request has {got} bytes; send at most {limit}, or have OCTAVO_MAX_INFER_BYTES raised")


async def unless_left(answer: Answer, receive: Receive) -> InferResult:
    """The answer; ClientLeft where the caller closes the connection first, and its request is not run then."""
    watcher = asyncio.ensure_future(_left(receive))
    watcher.add_done_callback(partial(_cancel_unless_cancelled, answer))
    try:
        return await answer
    except asyncio.CancelledError:
        if watcher.done():
            raise ClientLeft from None
        raise
    finally:
        watcher.cancel()


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _cancel_unless_cancelled(answer: Answer, watcher: asyncio.Task[None]) -> None:
    if not watcher.cancelled():
        answer.cancel()
