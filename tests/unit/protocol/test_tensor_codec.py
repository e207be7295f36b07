"""Tensors in the binary extension."""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from service.domain.tensor import NUMPY_TYPES
from service.errors import InvalidTensor
from service.protocol.heads import NO_DATA, TensorHead
from service.protocol.tensor_codec import array_from_binary, binary_from_array


def head(datatype: str, shape: tuple[int, ...], size: int) -> TensorHead:
    return TensorHead("x", datatype, NUMPY_TYPES[datatype], shape, math.prod(shape), size, NO_DATA)


FIXED = sorted(name for name in NUMPY_TYPES if name != "BYTES")


@given(st.sampled_from(FIXED), hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5), st.data())
def test_every_fixed_size_datatype_and_shape_round_trips(
    datatype: str, shape: tuple[int, ...], data: st.DataObject
) -> None:
    array = data.draw(hnp.arrays(NUMPY_TYPES[datatype], shape))
    blob = bytes(binary_from_array(array))
    again = array_from_binary(head(datatype, shape, len(blob)), b"head" + blob, 4)
    assert again.dtype == array.dtype
    assert again.shape == array.shape
    assert again.tobytes() == array.tobytes()


@given(st.lists(st.binary(max_size=20), max_size=20))
def test_byte_elements_round_trip(elements: list[bytes]) -> None:
    array = np.empty(len(elements), np.object_)
    array[:] = elements
    blob = bytes(binary_from_array(array))
    assert array_from_binary(head("BYTES", (len(elements),), len(blob)), blob, 0).tolist() == elements


def test_the_array_is_a_view_of_the_body() -> None:
    body = np.arange(4, dtype=np.float32).tobytes()
    array = array_from_binary(head("FP32", (2, 2), 16), body, 0)
    assert np.shares_memory(array, np.frombuffer(body, np.uint8))
    assert not array.flags.writeable


def test_a_large_output_is_a_view_of_the_array() -> None:
    array = np.arange(2000, dtype=np.float32)
    assert np.shares_memory(np.frombuffer(binary_from_array(array), np.uint8), array)


@pytest.mark.parametrize("count", [0, 1, 40, 2000])
def test_an_output_goes_out_row_by_row_however_it_lies_in_memory(count: int) -> None:
    array = np.arange(4 * count, dtype=np.float32).reshape(2, 2 * count).T
    assert bytes(binary_from_array(array)) == b"".join(value.tobytes() for value in array.flat)


def test_text_elements_are_written_as_utf_8() -> None:
    assert binary_from_array(np.array(["grün"], dtype=np.object_)) == struct.pack("<I", 5) + "grün".encode()


@pytest.mark.parametrize(
    ("datatype", "shape", "blob", "message"),
    [
        ("FP32", (2,), bytes(4), r"unexpected size for input 'x': 4 bytes, where FP32 \[2\] has 8"),
        ("FP32", (2,), bytes(12), "12 bytes"),
        ("INT64", (0,), bytes(8), "8 bytes"),
        ("FP32", (2**40, 2**40), bytes(4), "unexpected size"),
        ("BOOL", (2,), b"\x00\x02", "holds a byte other than 0 and 1"),
        ("BYTES", (1,), b"", r"has 0 elements; its shape \[1\] has 1"),
        ("BYTES", (1,), struct.pack("<I", 1) + b"a" + struct.pack("<I", 0), "has 2 elements"),
        ("BYTES", (1,), bytes(4 * 10**7), "has over 1 elements"),
        ("BYTES", (1,), b"\x01\x00", "element 0 of input 'x' runs past the tensor's end"),
        ("BYTES", (2,), struct.pack("<I", 0) + struct.pack("<I", 2**32 - 1) + b"abc", "element 1"),
    ],
)
def test_bytes_that_do_not_fit_are_refused(datatype: str, shape: tuple[int, ...], blob: bytes, message: str) -> None:
    with pytest.raises(InvalidTensor, match=message):
        array_from_binary(head(datatype, shape, len(blob)), blob, 0)


@given(st.binary(max_size=60), st.integers(0, 5))
def test_arbitrary_byte_elements_are_read_or_refused_and_nothing_else(blob: bytes, count: int) -> None:
    try:
        array: Any = array_from_binary(head("BYTES", (count,), len(blob)), blob, 0)
    except InvalidTensor:
        return
    assert sum(4 + len(element) for element in array) == len(blob)
