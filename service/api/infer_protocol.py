"""Answers infer requests inside uvicorn's HTTP protocol: without a task, a coroutine or a queue for each of them.

Takes plain requests only; any other (compressed, chunked, pipelined, upgraded) goes the usual way through ASGI.
"""

from __future__ import annotations

import asyncio
from functools import partial

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service.api.body_reader import ArrivingBody, BodyReader
from service.api.content_coding import wanted_coding
from service.api.inference import Exchange, InferenceEndpoint, Reply, Target
from service.domain.inference import InferResult

# Whatever changes how a body arrives or a reply is sent.
_SPECIAL_HEADERS = frozenset({b"expect", b"transfer-encoding", b"content-encoding", b"upgrade"})
# Up to here, having the parser copy the rest of a body costs less than leading it past.
_PARSED_BYTES = 64 * 1024


class DirectCycle:
    """Stands where uvicorn keeps the request in flight, so that pipelining, shutdown and disconnects see this one."""

    __slots__ = (
        "answer",
        "body",
        "disconnected",
        "headers",
        "keep_alive",
        "message_event",
        "response_complete",
        "target",
    )

    def __init__(self, target: Target, headers: dict[bytes, bytes], keep_alive: bool) -> None:
        self.target = target
        self.headers = headers
        self.keep_alive = keep_alive
        self.body = ArrivingBody(int(headers[b"content-length"]), headers.get(b"inference-header-content-length"))
        self.answer: asyncio.Future[InferResult] | None = None
        self.response_complete = False
        self.disconnected = False
        # uvicorn sets this when the connection is lost: what waits for an answer then is not run.
        self.message_event = self

    def set(self) -> None:
        if self.answer is not None:
            self.answer.cancel()


class InferProtocol(HttpToolsProtocol):
    """Bound to its endpoint by `infer_protocol`; given to uvicorn as its `http` setting."""

    endpoint: InferenceEndpoint
    _direct: DirectCycle | None = None

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        direct = self._direct
        if direct is not None and direct.body.missing > _PARSED_BYTES and not self.transport.is_closing():
            # The rest of the body comes without the parser between; it knows nothing that we do not.
            self.transport.set_protocol(BodyReader(self, self.transport, direct.body, self._body_complete))

    def on_headers_complete(self) -> None:
        self._direct = self._direct_cycle()
        if self._direct is None:
            super().on_headers_complete()
        else:
            self.cycle = self._direct  # type: ignore[assignment]

    def _direct_cycle(self) -> DirectCycle | None:
        if not self.url.endswith(b"/infer") or self.parser.get_method() != b"POST":
            return None
        # A second request on its way, or a caller that does not read its replies: uvicorn makes both wait.
        if (self.cycle is not None and not self.cycle.response_complete) or self.flow.write_paused:
            return None
        if self.parser.get_http_version() != "1.1" or self.root_path or self.limit_concurrency is not None:
            return None
        headers = dict(self.headers)
        if not _SPECIAL_HEADERS.isdisjoint(headers) or not _fits(headers, self.endpoint.max_body_bytes):
            return None
        if wanted_coding(headers.get(b"accept-encoding")) is not None:
            return None
        target = None if b"%" in self.url else self.endpoint.target(self.url.decode("latin-1"))
        if target is None:
            return None
        return DirectCycle(target, headers, self.parser.should_keep_alive())

    def on_body(self, body: bytes) -> None:
        if self._direct is None:
            super().on_body(body)
        else:
            self._direct.body.append(body)

    def on_message_complete(self) -> None:
        cycle, self._direct = self._direct, None
        if cycle is None:
            super().on_message_complete()
        else:
            self._begin(cycle)

    def _body_complete(self) -> None:
        """The body was read past the parser, which would wait for it: the next request gets a new one."""
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.on_message_complete()

    def _begin(self, cycle: DirectCycle) -> None:
        exchange = self.endpoint.exchange(cycle.target)
        try:
            submitted = self.endpoint.submit(exchange, cycle.headers, cycle.body.take())
        except Exception as error:  # noqa: BLE001 (answered, and logged where it is no refusal of ours)
            self._write(cycle, self.endpoint.refusal(exchange, error))
            return
        cycle.answer = submitted.answer
        submitted.answer.add_done_callback(partial(self._answered, cycle, exchange))

    def _answered(self, cycle: DirectCycle, exchange: Exchange, answer: asyncio.Future[InferResult]) -> None:
        if answer.cancelled():
            return
        error = answer.exception()
        try:
            if error is not None:
                raise error
            reply = self.endpoint.reply(exchange, answer.result())
        except Exception as failure:  # noqa: BLE001 (answered, and logged where it is no refusal of ours)
            reply = self.endpoint.refusal(exchange, failure)
        self._write(cycle, reply)

    def _write(self, cycle: DirectCycle, reply: Reply) -> None:
        cycle.response_complete = True
        transport = self.transport
        if transport.is_closing():
            return
        lines = [STATUS_LINE[reply.status]]
        for name, value in (*self.server_state.default_headers, *reply.headers):
            lines += (name, b": ", value, b"\r\n")
        if not cycle.keep_alive:
            lines.append(b"connection: close\r\n")
        lines.append(b"\r\n")
        lines.append(reply.parts[0])  # type: ignore[arg-type]
        transport.write(b"".join(lines))
        for part in reply.parts[1:]:
            transport.write(part)
        if not cycle.keep_alive:
            transport.close()
        self.on_response_complete()


def _fits(headers: dict[bytes, bytes], max_bytes: int) -> bool:
    declared = headers.get(b"content-length", b"")
    return declared.isdigit() and len(declared) < 15 and int(declared) <= max_bytes


def infer_protocol(endpoint: InferenceEndpoint) -> type[HttpToolsProtocol]:
    """The protocol class of a server whose infer requests `endpoint` answers: `uvicorn.Config(http=...)`."""
    return type("BoundInferProtocol", (InferProtocol,), {"endpoint": endpoint})
