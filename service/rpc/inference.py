"""ModelInfer: the steps of an inference over HTTP, between the bytes of a request and those of its response.

Records each request under the series that HTTP counts its own in.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from grpc.aio import ServicerContext

from service.domain.inference import InferResult
from service.protocol.recording import record_answer, request_metrics
from service.protocol.tracing import Tracer
from service.router.answer import Answer
from service.router.router import Router, Submitted
from service.rpc.request import HeadReader, InferHead, decode_request, target_of
from service.rpc.response import encode_response
from service.rpc.status import Refusal, refusal_of
from service.rpc.wire import InferMessage, Part, take_apart

Context = ServicerContext[bytes, bytes]
# Far more than a stop holds answers back.
_LONG_SECONDS = 1.0


@dataclass(slots=True, eq=False)
class Call:
    """One request between its arrival and its response; what is None was not come to, or not asked for.

    `queued` is when it was decoded, noted while requests are traced.
    """

    began: float
    request: InferMessage | None = None
    head: InferHead | None = None
    submitted: Submitted | None = None
    queued: float | None = None
    timeout_seconds: float | None = None


class Inference:
    """Decodes, submits, encodes and records."""

    def __init__(self, router: Router, tracer: Tracer, clock: Callable[[], float] = time.monotonic) -> None:
        self._router = router
        self._tracer = tracer
        self._clock = clock
        self._heads = HeadReader()
        # While the server begins to stop: what answers wait for.
        self._held: asyncio.Event | None = None

    @asynccontextmanager
    async def holding(self) -> AsyncIterator[None]:
        """Answers nobody within, unless a time limit is near: whoever waits for an answer sends no further call."""
        self._held = asyncio.Event()
        try:
            yield
        finally:
            self._held.set()

    def call(self) -> Call:
        return Call(self._clock())

    def submit(self, call: Call, message: bytes, seconds: float | None) -> Answer:
        """Decodes and queues a request whose caller waits for `seconds` at most.

        Raises what decoding, admission and the queue raise. Who cancels the answer frees its place.
        """
        call.request = take_apart(message)
        call.head = self._heads.read(call.request)
        request = decode_request(call.head.head, call.request)
        if seconds is not None:
            asked = request.timeout_seconds
            request = request._replace(timeout_seconds=seconds if asked is None else min(asked, seconds))
        if self._tracer.active:
            call.queued = self._clock()
        call.timeout_seconds = request.timeout_seconds
        call.submitted = self._router.submit(*call.head.target, request)
        return call.submitted.answer

    def respond(self, call: Call, result: InferResult, final: bool = False) -> list[Part]:
        """Encodes the answer and records it."""
        request, head, submitted = call.request, call.head, call.submitted
        assert request is not None
        assert head is not None
        assert submitted is not None
        parts = encode_response(head, request.id, submitted, result, final)
        record_answer(submitted, self._clock() - call.began)
        if call.queued is not None:
            self._tracer.answered(head.target[0], request.id, call.began, call.queued, result)
        return parts

    def refuse(self, call: Call, error: Exception) -> Refusal:
        """The status of a request that failed, which is recorded."""
        refusal = refusal_of(error, "ModelInfer")
        target = call.head.target if call.head is not None else ("", None)
        if call.head is None and call.request is not None:
            target = target_of(call.request)
        request_metrics(self._router, target, call.submitted).record_failure(refusal.code, self._clock() - call.began)
        return refusal

    def left(self, call: Call) -> None:
        """Records that nobody waits for the answer."""
        if call.submitted is not None:
            call.submitted.route.metrics.record_left()

    async def infer(self, message: bytes, context: Context) -> bytes:
        """The method itself. gRPC cancels it where the caller leaves or its deadline passes."""
        call = self.call()
        try:
            result = await self.submit(call, message, context.time_remaining())
            answer: bytes | Refusal = b"".join(self.respond(call, result))
        except asyncio.CancelledError:
            self.left(call)
            raise
        except Exception as error:  # noqa: BLE001 (answered, and logged where it is no refusal of ours)
            answer = self.refuse(call, error)
        if self._held is not None and self._can_wait(call):
            await self._held.wait()
        if isinstance(answer, bytes):
            return answer
        # The context keeps the error that ends the call, and with it this frame.
        del call, message
        await context.abort(answer.status, answer.message, answer.metadata)

    def _can_wait(self, call: Call) -> bool:
        own = None if call.submitted is None else call.submitted.replica.policy.timeout_seconds
        limits = [limit for limit in (call.timeout_seconds, own) if limit is not None]
        return not limits or min(limits) - (self._clock() - call.began) > _LONG_SECONDS
