"""What a connection's bytes are read into: heads for the parser, bodies whole, aligned and past it."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from service.api.body_reader import ArrivingBody, ConnectionReader


class Parser(asyncio.Protocol):
    """Notes what it was given."""

    def __init__(self) -> None:
        self.given: list[bytes] = []

    def data_received(self, data: bytes) -> None:
        self.given.append(bytes(data))


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


def fill(reader: ConnectionReader, piece: bytes) -> None:
    """As an event loop does: as much as the space takes, then the rest."""
    while piece:
        space = reader.get_buffer(-1)
        count = min(len(space), len(piece))
        space[:count] = piece[:count]
        reader.buffer_updated(count)
        piece = piece[count:]


def test_a_body_is_led_past_the_parser_and_what_follows_it_is_not() -> None:
    parser, body, whole = Parser(), ArrivingBody(5, None), []
    reader = ConnectionReader(parser)
    fill(reader, b"head")
    reader.lead_past(body, lambda: whole.append(bytes(body.take())))
    fill(reader, b"abc")
    assert not whole
    fill(reader, b"denext")
    assert whole == [b"abcde"]
    assert parser.given == [b"head", b"next"]


def test_two_connections_do_not_mix_what_they_read() -> None:
    parsers = Parser(), Parser()
    readers = [ConnectionReader(parser) for parser in parsers]
    for piece in (b"one", b"two"):
        for reader in readers:
            fill(reader, piece)
    assert [parser.given for parser in parsers] == [[b"one", b"two"]] * 2
