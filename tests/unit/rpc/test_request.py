"""What a request over gRPC asks of the router: the same as one over HTTP, by the same checks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from service.errors import InvalidInput, InvalidTensor, NotFound, OctavoError, Unsupported
from service.rpc.generated.inference_pb2 import ModelInferRequest
from service.rpc.request import HeadReader, InferHead, decode_request, target_of
from service.rpc.wire import InferMessage, take_apart

Change = Callable[[ModelInferRequest], Any]


def request(*changes: Change, raw: tuple[bytes, ...] = (b"\0" * 8,)) -> InferMessage:
    """Two numbers for input x of model m, raw."""
    message = ModelInferRequest(model_name="m", raw_input_contents=raw)
    message.inputs.add(name="x", datatype="FP32", shape=[1, 2])
    for change in changes:
        change(message)
    return take_apart(message.SerializeToString())


def read(*changes: Change, raw: tuple[bytes, ...] = (b"\0" * 8,)) -> InferHead:
    return HeadReader().read(request(*changes, raw=raw))


def ask(name: str, binary: bool | None = None) -> Change:
    def change(message: ModelInferRequest) -> None:
        output = message.outputs.add(name=name)
        if binary is not None:
            output.parameters["binary_data"].bool_param = binary

    return change


def set_parameter(name: str, kind: str, value: object) -> Change:
    return lambda message: setattr(message.parameters[name], kind, value)


def test_the_head_says_whom_it_is_for_and_what_it_holds() -> None:
    head = read(lambda message: setattr(message, "model_version", "3"), ask("y"))
    assert head.target == ("m", 3)
    assert not head.typed
    (tensor,) = head.head.inputs
    assert (tensor.name, tensor.datatype, tensor.shape, tensor.size) == ("x", "FP32", (1, 2), 8)
    assert head.head.output_names == ("y",)


@pytest.mark.parametrize(
    ("kind", "value", "seconds"),
    [("int64_param", 2_000_000, 2.0), ("uint64_param", 500_000, 0.5), ("int64_param", 0, None)],
)
def test_parameters_mean_what_they_mean_over_http(kind: str, value: int, seconds: float | None) -> None:
    head = read(set_parameter("timeout", kind, value), set_parameter("variant", "string_param", "int8-onnxruntime"))
    assert (head.head.timeout_seconds, head.head.variant) == (seconds, "int8-onnxruntime")


def test_a_head_is_read_once_for_requests_that_differ_in_id_and_values_only() -> None:
    heads = HeadReader()
    first = heads.read(request(lambda message: setattr(message, "id", "1"), raw=(b"12345678",)))
    assert heads.read(request(lambda message: setattr(message, "id", "2"), raw=(b"87654321",))) is first
    assert heads.read(request(raw=(b"1234",))) is not first


def test_typed_values_are_no_part_of_what_is_remembered() -> None:
    def typed(value: float) -> InferMessage:
        return request(lambda message: message.inputs[0].contents.fp32_contents.extend([value, 0]), raw=())

    heads = HeadReader()
    for value in (1.0, 2.0):
        message = typed(value)
        assert decode_request(heads.read(message).head, message).inputs["x"].tolist() == [[value, 0]]


def test_the_heads_that_are_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.rpc.request._CACHED_HEADS", 4)
    heads = HeadReader()
    for number in range(20):
        heads.read(request(set_parameter("n", "int64_param", number)))
        assert len(heads._seen) <= 4


def test_the_arrays_are_views_of_the_message() -> None:
    message = request(raw=(np.array([1, 2], np.float32).tobytes(),))
    array = decode_request(HeadReader().read(message).head, message).inputs["x"]
    assert array.tolist() == [[1, 2]]
    assert np.shares_memory(array, np.frombuffer(message.message, np.uint8))


def test_bf16_travels_raw_as_its_words() -> None:
    message = request(lambda message: setattr(message.inputs[0], "datatype", "BF16"), raw=(b"\x80\x3f\x00\x40",))
    assert decode_request(HeadReader().read(message).head, message).inputs["x"].tolist() == [[0x3F80, 0x4000]]


@pytest.mark.parametrize(
    ("changes", "typed"),
    [
        ((), False),
        ((ask("y", True),), False),
        ((ask("y", False), ask("z", False)), True),
        ((set_parameter("binary_data_output", "bool_param", False),), True),
        ((set_parameter("binary_data_output", "bool_param", False), ask("y")), True),
        ((set_parameter("binary_data_output", "bool_param", False), ask("y", True)), False),
    ],
)
def test_the_answer_is_raw_unless_every_output_is_asked_for_otherwise(changes: tuple[Change, ...], typed: bool) -> None:
    assert read(*changes).typed is typed


def test_a_stream_may_ask_for_empty_final_responses_and_gets_none() -> None:
    assert read(set_parameter("triton_enable_empty_final_response", "bool_param", True)).target == ("m", None)


def shared(message: ModelInferRequest) -> None:
    message.inputs[0].parameters["shared_memory_region"].string_param = "r"


def doubled(message: ModelInferRequest) -> None:
    message.inputs[0].contents.fp32_contents.extend([1, 2])


def crowded(message: ModelInferRequest) -> None:
    for number in range(1025):
        message.inputs[0].parameters[str(number)].bool_param = True


@pytest.mark.parametrize(
    ("changes", "raw", "error", "message"),
    [
        ((), (b"\0" * 8, b"x"), InvalidTensor, "expected number of raw input contents to be 1, got 2, for model 'm'"),
        ((doubled,), (b"\0" * 8,), InvalidTensor, "contents field must not be specified when using raw_input_contents"),
        ((shared,), (), Unsupported, "input 'x' is in shared memory"),
        ((shared,), (b"\0" * 8,), InvalidTensor, "expected number of raw input contents to be 0, got 1"),
        ((ask("y", True), ask("z", False)), (b"\0" * 8,), InvalidInput, "'binary_data' is true for some outputs"),
        ((lambda m: m.parameters["p"],), (b"\0" * 8,), InvalidInput, "parameter 'p' of the request has no value"),
        ((lambda m: m.inputs.pop(),), (), InvalidInput, "'inputs' is"),
        ((lambda m: m.inputs[0].shape.append(-1),), (b"\0" * 8,), InvalidTensor, "the shape of input 'x' holds -1"),
        ((lambda m: setattr(m, "model_version", "one"),), (b"\0" * 8,), NotFound, "version 'one' is not found"),
        ((lambda m: m.inputs[0].shape.extend([1] * 31),), (b"\0" * 8,), InvalidTensor, "input 'x' has 33 dimensions"),
        ((crowded,), (b"\0" * 8,), InvalidInput, "input 'x' has 1025 parameters; send at most 1024"),
        ((set_parameter("sequence_id", "int64_param", 1),), (b"\0" * 8,), Unsupported, "'sequence_id' asks for"),
        ((set_parameter("triton_x", "int64_param", 1),), (b"\0" * 8,), InvalidInput, "'triton_x' is reserved"),
    ],
)
def test_what_cannot_be_asked_is_refused_by_name(
    changes: tuple[Change, ...], raw: tuple[bytes, ...], error: type[OctavoError], message: str
) -> None:
    with pytest.raises(error, match=message):
        read(*changes, raw=raw)


def test_raw_bytes_of_another_size_than_the_shape_asks_for_are_refused() -> None:
    message = request(raw=(b"\0" * 7,))
    head = HeadReader().read(message).head
    with pytest.raises(InvalidTensor, match=r"unexpected size for input 'x': 7 bytes, where FP32 \[1, 2\] has 8"):
        decode_request(head, message)


def test_a_head_that_is_no_message_is_refused_and_is_for_nobody() -> None:
    message = take_apart(b"\x0a\x02\xff\xff")
    with pytest.raises(InvalidInput, match="no ModelInferRequest"):
        HeadReader().read(message)
    assert target_of(message) == ("", None)


def test_a_refused_head_still_tells_whom_it_was_for() -> None:
    assert target_of(request(raw=())) == ("m", None)
