"""POST /v2/models/{model}[/versions/{version}]/infer: seven steps, and no framework between them.

Refuses bodies over the limit and whatever the steps refuse, in the protocol's words.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.body_reader import SplitBody
from service.api.content_coding import CODINGS, deflated, inflated, wanted_coding
from service.api.error_responses import cut_off, error_body, error_headers, status_of
from service.api.infer_body import ClientLeft, Headers, check_declared_length, read_body, unless_left
from service.api.infer_request import HeadReader, decode_raw, decode_request, header_length, raw_head
from service.api.infer_response import encode_response
from service.api.json_heads import JsonHeads
from service.api.tensor_space import TensorSpace
from service.domain.inference import InferRequest, InferResult
from service.errors import INTERNAL, OctavoError
from service.protocol.heads import RequestHead
from service.protocol.recording import Target, record_answer, request_metrics
from service.protocol.tracing import Tracer
from service.router.router import Router, Submitted

_log = logging.getLogger(__name__)
_PATH = re.compile(r"/v2/models/([^/]+)(?:/versions/([0-9]{1,18}))?/infer")
_KNOWN_PATHS = 1024
# Longer than the path of any model that can be deployed.
_KNOWN_PATH_CHARACTERS = 512
_JSON = b"content-type: application/json\r\ncontent-length: %d\r\n"
_BINARY = b"content-type: application/octet-stream\r\ncontent-length: %d\r\ninference-header-content-length: %d\r\n"

Body = bytes | memoryview | SplitBody


@dataclass(slots=True, eq=False)
class Exchange:
    """One request between its body's arrival and its reply; `submitted` None where it got no further than decoding.

    `queued` is when it was decoded, noted while requests are traced.
    """

    target: Target
    began: float
    head: RequestHead | None = None
    submitted: Submitted | None = None
    queued: float | None = None


@dataclass(slots=True, eq=False)
class Reply:
    """Status, the lines of its headers with the content's length among them, and the body in parts."""

    status: int
    head: bytes
    parts: list[bytes | memoryview]

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """The lines as ASGI has them."""
        split = [line.split(b": ", 1) for line in self.head.splitlines()]
        return [(name, value) for name, value in split]


class InferenceEndpoint:
    """Decodes, submits, encodes and records. `max_body_bytes` bounds a request's body, inflated or not."""

    def __init__(
        self, router: Router, max_body_bytes: int, tracer: Tracer, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.max_body_bytes = max_body_bytes
        self.space = TensorSpace()
        self._router = router
        self._tracer = tracer
        self._clock = clock
        self._heads = HeadReader()
        self._json_heads = JsonHeads()
        self._targets: dict[str, Target] = {}

    def target(self, path: str) -> Target | None:
        """Model and version that the path names; None where it is no infer path."""
        target = self._targets.get(path)
        if target is None:
            match = _PATH.fullmatch(path)
            if match is None:
                return None
            target = match[1], int(match[2]) if match[2] else None
            if len(path) > _KNOWN_PATH_CHARACTERS:
                return target
            if len(self._targets) >= _KNOWN_PATHS:
                self._targets.clear()
            self._targets[path] = target
        return target

    def exchange(self, target: Target) -> Exchange:
        return Exchange(target, self._clock())

    def submit(self, exchange: Exchange, headers: Headers, body: Body) -> Submitted:
        """Decodes the body and queues the request. Raises what decoding, admission and the queue raise."""
        model, version = exchange.target
        exchange.head, request = self.decode(exchange.target, headers, body)
        if self._tracer.active:
            exchange.queued = self._clock()
        exchange.submitted = submitted = self._router.submit(model, version, request)
        return submitted

    def decode(self, target: Target, headers: Headers, body: Body) -> tuple[RequestHead, InferRequest]:
        """The head and the tensors of a body. Raises what its parts refuse, and NotFound for a raw one."""
        model, version = target
        if isinstance(body, SplitBody):
            head = self._heads.read(body.head)
            return head, decode_request(head, body.tensors, 0, model, self.space)
        length = header_length(headers.get(b"inference-header-content-length"), len(body))
        if length is None:
            return self._json_heads.decode(body, model, self.space)
        if length:
            head = self._heads.read(bytes(body[:length]))
            return head, decode_request(head, body, length, model, self.space)
        stable = self._router.routes(model, version).stable
        head = raw_head(stable.replica.inputs, len(body), model, stable.route.batched)
        return head, decode_raw(head, body, model)

    def reply(self, exchange: Exchange, result: InferResult) -> Reply:
        """Encodes the answer and records it."""
        head, submitted = exchange.head, exchange.submitted
        assert head is not None
        assert submitted is not None
        encoded = encode_response(submitted.route, submitted.datatypes, head, result)
        if encoded.header_length is None:
            lines = _JSON % encoded.length
        else:
            lines = _BINARY % (encoded.length, encoded.header_length)
        record_answer(submitted, self._clock() - exchange.began)
        if exchange.queued is not None:
            self._tracer.answered(exchange.target[0], head.id, exchange.began, exchange.queued, result)
        return Reply(200, lines, encoded.parts)

    def refusal(self, exchange: Exchange, error: Exception) -> Reply:
        """The reply to a request that failed, which is recorded; an error that is not Octavo's is logged whole."""
        if not isinstance(error, OctavoError):
            _log.error("inference crashed", extra={"model": exchange.target[0]}, exc_info=error)
            self._record_failure(exchange, "internal")
            return _error_reply(500, error_body(INTERNAL, "internal"))
        status = status_of(error)
        if status == 500:
            _log.error("inference failed", extra={"model": exchange.target[0], "error": str(error)})
        self._record_failure(exchange, error.code)
        reply = _error_reply(status, error_body(str(error), error.code))
        for name, value in error_headers(error).items():
            reply.head += f"{name.lower()}: {value}\r\n".encode()
        return reply

    def left(self, exchange: Exchange) -> None:
        """Records that nobody waits for the answer; a caller that left before its body's end made no request."""
        if exchange.submitted is not None:
            exchange.submitted.route.metrics.record_left()

    def _record_failure(self, exchange: Exchange, code: str) -> None:
        metrics = request_metrics(self._router, exchange.target, exchange.submitted)
        metrics.record_failure(code, self._clock() - exchange.began)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        target = self.target(scope["path"])
        assert target is not None, "only infer paths lead here"
        headers = dict(scope["headers"])
        exchange = self.exchange(target)
        coding = wanted_coding(headers.get(b"accept-encoding"))
        try:
            reply = await self._answer(exchange, headers, receive)
            if coding is not None:
                reply = await _compressed(reply, coding)
        except ClientLeft:
            return self.left(exchange)
        except asyncio.CancelledError:
            # A stop cannot wait for it any longer, and nothing else cancels it.
            reply = self.refusal(exchange, cut_off())
        except Exception as error:  # noqa: BLE001 (answered, and logged where it is no refusal of ours)
            reply = self.refusal(exchange, error)
        await _send(send, reply)

    async def _answer(self, exchange: Exchange, headers: Headers, receive: Receive) -> Reply:
        check_declared_length(headers, self.max_body_bytes)
        body = await read_body(receive, self.max_body_bytes)
        exchange.began = self._clock()
        if b"content-encoding" in headers:
            body = await inflated(body, headers[b"content-encoding"], self.max_body_bytes)
        submitted = self.submit(exchange, headers, body)
        result = await (submitted.answer if submitted.prompt else unless_left(submitted.answer, receive))
        return self.reply(exchange, result)


class InferenceGate:
    """The outermost application: infer requests go to the endpoint, all others on to `app` with its middleware."""

    def __init__(self, app: ASGIApp, endpoint: InferenceEndpoint) -> None:
        self._app = app
        self._endpoint = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_infer = (
            scope["type"] == "http"
            and scope["method"] == "POST"
            and scope["path"].endswith("/infer")
            and self._endpoint.target(scope["path"]) is not None
        )
        await (self._endpoint if is_infer else self._app)(scope, receive, send)


def _error_reply(status: int, body: bytes) -> Reply:
    lines = _JSON % len(body)
    if status == 413:
        # The rest of the body is not read.
        lines += b"connection: close\r\n"
    elif status == 501:
        lines += b"accept-encoding: %b\r\n" % b", ".join(CODINGS)
    return Reply(status, lines, [body])


async def _compressed(reply: Reply, coding: bytes) -> Reply:
    body = await deflated(b"".join(reply.parts), coding)
    kept = [line for line in reply.head.splitlines(keepends=True) if not line.startswith(b"content-length:")]
    lines = b"%bcontent-length: %d\r\ncontent-encoding: %b\r\n" % (b"".join(kept), len(body), coding)
    return Reply(reply.status, lines, [body])


async def _send(send: Send, reply: Reply) -> None:
    await send({"type": "http.response.start", "status": reply.status, "headers": reply.headers})
    for part in reply.parts[:-1]:
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": reply.parts[-1]})
