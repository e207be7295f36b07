"""ModelStreamInfer: requests as they come, each answered when it is ready, in whatever order; a failed one by a text.

A stream holds unanswered requests and unread answers within a number and a size, and frees their places when its
caller leaves.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial

from grpc import StatusCode
from grpc.aio import InternalError

from service.router.answer import Answer
from service.rpc.generated.inference_pb2 import ModelInferResponse, ModelStreamInferResponse
from service.rpc.inference import Call, Context, Inference
from service.rpc.wire import Part, in_stream

# Of one stream, until their responses are written: a caller that does not read them is not read either.
_MAX_UNANSWERED = 1024
# The same in bytes; one request of any size is always taken.
_MAX_HELD_BYTES = 64 * 1024 * 1024


class Streams:
    """All open streams of the server."""

    def __init__(
        self, inference: Inference, max_unanswered: int = _MAX_UNANSWERED, max_held_bytes: int = _MAX_HELD_BYTES
    ) -> None:
        self._inference = inference
        self._max_unanswered = max_unanswered
        self._max_held_bytes = max_held_bytes
        self._open: set[Stream] = set()
        self._stopping = False

    async def infer(self, requests: AsyncIterator[bytes], context: Context) -> None:
        """The method itself."""
        stream = Stream(self._inference, requests, context, (self._max_unanswered, self._max_held_bytes))
        self._open.add(stream)
        if self._stopping:
            stream.stop()
        try:
            await stream.run()
        finally:
            self._open.discard(stream)

    def stop(self) -> None:
        """Reads no more requests; each stream ends, as unavailable, when its last one is answered."""
        self._stopping = True
        for stream in self._open:
            stream.stop()


class Stream:
    """One stream. `_written` holds the responses to be written, and None behind the last.

    `_held` is the size in bytes of those, and of what is unanswered: each request counts as the newest answer, or as
    itself where that is more.
    """

    def __init__(
        self, inference: Inference, requests: AsyncIterator[bytes], context: Context, most: tuple[int, int]
    ) -> None:
        """`most`: how many requests may be unanswered, and how many bytes held."""
        self._inference = inference
        self._requests = requests
        self._context = context
        self._places = asyncio.Semaphore(most[0])
        self._max_held_bytes = most[1]
        self._held = 0
        self._newest = 0
        self._room = asyncio.Event()
        self._answers: set[Answer] = set()
        self._written: asyncio.Queue[list[Part] | None] = asyncio.Queue()
        self._reading: asyncio.Task[None] | None = None
        self._stopped = False

    async def run(self) -> None:
        """Until the caller has sent its last request and got its last response, or leaves."""
        self._reading = asyncio.create_task(self._read())
        if self._stopped:
            self._reading.cancel()
        self._reading.add_done_callback(lambda _: self._end_if_done())
        try:
            while (parts := await self._written.get()) is not None:
                await self._write(b"".join(parts))
        finally:
            self._reading.cancel()
            # Each leaves the set as it is cancelled.
            for answer in [*self._answers]:
                answer.cancel()
        if self._stopped:
            await self._context.abort(StatusCode.UNAVAILABLE, "Server is stopping; send what is unanswered elsewhere")
        with suppress(asyncio.CancelledError):
            await self._reading

    def stop(self) -> None:
        self._stopped = True
        if self._reading is not None:
            self._reading.cancel()

    async def _write(self, message: bytes) -> None:
        try:
            await self._context.write(message)
        except InternalError:
            # The library's own, where the caller has left and the handler is about to be told; no fault of anyone's.
            raise asyncio.CancelledError from None
        self._places.release()
        self._release(len(message))

    async def _read(self) -> None:
        async for message in self._requests:
            await self._places.acquire()
            while self._held >= self._max_held_bytes:
                self._room.clear()
                await self._room.wait()
            self._submit(message)

    def _release(self, size: int) -> None:
        self._held -= size
        self._room.set()

    def _put(self, parts: list[Part]) -> None:
        size = sum(map(len, parts))
        self._held += size
        self._newest = size
        self._written.put_nowait(parts)

    def _submit(self, message: bytes) -> None:
        call = self._inference.call()
        try:
            answer = self._inference.submit(call, message, self._context.time_remaining())
        except Exception as error:  # noqa: BLE001 (answered, and logged where it is no refusal of ours)
            self._put(self._error(call, error))
            return
        self._answers.add(answer)
        size = max(len(message), self._newest)
        self._held += size
        answer.add_done_callback(partial(self._answered, call, size))

    def _answered(self, call: Call, size: int, answer: Answer) -> None:
        self._answers.discard(answer)
        self._release(size)
        if answer.cancelled():
            return self._inference.left(call)
        try:
            self._put(in_stream(self._inference.respond(call, answer.result(), final=True)))
        except Exception as failure:  # noqa: BLE001 (answered, and logged where it is no refusal of ours)
            self._put(self._error(call, failure))
        self._end_if_done()

    def _end_if_done(self) -> None:
        if self._reading is not None and self._reading.done() and not self._answers:
            self._written.put_nowait(None)

    def _error(self, call: Call, error: Exception) -> list[Part]:
        """Names the request by its id, for the stream goes on."""
        refusal = self._inference.refuse(call, error)
        response = ModelInferResponse(id=call.request.id if call.request is not None else "")
        response.parameters["triton_final_response"].bool_param = True
        message = ModelStreamInferResponse(error_message=refusal.message, infer_response=response)
        return [message.SerializeToString()]
