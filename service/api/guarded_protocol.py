"""uvicorn's HTTP protocol, with bounds on what a connection may take: reads ahead of its answers, and idle time."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service.api.error_responses import error_body
from service.api.infer_body import IDLE_SECONDS

# So often in IDLE_SECONDS a connection is looked at.
_LOOKS = 4


class AnsweringFlow(FlowControl):
    """Reads on only where no request waits for the answer to another.

    uvicorn asks to read on with every answer, and whenever a request looks for its body: a caller that sends ahead
    would fill the memory.
    """

    def __init__(self, transport: asyncio.Transport, pipeline: deque[Any]) -> None:
        super().__init__(transport)
        self._pipeline = pipeline

    def resume_reading(self) -> None:
        # The last that waits reads on itself once it is begun: only of its body may there be more to come.
        if self.read_paused and not self._pipeline:
            super().resume_reading()


class GuardedProtocol(HttpToolsProtocol):
    """What each connection is held to, whatever its requests are."""

    # When the last answer left; None while a request is under way. One timer a connection looks at it, for one a
    # request would cost as much as parsing its head.
    _idle_from: float | None = None
    _idle_watch: asyncio.TimerHandle | None = None
    _watch: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = AnsweringFlow(transport, self.pipeline)
        self._look((), 0)

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._watch, self._idle_watch):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)
        # They are begun no more, and know the flow that knows them.
        self.pipeline.clear()

    @property
    def _progress(self) -> tuple[int, ...]:
        """What changes whenever something comes from the peer or goes to it."""
        return (self.transport.get_write_buffer_size(),)

    @property
    def _is_owed(self) -> bool:
        """Whether it is the peer's turn: to send a first request, or to take what was written."""
        return self.cycle is None or self.transport.get_write_buffer_size() > 0

    @property
    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _refuse(self, status: int, message: str) -> None:
        """Answers what is no request, unless another's answer is due first, and closes the connection."""
        in_body = not self.pipeline and getattr(self.cycle, "more_body", False) and not self.cycle.response_started
        if self._is_idle or in_body:
            body = error_body(message, "invalid_request")
            head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
            self.transport.write(b"".join((STATUS_LINE[status], head, body)))
        self.transport.close()

    def _look(self, before: tuple[int, ...], still: int) -> None:
        """Ends the connection where nothing moved in `IDLE_SECONDS`, at so many looks, and it is the peer's turn.

        From the connection's start to its end, for a transport that was told to close waits for its peer for ever.
        """
        progress = self._progress
        still = still + 1 if progress == before else 0
        if still >= _LOOKS and self._is_owed:
            self.transport.abort()
        else:
            self._watch = self.loop.call_later(IDLE_SECONDS / _LOOKS, self._look, progress, still)

    def _keep_alive(self) -> None:
        """What `on_response_complete` does where no request waits, with a timer that outlives the request."""
        self.server_state.total_requests += 1
        self.flow.resume_reading()
        self._idle_from = self.loop.time()
        if self._idle_watch is None:
            self._idle_watch = self.loop.call_later(self.timeout_keep_alive, self._close_idle)

    def _close_idle(self) -> None:
        self._idle_watch = None
        if self._idle_from is None:
            return
        left = self._idle_from + self.timeout_keep_alive - self.loop.time()
        if left > 0:
            self._idle_watch = self.loop.call_later(left, self._close_idle)
        else:
            self.transport.close()
