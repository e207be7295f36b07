"""Tensors in contents: every datatype there and back, and numbers that do not fit refused by element."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from service.domain.tensor import NUMPY_TYPES
from service.errors import InvalidTensor, Unsupported
from service.protocol.heads import TensorHead
from service.rpc.generated.inference_pb2 import InferTensorContents
from service.rpc.typed_contents import array_from_contents, contents_from_array

HALF = ("FP16", "BF16")
NUMBERS = sorted(name for name in NUMPY_TYPES if name not in (*HALF, "BYTES"))


def head(datatype: str, shape: tuple[int, ...], contents: InferTensorContents) -> TensorHead:
    return TensorHead("x", datatype, NUMPY_TYPES[datatype], shape, math.prod(shape), None, contents)


@given(st.sampled_from(NUMBERS), hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5), st.data())
def test_every_number_and_shape_round_trips(datatype: str, shape: tuple[int, ...], data: st.DataObject) -> None:
    array = data.draw(hnp.arrays(NUMPY_TYPES[datatype], shape))
    written = contents_from_array("x", datatype, array).SerializeToString()
    again = array_from_contents(head(datatype, shape, InferTensorContents.FromString(written)))
    assert (again.dtype, again.shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(again, array)


@given(st.lists(st.binary(max_size=20), max_size=20))
def test_byte_elements_round_trip(elements: list[bytes]) -> None:
    array = np.empty(len(elements), np.object_)
    array[:] = elements
    contents = contents_from_array("x", "BYTES", array)
    assert array_from_contents(head("BYTES", (len(elements),), contents)).tolist() == elements


def test_text_elements_are_written_as_utf_8() -> None:
    contents = contents_from_array("x", "BYTES", np.array(["grün"], np.object_))
    assert list(contents.bytes_contents) == ["grün".encode()]


@pytest.mark.parametrize("datatype", HALF)
def test_half_precision_has_no_place_in_contents(datatype: str) -> None:
    with pytest.raises(InvalidTensor, match=f"receiving {datatype} data in contents.*raw_input_contents for input 'x'"):
        array_from_contents(head(datatype, (1,), InferTensorContents(fp32_contents=[1])))
    with pytest.raises(Unsupported, match=f"output 'y' is {datatype}.*binary_data"):
        contents_from_array("y", datatype, np.zeros(1, NUMPY_TYPES[datatype]))


@pytest.mark.parametrize(
    ("datatype", "contents", "message"),
    [
        ("INT8", {"int_contents": [1, 128]}, "element 1 of input 'x' is 128, which INT8 cannot hold"),
        ("INT16", {"int_contents": [-32769, 0]}, "element 0 of input 'x' is -32769, which INT16 cannot hold"),
        ("UINT8", {"uint_contents": [0, 256]}, "element 1 of input 'x' is 256, which UINT8 cannot hold"),
        ("FP32", {"fp32_contents": [1]}, r"input 'x' has 1 elements; its shape \[2\] has 2"),
        ("FP32", {"int_contents": [1, 2]}, "input 'x' is FP32 and has int_contents; send fp32_contents alone"),
        ("FP32", {"fp32_contents": [1, 2], "fp64_contents": [1]}, "has fp64_contents; send fp32_contents alone"),
        ("FP32", {}, "input 'x' has 0 elements"),
    ],
)
def test_contents_that_do_not_fit_are_refused_by_name(datatype: str, contents: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidTensor, match=message):
        array_from_contents(head(datatype, (2,), InferTensorContents(**contents)))


def test_more_values_than_can_be_taken_one_by_one_are_refused() -> None:
    many = InferTensorContents(bool_contents=np.zeros(2**23 + 1, np.bool_).tolist())
    with pytest.raises(InvalidTensor, match="8388609 values in contents; send over 8388608 as raw_input_contents"):
        array_from_contents(head("BOOL", (2**23 + 1,), many))
