"""A request's bytes: heads that are remembered, tensors behind them, and requests that are one raw tensor."""

from __future__ import annotations

import json

import numpy as np
import pytest

from service.api.infer_request import HeadReader, decode_raw, decode_request, header_length, raw_head
from service.domain.tensor import TensorSpec
from service.errors import InvalidInput, InvalidTensor


def text(size: int = 8, **more: object) -> bytes:
    tensor = {"name": "x", "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": size}}
    return json.dumps({"inputs": [tensor], **more}).encode()


def test_the_same_head_is_read_once() -> None:
    reader = HeadReader()
    assert reader.read(text()) is reader.read(text())
    assert reader.read(text(id="a")) is not reader.read(text(id="b"))


def test_heads_with_data_and_long_heads_are_not_kept() -> None:
    reader = HeadReader()
    inline = json.dumps({"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}]}).encode()
    long = text(id="i" * 4000)
    assert reader.read(inline) is not reader.read(inline)
    assert reader.read(long) is not reader.read(long)


def test_ever_new_heads_do_not_pile_up() -> None:
    reader = HeadReader()
    for number in range(2000):
        reader.read(text(id=str(number)))
    assert len(reader._seen) <= 512


def test_tensors_are_found_behind_the_head_in_order() -> None:
    head = HeadReader().read(
        json.dumps(
            {
                "inputs": [
                    {"name": "a", "shape": [2], "datatype": "UINT8", "parameters": {"binary_data_size": 2}},
                    {"name": "b", "shape": [1], "datatype": "INT64", "data": [5]},
                    {"name": "c", "shape": [1], "datatype": "FP32", "parameters": {"binary_data_size": 4}},
                ]
            }
        ).encode()
    )
    body = b"???" + bytes([1, 2]) + np.float32(7).tobytes()
    arrays = decode_request(head, body, 3, "m").inputs
    assert {name: array.tolist() for name, array in arrays.items()} == {"a": [1, 2], "b": [5], "c": [7]}


@pytest.mark.parametrize(
    ("behind", "message"),
    [
        (b"1234567", "unexpected size for input 'x', expecting 1 additional bytes for model 'm'"),
        (b"", "expecting 8 additional bytes"),
        (b"123456789", "unexpected additional input data for model 'm': 1 bytes"),
    ],
)
def test_missing_and_surplus_bytes_are_refused(behind: bytes, message: str) -> None:
    with pytest.raises(InvalidTensor, match=message):
        decode_request(HeadReader().read(text()), behind, 0, "m")


@pytest.mark.parametrize(("value", "length"), [(None, None), (b"0", 0), (b"10", 10)])
def test_the_header_length_is_read(value: bytes | None, length: int | None) -> None:
    assert header_length(value, 10) == length


@pytest.mark.parametrize("value", [b"11", b"-1", b"", b"ten", b"1.0", b"9" * 50, "²".encode("latin-1")])
def test_a_wrong_header_length_is_refused(value: bytes) -> None:
    with pytest.raises(
        InvalidInput, match=r"Inference-Header-Content-Length is .*; send the bytes of the JSON part, 0 to 10"
    ):
        header_length(value, 10)


@pytest.mark.parametrize(
    ("spec", "size", "shape"),
    [
        (TensorSpec("x", "FP32", (-1, 2, 2)), 16, (1, 2, 2)),
        (TensorSpec("x", "FP32", (-1, -1)), 20, (1, 5)),
        (TensorSpec("x", "FP32", (-1,)), 4, (1,)),
        (TensorSpec("x", "UINT8", (3, -1)), 12, (3, 4)),
        (TensorSpec("x", "BYTES", (-1, 1)), 99, (1, 1)),
    ],
)
def test_a_raw_body_is_one_row_and_its_size_gives_one_open_axis(
    spec: TensorSpec, size: int, shape: tuple[int, ...]
) -> None:
    head = raw_head((spec,), size, "m", batched=True)
    assert head.inputs[0].shape == shape
    assert head.inputs[0].size == size
    assert head.binary_default


def test_the_one_open_axis_of_a_model_without_a_batch_is_its_first_if_that_is_open() -> None:
    head = raw_head((TensorSpec("x", "FP32", (-1,)),), 12, "m", batched=False)
    assert head.inputs[0].shape == (3,)


def test_a_raw_body_that_leaves_a_choice_is_refused() -> None:
    spec = TensorSpec("x", "FP32", (-1, -1, -1))
    with pytest.raises(InvalidTensor, match="input 'x' of model 'm' has 2 open axes"):
        raw_head((spec,), 16, "m", batched=True)
    with pytest.raises(InvalidTensor, match="model 'm' has 2 inputs"):
        raw_head((spec, spec), 16, "m", batched=True)


@pytest.mark.parametrize("body", [b"", b"caf\xc3\xa9", bytes(9)])
def test_a_raw_body_of_bytes_is_one_element_as_it_is(body: bytes) -> None:
    head = raw_head((TensorSpec("x", "BYTES", (-1, 1)),), len(body), "m", batched=True)
    assert decode_raw(head, body, "m").inputs["x"].tolist() == [[body]]
    words = raw_head((TensorSpec("x", "INT16", (-1, 2)),), 4, "m", batched=True)
    assert decode_raw(words, bytes([1, 0, 2, 0]), "m").inputs["x"].tolist() == [[1, 2]]
