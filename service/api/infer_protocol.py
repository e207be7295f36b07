"""Answers infer requests inside uvicorn's HTTP protocol: without a task, a coroutine or a queue for each of them.

Takes plain requests only; any other (compressed, chunked, pipelined, upgraded) goes the usual way through ASGI. Of
every request it bounds the head, and has one given up that stalls before its end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service.api.body_reader import SCRATCH_BYTES, ArrivingBody, ConnectionReader
from service.api.direct_cycle import DirectCycle
from service.api.guarded_protocol import GuardedProtocol
from service.api.inference import Body, Exchange, InferenceEndpoint, Reply
from service.api.plain_head import PlainHead, plain_head
from service.router.answer import Answer

# Up to here, having the parser copy the rest of a body costs less than leading it past.
_PARSED_BYTES = 16 * 1024
# What the parser may take in after a first read without a head, a piece of a body or an end: it has no limit itself.
_MAX_HEAD_BYTES = 64 * 1024


class InferProtocol(GuardedProtocol):
    """Bound to its endpoint by `infer_protocol`; given to uvicorn as its `http` setting."""

    endpoint: InferenceEndpoint
    scratch: memoryview
    # Told how many connections are open.
    counted: Callable[[int], None]
    # A request whose body arrives.
    _direct: DirectCycle | None = None
    _body: ArrivingBody | None = None
    # The head of the last plain request; None where the last one was none.
    _plain: PlainHead | None = None
    # Whether the next byte begins a request.
    _between = True
    # Whether the parser read a head whose body went past it.
    _parser_waits = False
    # Bytes since the parser last made something of them, and whether it did so of the last ones.
    _held = 0
    _advanced = False
    _upgrading = False
    _reads = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.counted(len(self.connections))
        self._reader = ConnectionReader(self, self.scratch, self._body_complete)
        transport.set_protocol(self._reader)

    def data_received(self, data: bytes | memoryview) -> None:
        if self.timeout_keep_alive_task is not None:
            self._unset_keepalive_if_required()
        self._reads += 1
        begins, known = self._between, self._plain
        if begins and known is not None and known.begins(data) and self._is_free:
            self._begin_again(known, data)
            return
        rest = self._parse(data)
        while rest:
            rest = self._parse(rest)
        body, plain = self._body, self._plain
        if begins and plain is not None and plain is not known:
            plain.note(data, plain.body_bytes if body is None else body.filled)
        if (body is None and not self._held) or self.transport.is_closing():
            return
        if body is not None and body.missing > _PARSED_BYTES:
            # The rest of the body comes without the parser between; it knows nothing that we do not.
            self._parser_waits = True
            self._reader.lead_past(body)
        elif self._held > _MAX_HEAD_BYTES:
            self._refuse(431, f"the request's head is over {_MAX_HEAD_BYTES} bytes; send fewer and shorter headers")

    def _begin_again(self, plain: PlainHead, data: bytes | memoryview) -> None:
        """The request that `data` begins, by a head that needs no parsing."""
        self._idle_from = None
        # Line ends between requests are nothing, as they are to the parser where a head follows.
        self._held = 0
        assert plain.text is not None
        came = data[len(plain.text) :]
        self.cycle = cycle = DirectCycle(plain.target, plain.headers, plain.keep_alive)  # type: ignore[assignment]
        if len(came) == plain.body_bytes:
            self._begin(cycle, bytes(came))
            return
        self._between = False
        self._direct = cycle
        self._body = self._arriving(plain)
        self._body.append(came)
        self._reader.lead_past(self._body)

    def _parse(self, data: bytes | memoryview) -> bytes:
        """Feeds the parser, and gives what it must be fed again: it stops at an offer to upgrade."""
        self._advanced = False
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            return self._without_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            self.logger.warning("Invalid HTTP request received.")
            self._refuse(400, f"the bytes are no HTTP request: {error}; send HTTP/1.1")
        self._held = 0 if self._advanced else self._held + len(data)
        return b""

    def _without_upgrade(self, rest: bytes | memoryview) -> bytes:
        """A client may offer HTTP/2 with any request; the offer is passed over, and the request answered as it is."""
        self._upgrading = False
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        if method == b"CONNECT":
            self._refuse(400, "CONNECT asks for a tunnel, which is not offered; send the request itself")
            return b""
        lines = [b"%b %b HTTP/%b\r\n" % (method, self.url, version)]
        lines += [b"%b: %b\r\n" % header for header in self.headers if header[0] != b"upgrade"]
        self._new_parser()
        return b"".join((*lines, b"\r\n", rest))

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.counted(len(self.connections))
        # They know each other, and an upload cut short may be large.
        del self._reader

    @property
    def _progress(self) -> tuple[int, ...]:
        """With reads of the parser, and bytes of the body that another reader may fill."""
        return *super()._progress, self._reads, self._body.filled if self._body is not None else 0

    @property
    def _is_owed(self) -> bool:
        """Also where a request was cut short."""
        return super()._is_owed or self._direct is not None or (self._held > 0 and self._is_idle)

    def on_message_begin(self) -> None:
        self._between = False
        # ASGI's scope is made where ASGI is gone through.
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_headers_complete(self) -> None:
        self._advanced = True
        # Not where bytes come: those that end a request may begin the next, and half a head keeps nobody awake.
        self._idle_from = None
        self._upgrading = self.parser.should_upgrade()
        if self._upgrading:
            return
        self._direct = self._direct_cycle()
        if self._direct is None:
            url, headers, expects = self.url, self.headers, self.expect_100_continue
            super().on_message_begin()
            self.url, self.expect_100_continue = url, expects
            self.headers += headers
            super().on_headers_complete()
            # What comes as a trailer must change no head that was acted upon.
            self.headers = []
        else:
            self.cycle = self._direct  # type: ignore[assignment]

    def _direct_cycle(self) -> DirectCycle | None:
        self._plain = None
        if not self.url.endswith(b"/infer") or self.parser.get_method() != b"POST":
            return None
        if not self._is_free or self.parser.get_http_version() != "1.1":
            return None
        if self.root_path or self.limit_concurrency is not None:
            return None
        self._plain = plain = plain_head(self.endpoint, self.url, self.headers, self.parser.should_keep_alive())
        if plain is None:
            return None
        self._body = self._arriving(plain)
        return DirectCycle(plain.target, plain.headers, plain.keep_alive)

    @property
    def _is_free(self) -> bool:
        """Not with a second request on its way, or a caller that does not read its replies: uvicorn makes both wait."""
        return self._is_idle and not self.flow.write_paused

    def _arriving(self, plain: PlainHead) -> ArrivingBody:
        header_length = plain.headers.get(b"inference-header-content-length")
        return ArrivingBody(plain.body_bytes, header_length, self.endpoint.space)

    def on_body(self, body: bytes) -> None:
        self._advanced = True
        if self._body is None:
            super().on_body(body)
        else:
            self._body.append(body)

    def on_message_complete(self) -> None:
        self._advanced = True
        if self._upgrading:
            return
        self._between = True
        if self._direct is None:
            super().on_message_complete()
        else:
            self._body_complete()

    def _body_complete(self) -> None:
        """Also of a body that was read past the parser, which would wait for it: the next request gets a new one."""
        if self._parser_waits:
            self._parser_waits = False
            self._new_parser()
        self._between = True
        cycle, self._direct = self._direct, None
        body, self._body = self._body, None
        assert cycle is not None
        assert body is not None
        self._begin(cycle, body.take())

    def _new_parser(self) -> None:
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)

    def _begin(self, cycle: DirectCycle, body: Body) -> None:
        exchange = self.endpoint.exchange(cycle.target)
        try:
            submitted = self.endpoint.submit(exchange, cycle.headers, body)
        except Exception as error:  # noqa: BLE001 (answered, and logged where it is no refusal of ours)
            self._write(cycle, self.endpoint.refusal(exchange, error))
            return
        cycle.answer = submitted.answer
        submitted.answer.add_done_callback(partial(self._answered, cycle, exchange))

    def _answered(self, cycle: DirectCycle, exchange: Exchange, answer: Answer) -> None:
        # An idle connection keeps no answer alive.
        cycle.answer = None
        try:
            reply = self.endpoint.reply(exchange, answer.result())
        except asyncio.CancelledError:
            return self.endpoint.left(exchange)
        except Exception as failure:  # noqa: BLE001 (answered, and logged where it is no refusal of ours)
            reply = self.endpoint.refusal(exchange, failure)
        self._write(cycle, reply)

    def _write(self, cycle: DirectCycle, reply: Reply) -> None:
        cycle.response_complete = True
        transport = self.transport
        if transport.is_closing():
            return
        end = b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n"
        transport.write(b"".join((STATUS_LINE[reply.status], reply.head, end, reply.parts[0])))
        for part in reply.parts[1:]:
            transport.write(part)
        if not cycle.keep_alive:
            transport.close()
        if self.pipeline or transport.is_closing():
            self.on_response_complete()
        else:
            self._keep_alive()


def infer_protocol(
    endpoint: InferenceEndpoint, counted: Callable[[int], None] = lambda connections: None
) -> type[HttpToolsProtocol]:
    """The protocol class of a server whose infer requests `endpoint` answers: `uvicorn.Config(http=...)`.

    `counted` is told how many connections are open whenever one begins or ends.
    """
    bound = {"endpoint": endpoint, "scratch": memoryview(bytearray(SCRATCH_BYTES)), "counted": staticmethod(counted)}
    return type("BoundInferProtocol", (InferProtocol,), bound)
