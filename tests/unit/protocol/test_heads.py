"""The head of an infer request: what is read from it, and what each wrong field is answered."""

from __future__ import annotations

from typing import Any

import pytest

from service.api.json_tensors import array_from_json
from service.errors import InvalidInput, OctavoError, Unsupported
from service.protocol.heads import OutputHead, read_head

TENSOR: dict[str, Any] = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}
BINARY: dict[str, Any] = {"name": "x", "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": 8}}


def test_a_whole_head_is_read() -> None:
    head = read_head(
        {
            "id": "7",
            "parameters": {"variant": "int8", "timeout": 1500, "binary_data_output": True, "priority": 3, "mine": "x"},
            "inputs": [BINARY],
            "outputs": [{"name": "y", "parameters": {"binary_data": True}}, {"name": "z"}],
        }
    )
    assert (head.id, head.variant, head.timeout_seconds, head.binary_default) == ("7", "int8", 0.0015, True)
    assert head.outputs == (OutputHead("y", True), OutputHead("z", False))
    assert head.output_names == ("y", "z")
    (tensor,) = head.inputs
    assert (tensor.name, tensor.datatype, tensor.shape, tensor.elements, tensor.size) == ("x", "FP32", (1, 2), 2, 8)


def test_what_is_left_out_has_the_protocols_defaults() -> None:
    head = read_head({"inputs": [TENSOR], "outputs": []})
    assert (head.id, head.variant, head.timeout_seconds, head.binary_default, head.outputs) == (None,) * 3 + (
        False,
        None,
    )


def test_an_output_may_be_asked_for_as_its_best_classes() -> None:
    head = read_head({"inputs": [TENSOR], "outputs": [{"name": "y", "parameters": {"classification": 3}}]})
    assert head.outputs == (OutputHead("y", False, 3),)


def test_a_sequence_of_none_is_no_sequence() -> None:
    assert read_head({"inputs": [TENSOR], "parameters": {"sequence_id": 0, "timeout": 0}}).timeout_seconds is None


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ([], r"the request is \[\]; send a JSON object"),
        ({}, "'inputs' is None; send a list"),
        ({"inputs": []}, r"'inputs' is \[\]"),
        ({"inputs": {"x": 1}}, "'inputs' is"),
        ({"inputs": [TENSOR] * 2000}, "send a list of 1 to 1024 tensors"),
        (
            {"inputs": [TENSOR | {"name": name, "datatype": "BYTES", "shape": [2**17 + 1]} for name in "ab"]},
            "the request has 262146 BYTES elements; send at most 262144",
        ),
        ({"inputs": [7]}, "an input is 7"),
        ({"inputs": [TENSOR, TENSOR]}, "'inputs' names a tensor twice"),
        ({"inputs": [TENSOR | {"name": 5}]}, "an input's 'name' is 5"),
        (
            {"inputs": [TENSOR | {"name": "n" * 1001}]},
            "'name' is 'nnn.*send a string of 1 to 1000 characters",
        ),
        ({"inputs": [TENSOR], "outputs": [{"name": "n" * 1001}]}, "an output is .*a name of 1 to 1000 characters"),
        ({"inputs": [TENSOR | {"datatype": "FLOAT"}]}, "the datatype of input 'x' is 'FLOAT'; send one of BOOL"),
        ({"inputs": [TENSOR | {"datatype": ["FP32"]}]}, "the datatype of input 'x'"),
        ({"inputs": [TENSOR | {"shape": 3}]}, "the shape of input 'x' is 3"),
        ({"inputs": [TENSOR | {"shape": [1] * 33}]}, "send at most 32 integers"),
        ({"inputs": [TENSOR | {"shape": [-1, 2]}]}, "the shape of input 'x' holds -1"),
        ({"inputs": [TENSOR | {"shape": [1.0]}]}, "holds 1.0"),
        ({"inputs": [TENSOR | {"shape": [True]}]}, "holds True"),
        ({"inputs": [TENSOR | {"shape": [2**60]}]}, "send integers from 0"),
        ({"inputs": [TENSOR | {"parameters": 4}]}, "'parameters' of input 'x' is 4"),
        ({"inputs": [BINARY | {"data": [1]}]}, "input 'x' has 2 of data, binary_data_size, shared_memory_region"),
        ({"inputs": [{"name": "x", "shape": [0], "datatype": "FP32"}]}, "input 'x' has 0 of data"),
        ({"inputs": [BINARY | {"parameters": {"binary_data_size": -1}}]}, "'binary_data_size' of input 'x' is -1"),
        ({"inputs": [BINARY | {"parameters": {"binary_data_size": "8"}}]}, "'binary_data_size' of input 'x' is '8'"),
        ({"inputs": [TENSOR], "id": 7}, "'id' is 7"),
        ({"inputs": [TENSOR], "outputs": "y"}, "'outputs' is 'y'"),
        ({"inputs": [TENSOR], "outputs": [{}]}, "an output is {}"),
        ({"inputs": [TENSOR], "outputs": [{"name": "y"}] * 2}, "'outputs' names a tensor twice"),
        (
            {"inputs": [TENSOR], "outputs": [{"name": "y", "parameters": {"binary_data": 1}}]},
            "parameter 'binary_data' is 1; send true or false",
        ),
        ({"inputs": [TENSOR], "parameters": []}, r"'parameters' of the request is \[\]"),
        ({"inputs": [TENSOR], "parameters": {"triton_x": 1}}, "parameter 'triton_x' is reserved"),
        ({"inputs": [TENSOR], "parameters": {"variant": 8}}, "parameter 'variant' is 8"),
        ({"inputs": [TENSOR], "parameters": {"timeout": 1.5}}, "parameter 'timeout' is 1.5"),
        ({"inputs": [TENSOR], "parameters": {"timeout": -1}}, "parameter 'timeout' is -1"),
        ({"inputs": [TENSOR], "parameters": {"priority": -1}}, "parameter 'priority' is -1; send an integer from 0"),
        ({"inputs": [TENSOR], "parameters": {"priority": True}}, "parameter 'priority' is True"),
        ({"inputs": [TENSOR], "parameters": {"priority": 2**64}}, "parameter 'priority' is 18446744073709551616"),
        (
            {"inputs": [TENSOR], "outputs": [{"name": "y", "parameters": {"classification": -1}}]},
            "'classification' of output 'y' is -1; send how many classes",
        ),
        ({"inputs": [TENSOR], "outputs": [{"name": "y", "parameters": {"classification": True}}]}, "'y' is True"),
        ({"inputs": [TENSOR], "outputs": [{"name": "y", "parameters": {"classification": "3"}}]}, "'y' is '3'"),
    ],
)
def test_a_wrong_field_is_named_with_its_value(head: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        read_head(head)


@pytest.mark.parametrize(
    "head",
    [
        {"inputs": [TENSOR], "parameters": {"sequence_id": 3}},
        {"inputs": [TENSOR], "parameters": {"sequence_id": "s-1"}},
        {"inputs": [TENSOR], "parameters": {"sequence_start": True}},
        {"inputs": [TENSOR], "outputs": [{"name": "y", "parameters": {"shared_memory_region": "r"}}]},
        {"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "parameters": {"shared_memory_region": "r"}}]},
    ],
)
def test_extensions_that_are_not_offered_are_refused_not_ignored(head: Any) -> None:
    with pytest.raises(Unsupported, match=r"not offered|stateless"):
        read_head(head)


def test_a_message_stays_short_whatever_the_value() -> None:
    with pytest.raises(OctavoError) as refused:
        read_head({"inputs": [TENSOR | {"datatype": "F" * 1_000_000}]})
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize("timeout", [2**64, 10**400])
def test_a_timeout_beyond_64_bits_is_refused(timeout: int) -> None:
    with pytest.raises(InvalidInput, match="'timeout' is 1"):
        read_head({"parameters": {"timeout": timeout}, "inputs": [TENSOR]})
    assert read_head({"parameters": {"timeout": 2**64 - 1}, "inputs": [TENSOR]}).timeout_seconds == 2**64 / 1e6


@pytest.mark.parametrize("datatype", ["FP64", "BOOL", "BYTES"])
def test_a_tensor_without_elements_is_refused_where_its_other_extents_fit_nothing(datatype: str) -> None:
    def read(shape: list[int]) -> tuple[int, ...]:
        head = read_head({"inputs": [{"name": "x", "shape": shape, "datatype": datatype, "data": []}]})
        return array_from_json(head.inputs[0]).shape

    assert read([0, 2**40, 2**19]) == (0, 2**40, 2**19)
    with pytest.raises(InvalidInput, match="too wide for any tensor"):
        read([0] + [2**40] * 31)
