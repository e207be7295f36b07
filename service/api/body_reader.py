"""Reads a connection: heads and short bodies for the parser, a long body straight to where its tensors are used.

Refuses nothing: a body's length was checked before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np

# Tensors begin where the widest loads of a processor like them to.
_ALIGNMENT = 64
# A request that fits in needs one read; of a long body that much at most is copied twice.
_SCRATCH = memoryview(bytearray(32 * 1024))


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
            start = (-aligned.__array_interface__["data"][0] % _ALIGNMENT) + shift
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


class ConnectionReader(asyncio.BufferedProtocol):
    """What the transport hands bytes to; all else goes on to `http`, whose `data_received` must not keep its argument.

    All connections share one scratch space: an event loop fills a buffer and tells so without a turn between.
    """

    __slots__ = ("_body", "_complete", "_http")

    def __init__(self, http: asyncio.Protocol) -> None:
        self._http = http
        self._body: ArrivingBody | None = None
        self._complete: Callable[[], None] | None = None

    def lead_past(self, body: ArrivingBody, complete: Callable[[], None]) -> None:
        """What comes next is the rest of `body`: `complete` is called, once, when it is whole."""
        self._body, self._complete = body, complete

    def get_buffer(self, sizehint: int) -> memoryview:
        return _SCRATCH if self._body is None else self._body.rest()

    def buffer_updated(self, nbytes: int) -> None:
        body = self._body
        if body is None:
            self._http.data_received(_SCRATCH[:nbytes])  # type: ignore[arg-type]
            return
        body.advance(nbytes)
        if not body.missing:
            complete, self._body, self._complete = self._complete, None, None
            assert complete is not None
            complete()

    def eof_received(self) -> Any:
        return self._http.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._http.connection_lost(exc)

    def pause_writing(self) -> None:
        self._http.pause_writing()

    def resume_writing(self) -> None:
        self._http.resume_writing()
