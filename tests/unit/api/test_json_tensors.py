"""Tensors in JSON: exact for every datatype, refused when a value does not fit, NaN both ways."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api.json_tensors import array_from_json, dump_json, json_values, parse_json
from service.api.tensor_space import TensorSpace
from service.domain.inference import Array
from service.errors import InvalidInput, InvalidTensor
from service.protocol.heads import read_head


def written(array: Array, datatype: str, **more: Any) -> bytes:
    """A response with one output of this data."""
    return dump_json({"id": None} | more | {"outputs": [{"data": json_values(array, datatype)}]})


def decoded(data: str, datatype: str = "FP32", shape: list[int] | None = None) -> Array:
    """The array of one input whose `data` is this JSON text."""
    given_shape = json.dumps([json.loads(data).__len__()] if shape is None else shape)
    text = f'{{"inputs":[{{"name":"x","datatype":"{datatype}","shape":{given_shape},"data":{data}}}]}}'
    return array_from_json(read_head(parse_json(text.encode())).inputs[0])


INTEGERS = {name: np.iinfo(name.lower()) for name in ("UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT32", "INT64")}


@pytest.mark.parametrize("datatype", INTEGERS)
def test_integers_are_exact_to_their_limits_and_refused_beyond(datatype: str) -> None:
    limits = INTEGERS[datatype]
    low, high = int(limits.min), int(limits.max)
    assert decoded(f"[{low},{high}]", datatype).tolist() == [low, high]
    for beyond in (low - 1, high + 1):
        with pytest.raises(InvalidInput):
            decoded(f"[{beyond}]", datatype)


def test_the_numbers_of_large_tensors_of_one_size_adjoin() -> None:
    space, count = TensorSpace(), 20_000
    arrays = []
    for value in (1.5, 2.5):
        text = f'{{"inputs":[{{"name":"x","datatype":"FP32","shape":[{count}],"data":{[value] * count}}}]}}'
        arrays.append(array_from_json(read_head(parse_json(text.encode())).inputs[0], space))
    assert [set(array.tolist()) for array in arrays] == [{1.5}, {2.5}]
    assert arrays[1].ctypes.data == arrays[0].ctypes.data + arrays[0].nbytes


@given(st.lists(st.floats(allow_nan=False, width=32), max_size=30))
def test_fp32_survives_the_way_in_and_out(values: list[float]) -> None:
    array = decoded(json.dumps(values), shape=[len(values)])
    assert array.tolist() == values
    assert np.array(json.loads(written(array, "FP64"))["outputs"][0]["data"], np.float32).tolist() == values


def test_data_may_be_nested_flat_or_anything_between() -> None:
    for data in ("[1,2,3,4]", "[[1,2],[3,4]]", "[[[1],[2]],[3,4]]"):
        assert decoded(data, shape=[2, 2]).tolist() == [[1, 2], [3, 4]]


def test_nan_and_infinity_are_read_and_written_as_literals() -> None:
    array = decoded("[NaN, 1.5, -Infinity]")
    assert math.isnan(array[0])
    assert array[1:].tolist() == [1.5, -math.inf]
    assert written(array, "FP64") == b'{"id":null,"outputs":[{"data":[NaN,1.5,-Infinity]}]}'


def test_a_name_with_null_in_it_costs_no_value() -> None:
    array = np.array([1.5], np.float32)
    assert written(array, "FP32", id="null") == b'{"id":"null","outputs":[{"data":[1.5]}]}'
    array[0] = np.nan
    assert written(array, "FP32", id="a null\ud800") == b'{"id":"a null\\ud800","outputs":[{"data":[NaN]}]}'


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("values", [[math.nan], [1, math.inf], [-math.inf, 2], [math.nan, math.nan, 3, math.inf]])
def test_every_number_that_json_lacks_is_written_in_its_place(values: list[float], dtype: type) -> None:
    found = json.loads(written(np.array(values, dtype), "FP32"))["outputs"][0]["data"]
    assert np.array_equal(found, values, equal_nan=True)


def test_booleans_and_text_go_both_ways() -> None:
    assert decoded("[true,false]", "BOOL").tolist() == [True, False]
    words = decoded('["grün","",["b"]]', "BYTES", [3])
    assert words.tolist() == ["grün".encode(), b"", b"b"]
    assert json_values(words, "BYTES") == ["grün", "", "b"]
    assert json_values(np.array([b"\xff"], np.object_), "BYTES") == ["\ufffd"]


def test_an_empty_tensor_is_a_tensor() -> None:
    assert decoded("[]", shape=[0, 4]).shape == (0, 4)
    assert decoded("[[],[]]", "INT64", [2, 0]).shape == (2, 0)


@pytest.mark.parametrize(
    ("data", "datatype", "message"),
    [
        ("[1.5]", "INT32", "holds a value that INT32 cannot"),
        ("[true]", "FP32", "holds a value that FP32 cannot"),
        ('["1"]', "FP32", "holds a value that FP32 cannot"),
        ("[null]", "INT64", "holds a value that INT64 cannot"),
        ("[1e39]", "FP32", "out of the range of FP32"),
        ("[-1]", "UINT64", "holds a value that UINT64 cannot"),
        ("[1]", "BOOL", "holds 1, which BOOL cannot; send true and false"),
        ("[1]", "BYTES", "holds 1, which BYTES cannot; send strings"),
        ('["a",[null]]', "BYTES", "holds None, which BYTES cannot; send strings"),
        ('["a","b"]', "BYTES", r"has 2 elements; its shape \[1\] has 1"),
        ("[NaN]", "INT64", "holds nan, which INT64 cannot"),
        ('[NaN,"1"]', "FP32", "holds '1', which FP32 cannot"),
        ("[NaN,true]", "FP32", "holds True, which FP32 cannot"),
        (
            "[1]",
            "FP16",
            "receiving FP16 data via JSON is not supported. Please use the binary data format for input 'x'",
        ),
        ("[1]", "BF16", "receiving BF16 data via JSON is not supported"),
    ],
)
def test_a_value_that_the_datatype_cannot_hold_is_refused(data: str, datatype: str, message: str) -> None:
    with pytest.raises(InvalidTensor, match=message):
        decoded(data, datatype, [1])


@pytest.mark.parametrize("data", ["5", '"text"', "{}", "true", "NaN"])
def test_data_that_is_no_list_is_refused(data: str) -> None:
    with pytest.raises(InvalidTensor):
        decoded(data, shape=[1])


@pytest.mark.parametrize("data", ["[1,2,3]", "[]", "[[1],[2,3]]"])
def test_a_wrong_count_of_elements_is_refused(data: str) -> None:
    with pytest.raises(InvalidTensor, match=r"elements; its shape \[2, 1\] has 2"):
        decoded(data, shape=[2, 1])


@pytest.mark.parametrize("depth", [101, 100_000])
@pytest.mark.parametrize("value", ["1", "NaN"])
def test_absurd_nesting_is_refused_and_breaks_nothing(depth: int, value: str) -> None:
    text = '{"inputs":[{"name":"x","datatype":"BOOL","shape":[1],"data":' + "[" * depth + value + "]" * depth + "}]}"
    with pytest.raises(InvalidInput):
        array_from_json(read_head(parse_json(text.encode())).inputs[0])


@pytest.mark.parametrize(
    "text", [b"", b"{", b"nothing", b"{} {}", b"\xff", b'{"a": NaN', b"\x00", b'{"a":"\xed\xa0\x80"}']
)
def test_text_that_is_no_json_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidInput, match=r"not JSON|not UTF-8"):
        parse_json(text)


json_texts = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["inputs", "name", "data"]), inner),
    max_leaves=15,
)


@given(json_texts)
def test_any_json_is_a_head_or_refused_and_nothing_else(value: Any) -> None:
    try:
        for tensor in read_head(parse_json(json.dumps(value).encode())).inputs:
            array_from_json(tensor)
    except InvalidInput:
        pass


def test_half_a_surrogate_pair_is_refused_in_a_tensor_and_sent_back_in_an_id() -> None:
    """Only the parser for NaN lets it through, and UTF-8 has no bytes for it."""
    text = b'{"id":"\\ud800","inputs":[{"name":"x","shape":[2],"datatype":"BYTES","data":["a","\\ud800"]}],"n":NaN}'
    head = read_head(parse_json(text))
    with pytest.raises(InvalidTensor, match="half a surrogate pair"):
        array_from_json(head.inputs[0])
    assert json.loads(written(np.ones(2, np.float32), "FP32", id=head.id))["id"] == "\ud800"


def test_an_array_that_is_longer_than_the_parser_counts_breaks_nothing() -> None:
    for text in (b'{"outputs":[%s]}', b'{"inputs":[%s]}', b'{"inputs":[{"name":[[%s]]}]}', b"[%s]"):
        with pytest.raises(InvalidInput, match="may hold 1048576 values beside the numbers"):
            parse_json(text % b",".join([b"0"] * 2**24))


def test_flags_and_texts_in_an_array_that_is_longer_than_the_parser_counts_are_refused() -> None:
    data = b",".join([b"0"] * 2**24)
    for datatype in (b"BOOL", b"BYTES"):
        text = b'{"inputs":[{"name":"x","shape":[1],"datatype":"%s","data":[[%s]]}]}' % (datatype, data)
        with pytest.raises(InvalidInput, match="send tensors as binary data"):
            parse_json(text)


def test_a_tensor_without_data_stays_without() -> None:
    text = b'{"inputs":[{"name":"x","shape":[1],"datatype":"BOOL","parameters":{"binary_data_size":1}}]}'
    assert read_head(parse_json(text)).inputs[0].size == 1


def test_numbers_of_any_count_are_read_from_a_long_body() -> None:
    text = b'{"inputs":[{"name":"x","shape":[%d],"datatype":"UINT8","data":[[%s]]}]}'
    head = read_head(parse_json(text % (2**24, b",".join([b"7"] * 2**24))))
    assert np.array_equal(array_from_json(head.inputs[0]), np.full(2**24, 7, np.uint8))


@pytest.mark.parametrize("text", [b"{%s}", b'{"inputs":[{%s}]}'])
def test_an_object_of_very_many_members_is_refused_at_once(text: bytes) -> None:
    members = b",".join(b'"member %d":0' % number for number in range(1025))
    with pytest.raises(InvalidInput, match="1025 members; send at most 1024"):
        parse_json(text % members)


def test_bf16_is_written_as_the_numbers_that_its_words_are() -> None:
    words = (np.array([1.0, -2.5, np.inf], np.float32).view(np.uint32) >> 16).astype(np.uint16)
    assert np.asarray(json_values(words, "BF16")).tolist() == [1.0, -2.5, np.inf]


@pytest.mark.parametrize("place", ["top", "tensor", "parameters"])
def test_a_name_with_a_nul_in_it_is_a_name(place: str) -> None:
    tensor: dict[str, Any] = {"name": "x", "shape": [2], "datatype": "FP32", "data": [1, 2]}
    value: dict[str, Any] = {"inputs": [tensor], "parameters": {}}
    {"top": value, "tensor": tensor, "parameters": value["parameters"]}[place]["a\0b"] = 1
    head = read_head(parse_json(json.dumps(value).encode()))
    assert array_from_json(head.inputs[0]).tolist() == [1, 2]


def test_data_that_is_an_object_is_told_as_it_was_sent() -> None:
    with pytest.raises(InvalidTensor, match=r"the data of input 'x' is \{'a': \[1\]\}; send a list"):
        decoded('{"a":[1]}', shape=[1])
