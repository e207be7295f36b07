"""Golden vectors: requests and answers of the shipped digits model, byte for byte as they went over the wire.

A server that serves models/digits/digits.onnx in FP32 must answer each as recorded: the same status, framing and
content, and numbers within rounding. Words of errors and parameters of answers are its own.
"""

from __future__ import annotations

import gzip
import socket
import zlib
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from tests.contract.oip.kit.rows import Row
from tests.contract.oip.kit.target import Answer, NotOffered, Target, refused, same

FOLDER = Path(__file__).parent.parent / "vectors"
_MODEL = b"/v2/models/digits/"
_CODINGS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.decompress,
    "deflate": zlib.decompress,
    "identity": bytes,
}
_RECORDED = "fp32-onnxruntime"
_OWN = {"parameters", "model_name", "model_version"}


def vector_rows() -> list[Row]:
    """A row for each pair of files."""
    return [_row(path) for path in sorted(FOLDER.glob("*.request"))]


def _row(path: Path) -> Row:
    def check(target: Target) -> None:
        if [(spec["name"], spec["shape"]) for spec in target.metadata["inputs"]] != [("input", [-1, 1, 8, 8])]:
            raise NotOffered("the model is not models/digits/digits.onnx")
        compare(exchange(target, path.read_bytes()), parsed(path.with_suffix(".response").read_bytes()))

    return Row("golden", path.stem.replace("-", " "), check)


def exchange(target: Target, request: bytes) -> Answer:
    """Sends the bytes as they are, but for the model's name, and gives what comes back until the connection ends."""
    return parsed(sent(target, request))


def sent(target: Target, request: bytes) -> bytes:
    url = urlsplit(str(target.client.base_url))
    request = request.replace(_MODEL, f"{url.path.rstrip('/')}/v2/models/{target.model}/".encode(), 1)
    with socket.create_connection((url.hostname, url.port or 80), timeout=30) as connection:
        connection.sendall(request)
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
    return received


def parsed(response: bytes) -> Answer:
    """The answer, its content decoded; chunks are joined."""
    head, _, body = response.partition(b"\r\n\r\n")
    status, *lines = head.split(b"\r\n")
    pairs = [line.split(b":", 1) for line in lines]
    headers = httpx.Headers([(name, value.strip()) for name, value in pairs])
    if headers.get("transfer-encoding") == "chunked":
        body = _joined(body)
    return Answer(int(status.split()[1]), headers, _CODINGS[headers.get("content-encoding", "identity")](body))


def _joined(body: bytes) -> bytes:
    joined = b""
    while body:
        size, _, body = body.partition(b"\r\n")
        length = int(size, 16)
        joined, body = joined + body[:length], body[length + 2 :]
    return joined


def compare(answer: Answer, recorded: Answer) -> None:
    """Raises AssertionError for a difference that the protocol knows, NotOffered where another engine than the recorded
    one of Octavo's gave the numbers."""
    assert answer.status == recorded.status, (
        f"status {answer.status}, recorded {recorded.status}: {answer.body[:200]!r}"
    )
    if recorded.status != 200:
        refused(answer, recorded.status)
        return
    for name in ("content-type", "content-encoding"):
        assert answer.headers.get(name) == recorded.headers.get(name), name
    assert ("inference-header-content-length" in answer.headers) == (
        "inference-header-content-length" in recorded.headers
    )
    told, wanted = answer.json, recorded.json
    assert told.keys() - _OWN == wanted.keys() - _OWN
    assert told.get("id") == wanted.get("id")
    forms = [
        [(output["name"], output["datatype"], output["shape"], "data" in output) for output in body["outputs"]]
        for body in (told, wanted)
    ]
    assert forms[0] == forms[1]
    variant = (told.get("parameters") or {}).get("variant", _RECORDED)
    if variant != _RECORDED:
        raise NotOffered(f"{variant} answers; the vectors hold the numbers of {_RECORDED}")
    if any(output["datatype"] == "BYTES" for output in wanted["outputs"]):
        # Classes: their order and labels; the scores are rounded text.
        assert _classes(answer) == _classes(recorded)
    else:
        assert same(answer.tensors(), recorded.tensors()), "other numbers than the recorded ones"


def _classes(answer: Answer) -> list[str]:
    texts = [item for array in answer.tensors().values() for item in array.reshape(-1)]
    return [(text.decode() if isinstance(text, bytes) else str(text)).split(":", 1)[1] for text in texts]
