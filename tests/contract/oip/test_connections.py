"""What a connection may do to the server: endless heads, trailers, offers to upgrade, and what is no HTTP."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from service.api import infer_protocol
from service.api.body_reader import SCRATCH_BYTES
from tests.contract.oip.raw_http import ANSWER, BODY, connected, is_closed, received, request
from tests.contract.oip.serving import Serving, running
from tests.waiting import wait_until

CHUNKED = b"POST /v2/models/linear/infer HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module", name="serving")
def _serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """Only the protocol that production runs guards its connections."""
    with running(tmp_path_factory.mktemp("connections"), direct=True) as started:
        yield started


def pour(connection: socket.socket, piece: bytes) -> None:
    for _ in range(64 * 1024):
        connection.sendall(piece)


@pytest.mark.parametrize(
    "piece", [b"x-many: " + b"v" * 1000 + b"\r\n", b"v" * 1000], ids=["many headers", "a long one"]
)
def test_a_head_without_an_end_is_refused_and_not_kept(serving: Serving, piece: bytes) -> None:
    start = b"POST /v2/models/linear/infer HTTP/1.1\r\nx-long: "
    with connected(serving) as connection:
        connection.sendall(start)
        with pytest.raises(OSError, match=r"reset|pipe"):
            pour(connection, piece)


def test_a_long_head_is_read_and_a_longer_one_told_the_limit(serving: Serving) -> None:
    with connected(serving) as connection:
        connection.sendall(request("x-long: " + "v" * 30_000))
        assert ANSWER in received(connection, 1)
        connection.sendall(b"POST /v2/models/linear/infer HTTP/1.1\r\n")
        for _ in range(infer_protocol._MAX_HEAD_BYTES // 1000 + 1):
            connection.sendall(b"x-more: " + b"v" * 990 + b"\r\n")
        assert b'"error":"the request\'s head is over 65536 bytes; send fewer' in received(connection, 1)


def test_trailers_without_an_end_are_refused_and_those_that_end_change_nothing(serving: Serving) -> None:
    body = b"%x\r\n%b\r\n0\r\n" % (len(BODY), BODY)
    with connected(serving) as connection:
        trailers = b"Content-Encoding: br\r\nInference-Header-Content-Length: 1\r\n\r\n"
        connection.sendall(CHUNKED + body + trailers + request())
        assert received(connection, 2).count(ANSWER) == 2
        connection.sendall(CHUNKED + body)
        with pytest.raises(OSError, match=r"reset|pipe"):
            pour(connection, b"x-trailer: " + b"v" * 1000 + b"\r\n")


@pytest.mark.parametrize("pieces", [1, 3])
def test_an_offer_of_http2_is_passed_over_and_the_request_answered(serving: Serving, pieces: int) -> None:
    """As some client libraries send with every first request of a connection."""
    offer = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABk")
    data = request(*offer) + request(*offer) + request()
    step = len(data) // pieces + 1
    with connected(serving) as connection:
        for start in range(0, len(data), step):
            connection.sendall(data[start : start + step])
        assert received(connection, 3).count(ANSWER) == 3


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00", b"the bytes are no HTTP request"),
        (b"POST /v2 HTTP/1.1\r\nContent-Length: -5\r\n\r\n", b"the bytes are no HTTP request"),
        (CHUNKED + b"zz\r\n", b"the bytes are no HTTP request"),
        (b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", b"CONNECT asks for a tunnel"),
    ],
)
def test_what_is_no_request_is_told_so_in_the_one_form(serving: Serving, data: bytes, message: bytes) -> None:
    with connected(serving) as connection:
        connection.sendall(data)
        answer = received(connection, 1)
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert message in json.loads(answer.partition(b"\r\n\r\n")[2])["error"].encode()
        assert is_closed(connection)


def test_a_header_length_of_thousands_of_digits_is_refused_as_any_other(serving: Serving) -> None:
    with connected(serving) as connection:
        connection.sendall(request("Inference-Header-Content-Length: " + "9" * 5000) + request())
        answers = received(connection, 2)
        assert b"Inference-Header-Content-Length is '999" in answers
        assert ANSWER in answers


def test_each_request_of_a_connection_goes_by_its_own_head(serving: Serving) -> None:
    with connected(serving) as connection:
        for _ in range(2):
            connection.sendall(request())
            assert ANSWER in received(connection, 1)
            connection.sendall(request(path="/v2/models/absent/infer"))
            assert b"unknown model: 'absent'" in received(connection, 1)
            connection.sendall(request("Inference-Header-Content-Length: 3"))
            assert b" 400 " in received(connection, 1)
            connection.sendall(request("Accept-Encoding: gzip"))
            assert b"content-encoding: gzip" in connection.recv(65536)


def test_a_head_that_comes_again_is_answered_the_same_however_its_bytes_are_cut(serving: Serving) -> None:
    again = request()
    with connected(serving) as connection:
        for cut in (len(again), *range(1, len(again), 7)):
            connection.sendall(again[:cut])
            connection.sendall(again[cut:])
            assert ANSWER in received(connection, 1)
        connection.sendall(again + again + again[:-1])
        assert received(connection, 2).count(ANSWER) == 2
        connection.sendall(again[-1:])
        assert ANSWER in received(connection, 1)


def test_a_head_that_comes_again_inside_a_body_begins_no_request(serving: Serving) -> None:
    again = request()
    with connected(serving) as connection:
        connection.sendall(again)
        assert ANSWER in received(connection, 1)
        for headers, body in (((), again), (("Accept-Encoding: br",), again * 2)):
            whole = request(*headers, body=body)
            connection.sendall(whole[: -len(again)])
            connection.sendall(whole[-len(again) :])
            assert b" 400 " in received(connection, 1)
        chunked = CHUNKED + b"%x\r\n" % len(again)
        connection.sendall(chunked)
        connection.sendall(again)
        connection.sendall(b"\r\n0\r\n\r\n")
        assert b" 400 " in received(connection, 1)
        connection.sendall(again)
        assert ANSWER in received(connection, 1)


def send_apart(serving: Serving, connection: socket.socket, *pieces: bytes) -> None:
    """Each is read before the next is sent."""
    connections = serving.server.server_state.connections
    here = wait_until(
        lambda: [one for one in list(connections) if getattr(one, "client", None) == connection.getsockname()]
    )[0]
    assert isinstance(here, infer_protocol.InferProtocol)
    for piece in pieces:
        before = here._reads
        connection.sendall(piece)
        wait_until(lambda before=before: here._reads > before)  # type: ignore[misc]


@pytest.mark.parametrize("body", [b"", BODY])
def test_line_ends_between_requests_are_no_head_and_take_nothing_of_the_next(serving: Serving, body: bytes) -> None:
    """Such as follow a head whose own bytes are not known, because it came in two reads."""
    asked, status = request(body=body), b" 200 " if body else b" 400 "
    with connected(serving) as connection:
        send_apart(serving, connection, asked[:20], asked[20:])
        assert status in received(connection, 1)
        send_apart(serving, connection, b"\r\n\r\n" + b"\r\n" * (len(body) // 2) + b"\r" * (len(body) % 2))
        send_apart(serving, connection, b"\r\n\r\n")
        connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n" + asked)
        answers = received(connection, 2)
        assert b"200 OK" in answers
        assert status in answers.split(b"HTTP/1.1")[-1]
        connection.settimeout(0.05)
        with pytest.raises(TimeoutError):
            connection.recv(1)


def test_line_ends_after_each_body_never_add_up_to_a_long_head(serving: Serving) -> None:
    with connected(serving) as connection:
        for _ in range(8):
            connection.sendall(request())
            assert ANSWER in received(connection, 1)
            connection.sendall(b"\r\n" * 6000)
        connection.sendall(request())
        assert ANSWER in received(connection, 1)


def test_a_caller_that_leaves_in_the_body_of_a_head_that_comes_again_takes_nothing_along(serving: Serving) -> None:
    with connected(serving) as connection:
        connection.sendall(request())
        assert ANSWER in received(connection, 1)
        connection.sendall(request()[:-3])
    with connected(serving) as connection:
        connection.sendall(request())
        assert ANSWER in received(connection, 1)


PIPELINED = [b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n", CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)]


@pytest.mark.parametrize("piece", PIPELINED, ids=["without a body", "with a body"])
def test_a_caller_that_sends_ahead_of_its_answers_is_read_no_further_than_one_read(
    serving: Serving, piece: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting: list[int] = []
    answered = infer_protocol.InferProtocol.on_response_complete

    def noted(protocol: infer_protocol.InferProtocol) -> None:
        waiting.append(len(protocol.pipeline))
        answered(protocol)

    monkeypatch.setattr(infer_protocol.InferProtocol, "on_response_complete", noted)
    count = 6 * SCRATCH_BYTES // len(piece)
    with connected(serving) as connection, ThreadPoolExecutor(1) as pool:
        sending = pool.submit(connection.sendall, piece * count + request("Connection: close"))
        answers = b"".join(iter(lambda: connection.recv(1 << 20), b""))
        sending.result()
    assert answers.count(b"HTTP/1.1 200 ") == count + 1
    assert max(waiting) <= SCRATCH_BYTES // len(piece) + 1
