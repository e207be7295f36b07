"""What a connection's bytes are read into: heads for the parser, bodies whole, aligned and past it."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from service.api.body_reader import SCRATCH_BYTES, ArrivingBody, ConnectionReader, SplitBody
from service.api.tensor_space import TensorSpace


class Parser(asyncio.Protocol):
    """Notes what it was given."""

    def __init__(self) -> None:
        self.given: list[bytes] = []

    def data_received(self, data: bytes) -> None:
        self.given.append(bytes(data))


@pytest.mark.parametrize("header_length", [b"115", b"0", b"64", None, b"x"])
def test_the_tensors_of_a_body_in_pieces_begin_aligned(header_length: bytes | None) -> None:
    body = ArrivingBody(1000, header_length, TensorSpace())
    content = bytes(range(250)) * 4
    for start in range(0, 1000, 300):
        body.append(content[start : start + 300])
    assert body.missing == 0
    whole = body.take()
    assert isinstance(whole, memoryview)
    assert bytes(whole) == content
    start = int(header_length) if header_length and header_length.isdigit() else 0
    assert np.frombuffer(whole, np.uint8, offset=start).ctypes.data % 64 == 0


def test_a_body_in_one_piece_is_not_copied_and_an_empty_one_is_empty() -> None:
    content = b"c" * 100
    body = ArrivingBody(100, None, TensorSpace())
    body.append(content)
    assert body.take() is content
    assert ArrivingBody(0, None, TensorSpace()).take() == b""


def arrived(space: TensorSpace, content: bytes, header_length: int, piece: int) -> bytes | memoryview | SplitBody:
    body = ArrivingBody(len(content), str(header_length).encode(), space)
    for start in range(0, len(content), piece):
        body.append(content[start : start + piece])
    assert body.missing == 0
    return body.take()


@pytest.mark.parametrize("piece", [7, 1000, 40_000])
def test_tensors_of_one_size_lie_side_by_side_and_apart_from_their_heads(piece: int) -> None:
    space = TensorSpace()
    contents = [bytes([number]) * 30 + bytes([number + 1]) * 65_536 for number in (1, 3, 5)]
    bodies = [arrived(space, content, 30, piece) for content in contents]
    for content, body in zip(contents, bodies, strict=True):
        assert isinstance(body, SplitBody)
        assert body.head + bytes(body.tensors) == content
    starts = [np.frombuffer(body.tensors, np.uint8).ctypes.data for body in bodies if isinstance(body, SplitBody)]
    assert starts == [starts[0], starts[0] + 65_536, starts[0] + 2 * 65_536]
    assert starts[0] % 64 == 0


@pytest.mark.parametrize(("header_length", "length"), [(30, 60_000), (3_000, 100_000), (30, 3_000_000), (0, 100_000)])
def test_other_bodies_stay_in_one_piece(header_length: int, length: int) -> None:
    content = bytes(range(200)) * (length // 200)
    assert arrived(TensorSpace(), content, header_length, 16_384) == content


def fill(reader: ConnectionReader, piece: bytes) -> None:
    """As an event loop does: as much as the space takes, then the rest."""
    while piece:
        space = reader.get_buffer(-1)
        count = min(len(space), len(piece))
        space[:count] = piece[:count]
        reader.buffer_updated(count)
        piece = piece[count:]


def test_a_body_is_led_past_the_parser_and_what_follows_it_is_not() -> None:
    parser, body, whole = Parser(), ArrivingBody(5, None, TensorSpace()), []
    reader = ConnectionReader(parser, memoryview(bytearray(SCRATCH_BYTES)), lambda: whole.append(body.take()))
    fill(reader, b"head")
    reader.lead_past(body)
    fill(reader, b"abc")
    assert not whole
    fill(reader, b"denext")
    assert whole == [b"abcde"]
    assert parser.given == [b"head", b"next"]


def test_two_connections_do_not_mix_what_they_read() -> None:
    parsers = Parser(), Parser()
    scratch = memoryview(bytearray(SCRATCH_BYTES))
    readers = [ConnectionReader(parser, scratch, lambda: None) for parser in parsers]
    for piece in (b"one", b"two"):
        for reader in readers:
            fill(reader, piece)
    assert [parser.given for parser in parsers] == [[b"one", b"two"]] * 2
