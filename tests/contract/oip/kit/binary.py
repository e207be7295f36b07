"""b4: the binary extension, raw requests and compression."""

from __future__ import annotations

import gzip
import json
import zlib

import httpx

from tests.contract.oip.kit.rows import row
from tests.contract.oip.kit.target import HEADER, Answer, NotOffered, Target, encoded, refused, same


@row("b4", "binary and JSON may be mixed, in and out")
def mixed(target: Target) -> None:
    target.needs("binary_tensor_data")
    arrays = target.arrays()
    plain = target.answer_of(arrays)
    inputs, tail = target.binary_inputs(arrays)
    names = [spec["name"] for spec in target.metadata["outputs"]]
    for binary in (True, False):
        wanted = [{"name": name, "parameters": {"binary_data": binary}} for name in names]
        answer = target.infer_binary({"inputs": inputs, "outputs": wanted}, tail)
        assert same(answer.tensors(), plain)
        assert (HEADER in answer.headers) == binary
        in_json = target.infer({"inputs": target.json_inputs(arrays), "outputs": wanted})
        assert same(in_json.tensors(), plain)
    answer = target.infer_binary({"inputs": inputs}, tail)
    assert HEADER not in answer.headers, "without a wish outputs are JSON"


@row("b4", "a binary answer is octet-stream, with its JSON part's length in the header")
def framing(target: Target) -> None:
    target.needs("binary_tensor_data")
    inputs, tail = target.binary_inputs(target.arrays())
    answer = target.infer_binary({"inputs": inputs, "parameters": {"binary_data_output": True}}, tail)
    assert answer.headers["content-type"] == "application/octet-stream"
    sizes = [output["parameters"]["binary_data_size"] for output in answer.json["outputs"]]
    assert answer.json_length + sum(sizes) == len(answer.body) == int(answer.headers["content-length"])


@row("b4", "framing that lies is refused: lengths, sizes, missing and surplus bytes")
def lies(target: Target) -> None:
    target.needs("binary_tensor_data")
    inputs, tail = target.binary_inputs(target.arrays())
    text = json.dumps({"inputs": inputs}).encode()
    right = str(len(text))
    for length in ("-1", "x", "", str(len(text + tail) + 1), "9" * 30):
        refused(target.infer(text + tail, **{HEADER: length}), 400)
    message = refused(target.infer(text + tail[:-1], **{HEADER: right}), 400)
    assert "unexpected size for input" in message
    assert "unexpected additional input data" in refused(target.infer(text + tail + b"\0", **{HEADER: right}), 400)
    refused(target.infer(text + tail), 400)
    inputs[0]["parameters"]["binary_data_size"] += 1
    refused(target.infer_binary({"inputs": inputs}, tail + b"\0"), 400)
    inputs[0]["parameters"]["binary_data_size"] = -4
    refused(target.infer_binary({"inputs": inputs}, tail), 400)


@row("b4", "a raw request is one row of the only input; all outputs come back as binary")
def raw(target: Target) -> None:
    target.needs("binary_tensor_data")
    arrays = target.arrays()
    if len(arrays) != 1 or next(iter(arrays.values())).dtype.kind == "O":
        refused(target.infer(b"\0" * 7, **{HEADER: "0"}), 400)
        raise NotOffered("the model has more than one input, or texts")
    body = encoded(next(iter(arrays.values())))
    answer = target.infer(body, **{HEADER: "0"})
    assert same(answer.tensors(), target.answer_of(arrays))
    assert HEADER in answer.headers
    refused(target.infer(body[:-1], **{HEADER: "0"}), 400)


@row("b4", "gzip and deflate requests are inflated, the header counts the inflated JSON")
def compressed_requests(target: Target) -> None:
    arrays = target.arrays()
    plain = target.answer_of(arrays)
    inputs, tail = target.binary_inputs(arrays)
    text = json.dumps({"inputs": inputs}).encode()
    for coding, pack in (("gzip", gzip.compress), ("deflate", zlib.compress)):
        answer = target.infer(pack(text + tail), **{HEADER: str(len(text)), "Content-Encoding": coding})
        assert same(answer.tensors(), plain), coding
        refused(target.infer(pack(text + tail)[:-5], **{HEADER: str(len(text)), "Content-Encoding": coding}), 400)
        refused(target.infer(text + tail, **{HEADER: str(len(text)), "Content-Encoding": coding}), 400)
    refused(target.infer(text + tail, **{HEADER: str(len(text)), "Content-Encoding": "br"}), 400, 415, 501)


@row("b4", "answers are compressed where that is asked for, and by nothing but gzip and deflate")
def compressed_answers(target: Target) -> None:
    arrays = target.arrays()
    plain = target.answer_of(arrays)
    inputs, tail = target.binary_inputs(arrays)
    text = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    for coding, unpack in (("gzip", gzip.decompress), ("deflate", zlib.decompress)):
        answer = _undecoded(target, text + tail, {HEADER: str(len(text)), "Accept-Encoding": coding})
        assert answer.headers["content-encoding"] == coding
        assert same(Answer(answer.status, answer.headers, unpack(answer.body)).tensors(), plain)
    answer = _undecoded(target, text + tail, {HEADER: str(len(text)), "Accept-Encoding": "br, zstd"})
    assert answer.headers.get("content-encoding", "identity") == "identity"


def _undecoded(target: Target, body: bytes, headers: dict[str, str]) -> Answer:
    with target.client.stream("POST", f"{target.path}/infer", content=body, headers=headers) as response:
        return Answer(response.status_code, response.headers, b"".join(response.iter_raw()))


@row("b4", "what is sent in chunks, without a content type, or slowly, is read")
def transports(target: Target) -> None:
    arrays = target.arrays()
    inputs, tail = target.binary_inputs(arrays)
    text = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    body = text + tail

    def pieces(size: int) -> list[bytes]:
        return [body[at : at + size] for at in range(0, len(body), size)]

    for size in (7, len(body)):
        headers = {HEADER: str(len(text))}
        response = target.client.post(f"{target.path}/infer", content=iter(pieces(size)), headers=headers)
        answer = Answer(response.status_code, httpx.Headers(response.headers), response.content)
        assert same(answer.tensors(), target.answer_of(arrays))
