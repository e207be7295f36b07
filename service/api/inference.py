"""POST /v2/models/{model}[/versions/{version}]/infer, straight on ASGI: seven steps, and no framework between them.

Refuses bodies over the limit and whatever the steps refuse, in the protocol's words.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable
from functools import partial

from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.content_coding import CODINGS, deflated, inflated, wanted_coding
from service.api.error_responses import INTERNAL, error_body, error_headers, status_of
from service.api.infer_request import HeadReader, decode_request, header_length, raw_head
from service.api.infer_response import EncodedResponse, encode_response
from service.api.json_tensors import parse_json
from service.api.v2_schemas import RequestHead, read_head
from service.domain.inference import InferRequest, InferResult
from service.errors import DeadlineExceeded, InputTooLarge, OctavoError
from service.router.route import RouteMetrics
from service.router.router import Router, Submitted

_log = logging.getLogger(__name__)
_PATH = re.compile(r"/v2/models/([^/]+)(?:/versions/([0-9]{1,18}))?/infer")
_KNOWN_PATHS = 1024
# A body that stalls this long is given up.
_BODY_SECONDS = 60.0
_JSON = (b"content-type", b"application/json")
_BINARY = (b"content-type", b"application/octet-stream")

Headers = list[tuple[bytes, bytes]]
Target = tuple[str, int | None]


class ClientLeft(Exception):
    """The connection closed before the answer."""


class InferenceEndpoint:
    """A plain ASGI application for infer requests. `max_body_bytes` bounds the body, inflated or not."""

    def __init__(self, router: Router, max_body_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._router = router
        self._max_body_bytes = max_body_bytes
        self._clock = clock
        self._heads = HeadReader()
        self._targets: dict[str, Target] = {}

    def target(self, path: str) -> Target | None:
        """Model and version that the path names; None where it is no infer path."""
        target = self._targets.get(path)
        if target is None:
            match = _PATH.fullmatch(path)
            if match is None:
                return None
            target = match[1], int(match[2]) if match[2] else None
            if len(self._targets) >= _KNOWN_PATHS:
                self._targets.clear()
            self._targets[path] = target
        return target

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        target = self.target(scope["path"])
        assert target is not None, "the application's routes let only infer paths through"
        await self.answer(target, scope, receive, send)

    async def answer(self, target: Target, scope: Scope, receive: Receive, send: Send) -> None:
        """Reads the request, answers it, and records both outcome and time."""
        model, version = target
        headers = dict(scope["headers"])
        submitted: Submitted | None = None
        began = self._clock()
        try:
            body = await self._body(headers, receive)
            began = self._clock()
            if b"content-encoding" in headers:
                body = await inflated(body, headers[b"content-encoding"], self._max_body_bytes)
            head, request = self._decode(target, headers, body)
            submitted = self._router.submit(model, version, request)
            if submitted.prompt:
                result = await submitted.answer
            else:
                result = await _unless_left(submitted.answer, receive)
            encoded = encode_response(model, submitted.datatypes, head, result)
        except ClientLeft:
            return
        except OctavoError as error:
            self._record_failure(target, submitted, error.code, began)
            if status_of(error) == 500:
                _log.error("inference failed", extra={"model": model, "code": error.code, "error": str(error)})
            await _send_error(send, status_of(error), error_body(str(error), error.code), error_headers(error))
            return
        except Exception:  # noqa: BLE001 (logged, and answered as a failure of our own)
            self._record_failure(target, submitted, "internal", began)
            _log.exception("inference crashed", extra={"model": model})
            await _send_error(send, 500, error_body(INTERNAL, "internal"), {})
            return
        metrics = submitted.route.metrics
        metrics.request.observe(self._clock() - began)
        metrics.answered.value += 1
        await _send(send, encoded, wanted_coding(headers.get(b"accept-encoding")))

    async def _body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        """The whole body. Raises InputTooLarge, DeadlineExceeded where it stalls, and ClientLeft."""
        limit = self._max_body_bytes
        declared = headers.get(b"content-length", b"0")
        if len(declared) > 15 or int(declared) > limit:
            raise _too_large(declared.decode("latin-1")[:40], limit)
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        body: bytes = message.get("body", b"")
        if message.get("more_body", False):
            body = await _rest_of_body(body, receive, limit)
        elif len(body) > limit:
            raise _too_large(str(len(body)), limit)
        return body

    def _decode(self, target: Target, headers: dict[bytes, bytes], body: bytes) -> tuple[RequestHead, InferRequest]:
        model, version = target
        length = header_length(headers.get(b"inference-header-content-length"), len(body))
        if length is None:
            head, start = read_head(parse_json(body)), len(body)
        elif length:
            head, start = self._heads.read(body[:length]), length
        else:
            inputs = self._router.routes(model, version).stable.replica.inputs
            head, start = raw_head(inputs, len(body), model), 0
        return head, decode_request(head, body, start, model)

    def _record_failure(self, target: Target, submitted: Submitted | None, code: str, began: float) -> None:
        """Under the model's stable route where the request came to none; a name nobody deployed makes no series."""
        if submitted is not None:
            metrics = submitted.route.metrics
        else:
            try:
                metrics = self._router.routes(*target).stable.route.metrics
            except OctavoError:
                metrics = RouteMetrics(("", "", "", ""))
        metrics.record_failure(code, self._clock() - began)


async def _rest_of_body(first: bytes, receive: Receive, limit: int) -> bytes:
    chunks, size = [first], len(first)
    more = True
    while more:
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                message = await receive()
        except TimeoutError as error:
            raise DeadlineExceeded(f"the body sent nothing for {_BODY_SECONDS:g} s after {size} bytes") from error
        if message["type"] == "http.disconnect":
            raise ClientLeft
        chunk = message.get("body", b"")
        chunks.append(chunk)
        size += len(chunk)
        if size > limit:
            raise _too_large(f"over {limit}", limit)
        more = message.get("more_body", False)
    return b"".join(chunks)


def _too_large(got: str, limit: int) -> InputTooLarge:
    return InputTooLarge(f"the request has {got} bytes; send at most {limit}, or have OCTAVO_MAX_INFER_BYTES raised")


async def _unless_left(answer: asyncio.Future[InferResult], receive: Receive) -> InferResult:
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


def _cancel_unless_cancelled(answer: asyncio.Future[InferResult], watcher: asyncio.Task[None]) -> None:
    if not watcher.cancelled():
        answer.cancel()


async def _send(send: Send, encoded: EncodedResponse, coding: bytes | None) -> None:
    headers: Headers = [_BINARY if encoded.header_length is not None else _JSON]
    if encoded.header_length is not None:
        headers.append((b"inference-header-content-length", b"%d" % encoded.header_length))
    parts, length = encoded.parts, encoded.length
    if coding is not None:
        parts = [await deflated(b"".join(parts), coding)]
        length = len(parts[0])
        headers.append((b"content-encoding", coding))
    headers.append((b"content-length", b"%d" % length))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for part in parts[:-1]:
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": parts[-1]})


async def _send_error(send: Send, status: int, body: bytes, extra: dict[str, str]) -> None:
    headers: Headers = [_JSON, (b"content-length", b"%d" % len(body))]
    headers += [(name.lower().encode(), value.encode()) for name, value in extra.items()]
    if status == 413:
        # The rest of the body is not read.
        headers.append((b"connection", b"close"))
    if status == 501:
        headers.append((b"accept-encoding", b", ".join(CODINGS)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class InferenceGate:
    """The outermost application: infer requests go to the endpoint, all others on to `app` with its middleware."""

    def __init__(self, app: ASGIApp, endpoint: InferenceEndpoint) -> None:
        self._app = app
        self._endpoint = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"].endswith("/infer"):
            target = self._endpoint.target(scope["path"])
            if target is not None:
                return await self._endpoint.answer(target, scope, receive, send)
        return await self._app(scope, receive, send)
