"""Reads a connection: heads and short bodies for the parser, a long body straight to where its tensors are used.

Refuses nothing: a body's length was checked before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

from service.api.tensor_space import ALIGNMENT, TensorSpace, aligned, is_shared

# A request that fits in needs one read; of a long body that much at most is copied twice.
SCRATCH_BYTES = 32 * 1024
# A head of JSON up to this long lies apart from its tensors.
_MAX_APART_BYTES = 2048


class SplitBody(NamedTuple):
    """A body whose tensors lie apart from the JSON before them."""

    head: bytes
    tensors: memoryview


class ArrivingBody:
    """`length` bytes, of which the first `header_length` are JSON and the rest tensors."""

    __slots__ = ("_filled", "_head", "_header_length", "_length", "_space", "_tensors", "_whole")

    def __init__(self, length: int, header_length: bytes | None, space: TensorSpace) -> None:
        self._length = length
        # A length that cannot be is refused with the head; here it only moves where the body lies.
        known = header_length is not None and header_length.isdigit() and len(header_length) < 20
        self._header_length = int(header_length) if header_length and known else 0
        self._space = space
        self._head: memoryview | None = None
        self._tensors: memoryview | None = None
        self._whole: bytes | None = None
        self._filled = 0

    @property
    def filled(self) -> int:
        return self._filled

    @property
    def missing(self) -> int:
        return self._length - self._filled

    def append(self, chunk: bytes | memoryview) -> None:
        """A body that comes in one piece stays the piece it is."""
        if len(chunk) == self._length:
            self._whole = bytes(chunk)
            self._filled = self._length
            return
        left = memoryview(chunk)
        while left:
            space = self.rest()
            count = min(len(space), len(left))
            space[:count] = left[:count]
            self.advance(count)
            left = left[count:]

    def rest(self) -> memoryview:
        """The next space of what has not come yet; `advance` tells how much of it was filled."""
        if self._tensors is None:
            self._find_space()
        assert self._tensors is not None
        if self._head is None:
            return self._tensors[self._filled :]
        in_head = len(self._head)
        return self._head[self._filled :] if self._filled < in_head else self._tensors[self._filled - in_head :]

    def _find_space(self) -> None:
        size = self._length - self._header_length
        if 0 < self._header_length <= _MAX_APART_BYTES and is_shared(size):
            self._head = memoryview(bytearray(self._header_length))
            self._tensors = self._space.take(size)
        else:
            shift = -self._header_length % ALIGNMENT
            self._tensors = aligned(self._length + shift)[shift:]

    def advance(self, count: int) -> None:
        self._filled += count

    def take(self) -> bytes | memoryview | SplitBody:
        """The whole body; it is not kept here."""
        whole, head, tensors = self._whole, self._head, self._tensors
        self._whole = self._head = self._tensors = None
        if whole is not None:
            return whole
        if tensors is None:
            return b""
        return tensors if head is None else SplitBody(bytes(head), tensors)


class ConnectionReader(asyncio.BufferedProtocol):
    """What the transport hands bytes to; all else goes on to `http`, whose `data_received` must not keep its argument.

    All connections of an event loop share one `scratch`: it fills a buffer and tells so without a turn between.
    """

    __slots__ = ("_body", "_complete", "_http", "_scratch")

    def __init__(self, http: asyncio.Protocol, scratch: memoryview, complete: Callable[[], None]) -> None:
        """`complete` is called when a body that was led past the parser is whole."""
        self._http = http
        self._scratch = scratch
        self._complete = complete
        self._body: ArrivingBody | None = None

    def lead_past(self, body: ArrivingBody) -> None:
        """What comes next is the rest of `body`."""
        self._body = body

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._scratch if self._body is None else self._body.rest()

    def buffer_updated(self, nbytes: int) -> None:
        body = self._body
        if body is None:
            self._http.data_received(self._scratch[:nbytes])  # type: ignore[arg-type]
            return
        body.advance(nbytes)
        if not body.missing:
            self._body = None
            self._complete()

    def eof_received(self) -> Any:
        return self._http.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._http.connection_lost(exc)

    def pause_writing(self) -> None:
        self._http.pause_writing()

    def resume_writing(self) -> None:
        self._http.resume_writing()
