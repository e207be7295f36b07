"""Bodies read past the parser: whole, aligned, and given up when they stall."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest

from service.api import body_reader
from service.api.body_reader import ArrivingBody, BodyReader
from tests.async_waiting import until


class Transport(asyncio.Transport):
    """Notes who reads, and whether it was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.protocol: object = None
        self.closed = False

    def set_protocol(self, protocol: object) -> None:
        self.protocol = protocol

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("header_length", [b"115", b"0", b"64", None, b"x"])
def test_the_tensors_of_a_body_in_pieces_begin_aligned(header_length: bytes | None) -> None:
    body = ArrivingBody(1000, header_length)
    content = bytes(range(250)) * 4
    for start in range(0, 1000, 300):
        body.append(content[start : start + 300])
    assert body.missing == 0
    whole = body.take()
    assert bytes(whole) == content
    start = int(header_length) if header_length and header_length.isdigit() else 0
    assert np.frombuffer(whole, np.uint8, offset=start).ctypes.data % 64 == 0


def test_a_body_in_one_piece_is_not_copied_and_an_empty_one_is_empty() -> None:
    content = b"c" * 100
    body = ArrivingBody(100, None)
    body.append(content)
    assert body.take() is content
    assert ArrivingBody(0, None).take() == b""


def read(pieces: Sequence[bytes], length: int) -> tuple[Transport, ArrivingBody, list[str]]:
    """What is left after these pieces came, and what was called; the loop is closed by then."""
    called: list[str] = []
    transport, body = Transport(), ArrivingBody(length, None)

    async def main() -> None:
        reader = BodyReader(asyncio.Protocol(), transport, body, lambda: called.append("complete"))
        for piece in pieces:
            space = reader.get_buffer(-1)
            space[: len(piece)] = piece
            reader.buffer_updated(len(piece))
        if body.missing:
            await until(lambda: transport.closed)

    asyncio.run(main())
    return transport, body, called


def test_a_whole_body_hands_the_connection_back() -> None:
    transport, body, called = read([b"abc", b"de"], 5)
    assert called == ["complete"]
    assert isinstance(transport.protocol, asyncio.Protocol)
    assert bytes(body.take()) == b"abcde"
    assert not transport.closed


def test_a_body_that_stalls_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_reader, "IDLE_SECONDS", 0.005)
    transport, _, called = read([b"abc"], 5)
    assert transport.closed
    assert called == []
