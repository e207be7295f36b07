"""Every wrong request: the right status, the value and the next step, and a server that goes on."""

from __future__ import annotations

import gzip
import json
import socket
from typing import Any

import httpx
import numpy as np
import pytest

from tests.contract.oip.serving import LIMITS, Serving, error_of, post, tensor
from tests.served_models import deployment, served

BINARY = tensor(parameters={"binary_data_size": 16})
del BINARY["data"]


def framed(head: Any, tail: bytes) -> tuple[bytes, dict[str, str]]:
    text = json.dumps(head).encode()
    return text + tail, {"Inference-Header-Content-Length": str(len(text))}


@pytest.fixture(autouse=True)
def _still_serving(serving: Serving) -> Any:
    yield
    answer = post(serving, {"inputs": [tensor()]})
    assert answer.json()["outputs"][0]["data"] == [6, 12, 18]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([tensor(name="y")], "unexpected inference input 'y' for model 'linear'; it takes 'x'"),
        ([tensor(), tensor(name="z")], "unexpected inference input 'z'"),
        ([], "'inputs' is []"),
        (
            [tensor(shape=[1, 4])],
            "unexpected shape for input 'x' for model 'linear'. Expected [-1, 1, 2, 2], got [1, 4]",
        ),
        ([tensor(shape=[1, 1, 2, 3], data=[0] * 6)], "got [1, 1, 2, 3]"),
        ([tensor(shape=[2, 1, 2, 2])], "input 'x' has 4 elements; its shape [2, 1, 2, 2] has 8"),
        ([tensor(shape=[0, 1, 2, 2], data=[])], "batch-size of the request to model 'linear' is 0; send 1 to 8"),
        ([tensor(shape=[9, 1, 2, 2], data=[0] * 36)], "inference request batch-size must be <= 8 for 'linear'"),
        ([tensor(shape=[-1, 1, 2, 2])], "the shape of input 'x' holds -1"),
        ([tensor(datatype="INT32")], "inference input 'x' data-type is 'INT32', but model 'linear' expects 'FP32'"),
        ([tensor(datatype="FLOAT")], "the datatype of input 'x' is 'FLOAT'"),
        ([tensor(datatype="FP16")], "receiving FP16 data via JSON is not supported"),
        ([tensor(data=[1, 1, 1])], "input 'x' has 3 elements"),
        ([tensor(data=["1", "1", "1", "1"])], "holds a value that FP32 cannot"),
        ([tensor(data=[1e39, 0, 0, 0])], "out of the range of FP32"),
        ([tensor(data=7)], "the data of input 'x'"),
        ([tensor(parameters={"binary_data_size": 16})], "input 'x' has 2 of data"),
    ],
)
def test_wrong_tensors_in_json(serving: Serving, inputs: list[Any], message: str) -> None:
    assert message in error_of(post(serving, {"inputs": inputs}), 400)


def test_a_shape_that_the_network_cannot_take_is_the_callers_fault_and_not_the_servers(serving: Serving) -> None:
    serving.call(serving.router.deploy(served(deployment(model="u-net"))))
    url = f"{serving.url}/v2/models/u-net/infer"
    odd = {"name": "x", "datatype": "FP32", "shape": [1, 3, 7, 8], "data": [0] * 168}
    message = error_of(serving.client.post(url, json={"inputs": [odd]}), 400)
    assert "input 'x' of shape [1, 3, 7, 8]" in message
    assert "send lengths" in message
    even = odd | {"shape": [1, 3, 8, 8], "data": [0] * 192}
    assert serving.client.post(url, json={"inputs": [even]}).json()["outputs"][0]["shape"] == [1, 7, 8, 8]


@pytest.mark.parametrize(
    ("head", "tail", "message"),
    [
        (BINARY, bytes(15), "unexpected size for input 'x', expecting 1 additional bytes for model 'linear'"),
        (BINARY, bytes(17), "unexpected additional input data for model 'linear': 1 bytes"),
        (BINARY | {"parameters": {"binary_data_size": 12}}, bytes(12), "unexpected size for input 'x': 12 bytes"),
        (BINARY | {"parameters": {"binary_data_size": 10**18}}, bytes(16), "expecting 999999999999999984 additional"),
        (BINARY | {"datatype": "BYTES"}, bytes(16), "data-type is 'BYTES'"),
        (BINARY | {"datatype": "BF16", "parameters": {"binary_data_size": 8}}, bytes(8), "data-type is 'BF16'"),
    ],
)
def test_wrong_binary_tensors(serving: Serving, head: dict[str, Any], tail: bytes, message: str) -> None:
    if head["datatype"] == "BYTES":
        head = head | {"shape": [4]}
    body, headers = framed({"inputs": [head]}, tail)
    assert message in error_of(post(serving, body, **headers), 400)


def test_a_binary_tensor_without_the_header_is_refused(serving: Serving) -> None:
    body, _ = framed({"inputs": [BINARY]}, bytes(16))
    assert "not JSON" in error_of(post(serving, body), 400)


@pytest.mark.parametrize("length", ["99999", "-1", "x", "1e1"])
def test_a_wrong_header_length_is_refused(serving: Serving, length: str) -> None:
    answer = post(serving, {"inputs": [tensor()]}, **{"Inference-Header-Content-Length": length})
    assert f"Inference-Header-Content-Length is '{length}'" in error_of(answer, 400)


def test_a_raw_request_is_one_row(serving: Serving) -> None:
    answer = post(serving, np.ones(4, np.float32).tobytes(), **{"Inference-Header-Content-Length": "0"})
    start = int(answer.headers["inference-header-content-length"])
    assert np.frombuffer(answer.content[start:], np.float32).tolist() == [6, 12, 18]
    short = post(serving, bytes(12), **{"Inference-Header-Content-Length": "0"})
    assert "unexpected size for input 'x': 12 bytes" in error_of(short, 400)
    many = post(serving, bytes(12), "types", **{"Inference-Header-Content-Length": "0"})
    assert "a raw request fits models with exactly 1 input" in error_of(many, 400)


@pytest.mark.parametrize("body", [b"", b"{", b"null", b"[]", b"\xff\xfe", b'{"inputs": NaN}', b"[" * 50_000])
def test_bodies_that_are_no_request(serving: Serving, body: bytes) -> None:
    error_of(post(serving, body), 400)


def test_wrong_outputs_and_parameters(serving: Serving) -> None:
    for more, status, message in (
        ({"outputs": [{"name": "z"}]}, 400, "unexpected inference output 'z' for model 'linear'; it gives 'y'"),
        ({"parameters": {"triton_enable": 1}}, 400, "is reserved"),
        ({"parameters": {"variant": "none"}}, 404, "variant 'none' of model 'linear' is not deployed"),
        ({"parameters": {"sequence_id": 5}}, 501, "stateless"),
        ({"outputs": [{"name": "y", "parameters": {"shared_memory_region": "r"}}]}, 501, "not offered"),
        ({"outputs": [{"name": "y", "parameters": {"classification": -2}}]}, 400, "'classification' of output 'y'"),
    ):
        assert message in error_of(post(serving, {"inputs": [tensor()]} | more), status)


def test_an_oversized_body_is_refused_whether_declared_chunked_or_compressed(serving: Serving) -> None:
    big = bytes(LIMITS.max_body_bytes + 1)
    assert "send at most 1048576" in error_of(post(serving, big), 413)
    assert "OCTAVO_MAX_INFER_BYTES" in error_of(post(serving, iter([big[:600_000], big[:600_000]])), 413)
    packed = post(serving, gzip.compress(big), **{"Content-Encoding": "gzip"})
    assert "inflates to over 1048576 bytes" in error_of(packed, 413)


def test_unknown_codings_and_damaged_bodies_are_refused(serving: Serving) -> None:
    body = json.dumps({"inputs": [tensor()]}).encode()
    unknown = post(serving, body, **{"Content-Encoding": "br"})
    assert "Unsupported compression type 'br'" in error_of(unknown, 501)
    assert unknown.headers["accept-encoding"] == "gzip, deflate"
    assert "is not gzip" in error_of(post(serving, body, **{"Content-Encoding": "gzip"}), 400)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/models/linear/infer", 405),
        ("PUT", "/v2/models/linear", 405),
        ("POST", "/v2/models/linear/versions/one/infer", 404),
        ("POST", "/v2/models/linear/versions/7/infer", 404),
        ("POST", "/v2/models/a%2Fb/infer", 404),
        ("POST", "/v2/models/gr%C3%BCn/infer", 404),
        ("POST", "/v2/models/" + "n" * 300 + "/infer", 404),
        ("POST", "/v2/models/nothing/infer", 404),
        ("GET", "/v2/models/nothing/stats", 404),
        ("GET", "/v2/models/linear/versions/x/ready", 404),
        ("GET", "/v2/models/linear/versions/%C2%B2", 404),
        ("GET", "/v2/nowhere", 404),
        ("GET", "/v2/systemsharedmemory/status", 501),
        ("GET", "/v2/systemsharedmemory/region/r/status", 501),
        ("POST", "/v2/systemsharedmemory/region/r/register", 501),
        ("POST", "/v2/systemsharedmemory/region/r/unregister", 501),
        ("POST", "/v2/systemsharedmemory/unregister", 501),
        ("POST", "/v2/systemsharedmemory/status", 405),
        ("GET", "/v2/cudasharedmemory/status", 501),
        ("POST", "/v2/cudasharedmemory/region/r/register", 501),
        ("POST", "/v2/models/linear/generate", 501),
        ("POST", "/v2/models/linear/versions/1/generate_stream", 501),
        ("POST", "/v2/repository/index", 200),
        ("POST", "/v2/repository/shelf/index", 501),
        ("POST", "/v2/repository/shelf/models/linear/load", 501),
        ("POST", "/v2/repository/models/nothing/load", 404),
        ("POST", "/v2/repository/models/nothing/unload", 404),
        ("POST", "/v2/repository/models/a%00b/load", 404),
        ("POST", "/v2/repository/models/gr%C3%BCn/unload", 404),
        ("GET", "/v2/repository/models/linear/load", 405),
        ("HEAD", "/v2/health/live", 200),
        ("DELETE", "/v2/health/live", 405),
    ],
)
def test_every_path_answers_in_the_one_form(serving: Serving, method: str, path: str, status: int) -> None:
    content = json.dumps({"inputs": [tensor()]}).encode() if path.endswith("infer") else b""
    answer = serving.client.request(method, serving.url + path, content=content)
    if status == 200:
        assert answer.status_code == 200
    else:
        assert len(error_of(answer, status)) < 600


@pytest.mark.parametrize(
    ("body", "status"),
    [(b'{"ready": true}', 200), (b"{}", 200), (b"{", 400), (b'{"ready": 1}', 400), (b"[]", 400), (bytes(70_000), 413)],
)
def test_the_index_takes_a_body_or_none(serving: Serving, body: bytes, status: int) -> None:
    answer = serving.client.post(f"{serving.url}/v2/repository/index", content=body)
    assert answer.status_code == status


@pytest.mark.parametrize(
    ("change", "body", "status", "message"),
    [
        ("load", {"parameters": {"config": "{}"}}, 501, "load with 'config' is not offered"),
        ("load", {"parameters": {"file:1/model.onnx": "AAAA"}}, 501, "upload a version with POST /models"),
        ("load", {"parameters": {"colour": "red"}}, 400, "parameter 'colour' is unknown; leave it out"),
        ("load", {"parameters": [1]}, 400, "'parameters' is [1]"),
        ("load", {"parameters": {"file:1/model.onnx": "A" * 70_000}}, 413, "no files: upload a version"),
        ("load", [], 400, "the body is []"),
        ("unload", {"parameters": {"unload_dependents": 1}}, 400, "'unload_dependents' is 1; send true, false"),
        ("unload", {"parameters": {"now": True}}, 400, "parameter 'now' is unknown"),
    ],
)
def test_what_load_and_unload_cannot_do_is_refused(
    serving: Serving, change: str, body: Any, status: int, message: str
) -> None:
    answer = serving.client.post(f"{serving.url}/v2/repository/models/linear/{change}", json=body)
    assert message in error_of(answer, status)


def test_what_is_sent_without_a_content_type_or_in_pieces_is_read(serving: Serving) -> None:
    body, headers = framed({"inputs": [BINARY]}, np.ones(4, np.float32).tobytes())
    lines = ["POST /v2/models/linear/infer HTTP/1.1", "Host: x", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    request = "\r\n".join([*lines, "", ""]).encode() + body
    with socket.create_connection(serving.endpoint_address) as connection:
        connection.settimeout(10)
        for start in range(0, len(request), 50):
            connection.sendall(request[start : start + 50])
        assert b'"data":[6.0,12.0,18.0]' in connection.recv(65536)
        # And two at once: answers come back in order.
        connection.sendall(request + request.replace(b"/linear/", b"/absent/") + request)
        received = b""
        while received.count(b"HTTP/1.1") < 3 or not received.endswith(b"}"):
            received += connection.recv(65536)
    statuses = [
        line.split()[1] for line in received.replace(b"HTTP/1.1", b"\nHTTP/1.1").splitlines() if b"HTTP/1.1" in line
    ]
    assert statuses == [b"200", b"404", b"200"]


def test_a_connection_is_kept_or_closed_as_asked(serving: Serving) -> None:
    with httpx.Client() as client:
        url = f"{serving.url}/v2/models/linear/infer"
        for _ in range(3):
            assert client.post(url, json={"inputs": [tensor()]}).status_code == 200
        answer = client.post(url, json={"inputs": [tensor()]}, headers={"Connection": "close"})
        assert answer.headers["connection"] == "close"
