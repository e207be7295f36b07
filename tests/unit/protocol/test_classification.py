"""Outputs as their best classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from service.errors import InvalidTensor
from service.protocol.classification import class_strings


def test_each_row_gives_its_largest_values_first_with_six_decimals_and_labels() -> None:
    values = np.array([[0.1, 0.7, 0.2], [3, 2, 1]], np.float32)
    strings = class_strings(values, "FP32", 2, ("cat", "dog"), batched=True)
    assert strings.tolist() == [[b"0.700000:1:dog", b"0.200000:2"], [b"3.000000:0:cat", b"2.000000:1:dog"]]


def test_more_classes_than_there_are_give_all_and_all_axes_but_the_batch_are_classes() -> None:
    values = np.arange(8, dtype=np.int64).reshape(2, 2, 2)
    strings = class_strings(values, "INT64", 100, (), batched=True)
    assert strings.tolist() == [[b"3:3", b"2:2", b"1:1", b"0:0"], [b"7:3", b"6:2", b"5:1", b"4:0"]]


def test_without_a_batch_axis_the_whole_output_is_one_run_of_classes() -> None:
    strings = class_strings(np.array([[1, 9], [4, 2]], np.uint8), "UINT8", 2, ("a",), batched=False)
    assert strings.tolist() == [b"9:1", b"4:2"]


def test_a_scalar_is_one_class() -> None:
    assert class_strings(np.array(7, np.uint64), "UINT64", 2, ("a",), batched=True).tolist() == [b"7:0:a"]


def test_equal_values_come_by_index_and_what_is_no_number_last() -> None:
    values = np.array([[np.nan, 1, 1, -np.inf]])
    strings = class_strings(values, "FP64", 4, (), batched=True)
    assert strings.tolist() == [[b"1.000000:1", b"1.000000:2", b"-inf:3", b"nan:0"]]


@pytest.mark.parametrize(("datatype", "dtype"), [("UINT64", np.uint64), ("INT64", np.int64), ("FP16", np.float16)])
def test_the_extremes_of_a_datatype_keep_their_order(datatype: str, dtype: type) -> None:
    limits: Any = np.finfo(dtype) if datatype == "FP16" else np.iinfo(dtype)
    values: Any = np.array([[limits.min, limits.max, 0]], dtype)
    ((best, *_),) = class_strings(values, datatype, 3, (), batched=True).tolist()
    assert best.endswith(b":1")


def test_bf16_is_ordered_by_its_values_and_not_by_its_words() -> None:
    words = (np.array([[-4.0, 1.5]], np.float32).view(np.uint32) >> 16).astype(np.uint16)
    assert class_strings(words, "BF16", 1, (), batched=True).tolist() == [[b"1.500000:1"]]


def test_very_many_classes_are_refused() -> None:
    values = np.zeros((2, 2**17 + 1), np.float32)
    with pytest.raises(InvalidTensor, match="131073 classes of 2 rows; ask for at most 262144 in all"):
        class_strings(values, "FP32", 2**40, (), batched=True)
    assert class_strings(values, "FP32", 2, (), batched=True).shape == (2, 2)


@pytest.mark.parametrize("shape", [(0, 4), (2, 0), (0,), (2**40, 0)])
def test_an_output_without_elements_has_no_classes(shape: tuple[int, ...]) -> None:
    assert class_strings(np.empty(shape, np.float32), "FP32", 3, (), batched=True).shape == (shape[0], 0)


@pytest.mark.parametrize("datatype", ["BOOL", "BYTES"])
def test_an_output_without_an_order_is_refused(datatype: str) -> None:
    with pytest.raises(
        InvalidTensor, match=f"class result not available for output due to unsupported type '{datatype}'"
    ):
        class_strings(np.zeros((1, 2), np.bool_), datatype, 1, (), batched=True)
