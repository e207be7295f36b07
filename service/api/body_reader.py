"""Reads a request's body of known length from the socket straight to where its tensors will be used.

Gives up a body that stalls. Refuses nothing else: the length was checked before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np

from service.api.infer_body import IDLE_SECONDS

# Tensors begin where the widest loads of a processor like them to.
_ALIGNMENT = 64


class ArrivingBody:
    """`length` bytes, of which the first `header_length` are JSON and the rest tensors."""

    __slots__ = ("_filled", "_header_length", "_length", "_space", "_whole")

    def __init__(self, length: int, header_length: bytes | None) -> None:
        self._length = length
        # A length that cannot be is refused with the head; here it only moves where the body lies.
        known = header_length is not None and header_length.isdigit() and len(header_length) < 20
        self._header_length = int(header_length) if header_length and known else 0
        self._whole: bytes | None = None
        self._space: memoryview | None = None
        self._filled = 0

    @property
    def filled(self) -> int:
        return self._filled

    @property
    def missing(self) -> int:
        return self._length - self._filled

    def append(self, chunk: bytes) -> None:
        """A body that comes in one piece stays the piece it is."""
        if len(chunk) == self._length:
            self._whole = chunk
        else:
            self.rest()[: len(chunk)] = chunk
        self._filled += len(chunk)

    def rest(self) -> memoryview:
        """The space of what has not come yet; `advance` tells how much of it was filled."""
        if self._space is None:
            shift = -self._header_length % _ALIGNMENT
            aligned = np.empty(self._length + 2 * _ALIGNMENT, np.uint8)
            start = (-aligned.ctypes.data % _ALIGNMENT) + shift
            self._space = aligned.data[start : start + self._length]
        return self._space[self._filled :]

    def advance(self, count: int) -> None:
        self._filled += count

    def take(self) -> bytes | memoryview:
        """The whole body; it is not kept here."""
        whole, self._whole = self._whole, None
        space, self._space = self._space, None
        if whole is not None:
            return whole
        return space if space is not None else b""


class BodyReader(asyncio.BufferedProtocol):
    """Takes the connection over from `http` until the body is whole, then hands it back and calls `complete`."""

    def __init__(
        self, http: asyncio.Protocol, transport: asyncio.Transport, body: ArrivingBody, complete: Callable[[], None]
    ) -> None:
        self._http = http
        self._transport = transport
        self._body = body
        self._complete = complete
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(IDLE_SECONDS, self._give_up, body.filled)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._body.rest()

    def buffer_updated(self, nbytes: int) -> None:
        self._body.advance(nbytes)
        if not self._body.missing:
            self._timer.cancel()
            self._transport.set_protocol(self._http)
            self._complete()

    def _give_up(self, filled: int) -> None:
        if self._body.filled == filled:
            self._transport.close()
        else:
            self._timer = self._loop.call_later(IDLE_SECONDS, self._give_up, self._body.filled)

    def eof_received(self) -> Any:
        return self._http.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        self._http.connection_lost(exc)

    def pause_writing(self) -> None:
        self._http.pause_writing()

    def resume_writing(self) -> None:
        self._http.resume_writing()
