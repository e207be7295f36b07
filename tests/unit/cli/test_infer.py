"""`octavo infer` and `octavo predict`, with the protocol's reference client as the judge of the wire format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton

from service.cli.exit_codes import CommandFailed
from service.cli.tensors import HEADER_LENGTH, decode_answer, encode_request
from tests.unit.cli.conftest import Octavo
from tests.unit.cli.scripted_server import ScriptedServer

Array = np.ndarray[Any, np.dtype[Any]]
PATH = "/v2/models/digits/infer"
ROWS = np.arange(6, dtype=np.float32).reshape(2, 3)


def binary_answer(*outputs: tuple[str, str, list[int], bytes]) -> tuple[bytes, str]:
    """An answer in binary, as a server writes it: body and header length."""
    described = [
        {"name": name, "datatype": kind, "shape": shape, "parameters": {"binary_data_size": len(data)}}
        for name, kind, shape, data in outputs
    ]
    header = json.dumps({"model_name": "digits", "model_version": "1", "outputs": described}).encode()
    return header + b"".join(data for *_, data in outputs), str(len(header))


def answer_rows(server: ScriptedServer, path: str = PATH) -> None:
    body, length = binary_answer(("logits", "FP32", [2, 3], ROWS.tobytes()))
    server.answer("POST", path, body, inference_header_content_length=length)


@pytest.mark.parametrize(
    ("array", "datatype"),
    [
        (ROWS, "FP32"), (ROWS.astype(np.float16), "FP16"), (ROWS.astype(np.float64), "FP64"),
        (ROWS.astype(">f4"), "FP32"), (np.asfortranarray(ROWS), "FP32"), (ROWS.astype(np.int8), "INT8"),
        (ROWS.astype(np.uint8), "UINT8"), (ROWS.astype(np.uint16), "UINT16"), (ROWS.astype(np.int64), "INT64"),
        (ROWS > 2, "BOOL"), (np.array([["a", "\u00e9\u20ac", ""]]), "BYTES"), (np.array([b"ab", b"c"]), "BYTES"),
        (np.zeros((0, 3), np.float32), "FP32"),
    ],
)  # fmt: skip
def test_a_request_has_the_bytes_that_the_reference_client_sends(array: Array, datatype: str) -> None:
    native = array.astype(array.dtype.newbyteorder("=")) if array.dtype.kind not in "SU" else array.astype(object)
    wanted = triton.InferInput("x", list(array.shape), datatype).set_data_from_numpy(native)
    reference, length = triton.InferenceServerClient.generate_request_body([wanted])
    body, headers = encode_request({"x": array}, None)
    own = int(headers[HEADER_LENGTH])
    assert json.loads(body[:own]) == json.loads(reference[:length])
    assert body[own:] == reference[length:]


def test_an_answer_reads_as_the_reference_client_reads_it() -> None:
    body, length = binary_answer(
        ("logits", "FP32", [2, 3], ROWS.tobytes()),
        ("half", "BF16", [2], np.array([0x3F80, 0xC000], "<u2").tobytes()),
        ("text", "BYTES", [2], b"\x02\0\0\0ab\x01\0\0\0c"),
    )
    reference = triton.InferenceServerClient.parse_response_body(body, header_length=int(length))
    logits, half, text = decode_answer(body, length)["outputs"]
    np.testing.assert_array_equal(logits["data"].reshape(2, 3), reference.as_numpy("logits"))
    np.testing.assert_array_equal(half["data"], reference.as_numpy("half"))
    assert [each.encode() for each in text["data"]] == reference.as_numpy("text").tolist()


@pytest.mark.parametrize(
    ("body", "length"),
    [(b"", None), (b"[]", None), (b'{"outputs": 1}', None), (b"{}", "x"), (b"{}", "-1"),
     (binary_answer(("a", "FP32", [1], b"123")), None), (binary_answer(("a", "BYTES", [1], b"\xff\0\0\0a")), None),
     (binary_answer(("a", "FP99", [1], b"1234")), None)],
)  # fmt: skip
def test_an_answer_that_breaks_the_protocol_is_refused(body: bytes | tuple[bytes, str], length: str | None) -> None:
    content, stated = body if isinstance(body, tuple) else (body, length)
    with pytest.raises(CommandFailed, match="cannot be read"):
        decode_answer(content, stated)


def test_arrays_go_in_binary_and_the_outputs_come_back_as_json(
    octavo: Octavo, server: ScriptedServer, tmp_path: Path
) -> None:
    np.save(tmp_path / "rows.npy", ROWS)
    answer_rows(server)
    outcome = octavo("infer", "digits", "--input", f"input={tmp_path / 'rows.npy'}", "--json")
    assert outcome.document["outputs"][0]["data"] == ROWS.ravel().tolist()
    assert server.only("POST", PATH).body.endswith(ROWS.tobytes())


def test_values_that_json_lacks_come_out_as_null(octavo: Octavo, server: ScriptedServer, tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", ROWS)
    values = np.array([np.nan, np.inf, 0.1], np.float32)
    body, length = binary_answer(("logits", "FP32", [3], values.tobytes()))
    server.answer("POST", PATH, body, inference_header_content_length=length)
    outcome = octavo("infer", "digits", "--input", f"input={tmp_path / 'rows.npy'}", "--json")
    assert outcome.document["outputs"][0]["data"] == [None, None, 0.1]


def test_an_npz_file_names_its_inputs_and_a_variant_and_version_may_be_asked(
    octavo: Octavo, server: ScriptedServer, tmp_path: Path
) -> None:
    np.savez(tmp_path / "rows.npz", first=ROWS, second=ROWS > 1)
    path = "/v2/models/digits/versions/3/infer"
    answer_rows(server, path)
    options = ("--input", tmp_path / "rows.npz", "--variant", "int8-onnxruntime", "--version", "3")
    outcome = octavo("infer", "digits", *options)
    assert outcome.code == 0
    assert "0, 1, 2, 3, 4, 5" in outcome.out
    request = server.only("POST", path)
    sent = json.loads(request.body[: int(request.headers[HEADER_LENGTH.lower()])])
    assert [each["name"] for each in sent["inputs"]] == ["first", "second"]
    assert sent["parameters"]["variant"] == "int8-onnxruntime"


def test_the_outputs_can_be_saved(octavo: Octavo, server: ScriptedServer, tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", ROWS)
    answer_rows(server)
    target = tmp_path / "answers.npz"
    assert octavo("infer", "digits", "--input", f"input={tmp_path / 'rows.npy'}", "--save", target).code == 0
    with np.load(target) as saved:
        np.testing.assert_array_equal(saved["logits"], ROWS)


def test_a_json_body_is_sent_as_it_is(octavo: Octavo, server: ScriptedServer, tmp_path: Path) -> None:
    body = b'{"inputs": [{"name": "input", "shape": [1], "datatype": "FP32", "data": [1]}]}'
    (tmp_path / "request.json").write_bytes(body)
    output = {"name": "logits", "datatype": "FP32", "shape": [2], "data": [0.5, 0.25]}
    server.answer("POST", PATH, {"model_name": "digits", "model_version": "1", "outputs": [output]})
    outcome = octavo("infer", "digits", "--json-body", tmp_path / "request.json", "--json")
    assert server.only("POST", PATH).body == body
    assert outcome.document["outputs"] == [output]


def test_inputs_that_cannot_be_read_are_wrong_usage_and_nothing_is_sent(
    octavo: Octavo, server: ScriptedServer, tmp_path: Path
) -> None:
    plain, pickled, text = (tmp_path / name for name in ("plain.npy", "pickled.npy", "text.npy"))
    np.save(plain, ROWS)
    np.save(pickled, np.array([{}], object), allow_pickle=True)
    text.write_text("not an array")
    (tmp_path / "empty.npy").touch()
    np.savez(tmp_path / "rows.npz", x=ROWS)
    np.save(tmp_path / "complex.npy", ROWS.astype(np.complex64))
    wrong: list[tuple[object, ...]] = [
        (), ("--input", plain), ("--input", f"x={pickled}"), ("--input", f"x={text}"),
        ("--input", f"x={tmp_path / 'empty.npy'}"), ("--input", f"x={tmp_path / 'missing.npy'}"),
        ("--input", f"x={tmp_path}"), ("--input", f"x={tmp_path / 'rows.npz'}"),
        ("--input", f"x={tmp_path / 'complex.npy'}"), ("--input", f"x={plain}", "--input", f"x={plain}"),
        ("--input", f"x={plain}", "--json-body", text), ("--json-body", text, "--variant", "v"),
    ]  # fmt: skip
    assert [octavo("infer", "digits", *options).code for options in wrong] == [2] * len(wrong)
    assert server.received == []


PREDICTION = {
    "model": "digits", "version": 1, "variant": "int8-onnxruntime",
    "predictions": [{"index": 7, "label": "seven", "score": 0.9312}, {"index": 1, "label": None, "score": 0.05}],
}  # fmt: skip


def test_a_picture_is_sent_as_it_is_with_its_type(octavo: Octavo, server: ScriptedServer, tmp_path: Path) -> None:
    (tmp_path / "seven.png").write_bytes(b"\x89PNG...")
    server.answer("POST", "/models/digits/predict", PREDICTION)
    outcome = octavo("predict", "digits", tmp_path / "seven.png", "--top-k", "2")
    assert outcome.code == 0
    assert all(text in outcome.out for text in ("seven", "0.9312", "int8-onnxruntime"))
    request = server.only("POST", "/models/digits/predict")
    assert request.headers["content-type"] == "image/png"
    assert request.query == {"top_k": ["2"]}
    assert request.body == b"\x89PNG..."


def test_a_prediction_with_json_is_the_servers_document(octavo: Octavo, server: ScriptedServer, tmp_path: Path) -> None:
    (tmp_path / "seven.jpg").write_bytes(b"jpeg")
    server.answer("POST", "/models/digits/predict", PREDICTION)
    assert octavo("predict", "digits", tmp_path / "seven.jpg", "--json").document == PREDICTION
