"""ModelStreamInfer: requests as they come, each answered when it is ready, in whatever order; a failed one by a text.

A stream holds a bounded number of unanswered requests, and frees their places when its caller leaves.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial

from grpc import StatusCode

from service.router.answer import Answer
from service.rpc.generated.inference_pb2 import ModelInferResponse, ModelStreamInferResponse
from service.rpc.inference import Call, Context, Inference
from service.rpc.wire import Part, in_stream

# Of one stream, until their responses are written: a caller that does not read them is not read either.
_MAX_UNANSWERED = 1024


class Streams:
    """All open streams of the server."""

    def __init__(self, inference: Inference, max_unanswered: int = _MAX_UNANSWERED) -> None:
        self._inference = inference
        self._max_unanswered = max_unanswered
        self._open: set[Stream] = set()
        self._stopping = False

    async def infer(self, requests: AsyncIterator[bytes], context: Context) -> None:
        """The method itself."""
        stream = Stream(self._inference, requests, context, self._max_unanswered)
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
    """One stream. `_written` holds the responses to be written, and None behind the last."""

    def __init__(
        self, inference: Inference, requests: AsyncIterator[bytes], context: Context, max_unanswered: int
    ) -> None:
        self._inference = inference
        self._requests = requests
        self._context = context
        self._places = asyncio.Semaphore(max_unanswered)
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
                await self._context.write(b"".join(parts))
                self._places.release()
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

    async def _read(self) -> None:
        async for message in self._requests:
            await self._places.acquire()
            self._submit(message)

    def _submit(self, message: bytes) -> None:
        call = self._inference.call()
        try:
            answer = self._inference.submit(call, message, self._context.time_remaining())
        except Exception as error:  # noqa: BLE001 (answered, and logged where it is no refusal of ours)
            self._written.put_nowait(self._error(call, error))
            return
        self._answers.add(answer)
        answer.add_done_callback(partial(self._answered, call))

    def _answered(self, call: Call, answer: Answer) -> None:
        self._answers.discard(answer)
        if answer.cancelled():
            return
        error = answer.exception()
        try:
            if error is not None:
                raise error
            self._written.put_nowait(in_stream(self._inference.respond(call, answer.result(), final=True)))
        except Exception as failure:  # noqa: BLE001 (answered, and logged where it is no refusal of ours)
            self._written.put_nowait(self._error(call, failure))
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
