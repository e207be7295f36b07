"""Which connections are given up: those on which nothing moves, and no others."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from threading import Event, Timer

import numpy as np
import pytest

from service.api import guarded_protocol
from tests.contract.oip.raw_http import ANSWER, BODY, connected, is_closed, received, request
from tests.contract.oip.serving import Serving, running
from tests.waiting import wait_until

FAKE = json.dumps({"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [3, 4]}]}).encode()
LONG = json.dumps({**json.loads(FAKE), "parameters": {"binary_data_output": True}}).encode()


@pytest.fixture(scope="module", name="serving")
def _serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """Only the protocol that production runs guards its connections."""
    with running(tmp_path_factory.mktemp("connections"), direct=True) as started:
        yield started


@pytest.mark.parametrize("cut", [20, -1], ids=["in its head", "in its body"])
def test_a_request_that_stalls_is_given_up(serving: Serving, cut: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guarded_protocol, "IDLE_SECONDS", 0.05)
    with connected(serving) as connection:
        connection.sendall(request())
        assert ANSWER in received(connection, 1)
        connection.sendall(request()[:cut])
        assert is_closed(connection)


def trickle(connection: socket.socket, data: bytes, pieces: int) -> None:
    """All of it in about 0.6 s, longer than the tests call idle."""
    step = len(data) // pieces + 1
    for start in range(0, len(data), step):
        connection.sendall(data[start : start + step])
        Event().wait(0.6 / pieces)


def test_a_slow_request_is_waited_for_whatever_reads_its_body(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guarded_protocol, "IDLE_SECONDS", 0.2)
    with connected(serving) as connection:
        trickle(connection, request(), 12)
        assert ANSWER in received(connection, 1)
        large = request(body=BODY + b" " * 300_000)
        connection.sendall(large[:20])
        trickle(connection, large[20:], 12)
        assert ANSWER in received(connection, 1)


def test_a_caller_that_waits_for_a_busy_engine_does_not_stall(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guarded_protocol, "IDLE_SECONDS", 0.05)
    serving.fake.block()
    with connected(serving) as connection:
        connection.sendall(request(body=FAKE, path="/v2/models/fake/infer"))
        assert serving.fake.running.wait(10)
        connection.sendall(b"\r\n")
        Event().wait(0.2)
        serving.fake.gate.set()
        assert b'"data":[7.0]' in received(connection, 1)


def test_a_connection_without_requests_is_closed_and_one_with_them_is_not(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving.server.config, "timeout_keep_alive", 0.3)
    with connected(serving) as connection:
        for _ in range(8):
            Event().wait(0.1)
            connection.sendall(request())
            assert ANSWER in received(connection, 1)
        assert is_closed(connection)


@pytest.mark.parametrize("headers", [(), ("Accept-Encoding: gzip;q=0, identity",), ("Expect: 100-continue",)])
def test_a_connection_is_not_idle_while_a_request_behind_a_refused_one_is_answered(
    serving: Serving, monkeypatch: pytest.MonkeyPatch, headers: tuple[str, ...]
) -> None:
    monkeypatch.setattr(serving.server.config, "timeout_keep_alive", 0.2)
    serving.fake.block()
    opening = Timer(0.6, serving.fake.gate.set)
    with connected(serving) as connection:
        refused = request(path="/v2/models/absent/infer")
        connection.sendall(refused + request(*headers, body=FAKE, path="/v2/models/fake/infer"))
        opening.start()
        try:
            assert b'"data":[7.0]' in received(connection, 2)
        finally:
            opening.cancel()
            serving.fake.gate.set()


def test_a_connection_is_not_idle_while_a_long_body_comes_behind_a_refused_request(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving.server.config, "timeout_keep_alive", 0.2)
    large = request(body=BODY + b" " * 300_000)
    with connected(serving) as connection:
        connection.sendall(request(path="/v2/models/absent/infer") + large[:1000])
        trickle(connection, large[1000:], 10)
        assert ANSWER in received(connection, 2)


def test_a_connection_that_sends_nothing_is_given_up(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guarded_protocol, "IDLE_SECONDS", 0.05)
    with connected(serving) as connection:
        assert is_closed(connection)


@pytest.fixture(name="long_answers")
def _long_answers(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of `fake` are longer than any socket's buffers."""
    monkeypatch.setattr(serving.fake, "_infer", lambda inputs: {"y": np.zeros((len(inputs["x"]), 1 << 23), np.float32)})


@pytest.mark.usefixtures("long_answers")
@pytest.mark.parametrize("headers", [(), ("Connection: close",), ("Expect: x",)])
def test_a_caller_that_does_not_read_its_answer_is_given_up(
    serving: Serving, headers: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guarded_protocol, "IDLE_SECONDS", 0.1)
    connections = serving.server.server_state.connections
    wait_until(lambda: not connections)
    with connected(serving) as connection:
        connection.sendall(request(*headers, body=LONG, path="/v2/models/fake/infer") + request(*headers))
        assert connection.recv(12) == b"HTTP/1.1 200"
        wait_until(lambda: not connections)


@pytest.mark.usefixtures("long_answers")
def test_a_caller_that_reads_its_answer_slowly_gets_all_of_it(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guarded_protocol, "IDLE_SECONDS", 0.2)
    with connected(serving) as connection:
        connection.sendall(request("Connection: close", body=LONG, path="/v2/models/fake/infer"))
        size = 0
        while piece := connection.recv(1 << 21, socket.MSG_WAITALL):
            size += len(piece)
            Event().wait(0.05)
    assert size > 1 << 25
