"""A head that was read once, as bytes."""

from __future__ import annotations

import pytest

from service.api.plain_head import PlainHead

HEAD = b"POST /v2/models/m/infer HTTP/1.1\r\nContent-Length: 8\r\n\r\n"
BODY = b"12345678"


def noted(data: bytes = HEAD + BODY, body_bytes: int = 8, keep_alive: bool = True) -> PlainHead:
    head = PlainHead(("m", None), {b"content-length": b"8"}, keep_alive, 8)
    head.note(memoryview(data), body_bytes)
    return head


@pytest.mark.parametrize("came", range(9))
def test_the_same_bytes_begin_the_same_request_whatever_came_of_its_body(came: int) -> None:
    assert noted().begins(memoryview(HEAD + BODY[:came]))
    assert noted(HEAD + BODY[:came], came).begins(HEAD + b"87654321"[:came])


@pytest.mark.parametrize(
    "data",
    [b"", HEAD[:-1], HEAD.replace(b"m", b"n") + BODY, HEAD + BODY + b"P", HEAD.replace(b": 8", b": 9") + BODY],
    ids=["nothing", "a piece of it", "another", "one more request behind it", "another length"],
)
def test_other_bytes_are_left_to_the_parser(data: bytes) -> None:
    assert not noted().begins(data)


@pytest.mark.parametrize(
    ("data", "body_bytes", "keep_alive"),
    [
        (HEAD[:20], 0, True),
        (HEAD + BODY + HEAD + BODY, 8, True),
        (HEAD + b"1234" + HEAD, 4, True),
        (HEAD + BODY, 8, False),
        (HEAD.replace(b"\r\n\r\n", b"\r\nx: %b\r\n\r\n" % (b"v" * 5000)) + BODY, 8, True),
    ],
    ids=["no whole head", "two requests", "counts that differ", "the last of its connection", "a long one"],
)
def test_a_head_is_noted_only_where_its_bytes_are_certain(data: bytes, body_bytes: int, keep_alive: bool) -> None:
    assert noted(data, body_bytes, keep_alive).text is None
