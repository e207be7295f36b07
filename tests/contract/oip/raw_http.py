"""Connections that a test writes to byte by byte."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from tests.contract.oip.serving import Serving, tensor

BODY = json.dumps({"inputs": [tensor()]}).encode()
ANSWER = b'"data":[6.0,12.0,18.0]'


def request(*headers: str, body: bytes = BODY, path: str = "/v2/models/linear/infer") -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


@contextmanager
def connected(serving: Serving) -> Iterator[socket.socket]:
    with socket.create_connection(serving.endpoint_address) as connection:
        connection.settimeout(10)
        yield connection


def received(connection: socket.socket, answers: int) -> bytes:
    """Bytes until so many answers came, each of which ends in JSON; fails where the server says no more."""
    data = b""
    while data.count(b"HTTP/1.1 ") < answers or not data.endswith(b"}"):
        chunk = connection.recv(65536)
        assert chunk, f"closed after {data!r}"
        data += chunk
    return data


def is_closed(connection: socket.socket) -> bool:
    try:
        while connection.recv(65536):
            pass
    except ConnectionResetError:
        pass
    return True
