"""Infer messages taken apart and put together by hand are the ones that protobuf reads and writes."""

from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InvalidInput
from service.rpc.generated.inference_pb2 import ModelInferRequest, ModelInferResponse, ModelStreamInferResponse
from service.rpc.wire import in_stream, take_apart, with_raw_contents

TEXT = st.text(max_size=20)
BLOBS = st.lists(st.one_of(st.binary(max_size=40), st.just(b"\x3a" * 300)), max_size=4)


@st.composite
def infer_requests(draw: st.DrawFn) -> ModelInferRequest:
    message = ModelInferRequest(model_name=draw(TEXT), model_version=draw(TEXT), id=draw(TEXT))
    for name in draw(st.lists(TEXT, max_size=3, unique=True)):
        message.parameters[name].int64_param = draw(st.integers(-(2**63), 2**63 - 1))
    for name in draw(st.lists(TEXT, max_size=3)):
        tensor = message.inputs.add(name=name, datatype="FP32", shape=draw(st.lists(st.integers(0, 2**40), max_size=3)))
        tensor.contents.fp32_contents.extend(draw(st.lists(st.floats(width=32, allow_nan=False), max_size=4)))
    message.outputs.extend([ModelInferRequest.InferRequestedOutputTensor(name=name) for name in draw(st.lists(TEXT))])
    message.raw_input_contents.extend(draw(BLOBS))
    return message


@given(infer_requests())
def test_a_request_taken_apart_is_the_whole_request(message: ModelInferRequest) -> None:
    written = message.SerializeToString()
    parts = take_apart(written)
    assert parts.id == message.id
    assert [written[start : start + size] for start, size in parts.raw] == list(message.raw_input_contents)
    rest = ModelInferRequest.FromString(parts.head)
    assert (rest.id, len(rest.raw_input_contents)) == ("", 0)
    rest.id = message.id
    rest.raw_input_contents.extend(message.raw_input_contents)
    assert rest == message


@given(infer_requests(), st.data())
def test_fields_may_come_in_any_order_and_more_than_once(message: ModelInferRequest, data: st.DataObject) -> None:
    pieces = [ModelInferRequest(raw_input_contents=[blob]).SerializeToString() for blob in message.raw_input_contents]
    pieces += [ModelInferRequest(id=name).SerializeToString() for name in ("first", message.id) if name]
    pieces += [ModelInferRequest(model_name="m").SerializeToString()]
    written = b"".join(data.draw(st.permutations(pieces)))
    expected = ModelInferRequest.FromString(written)
    parts = take_apart(written)
    assert parts.id == expected.id
    assert [written[start : start + size] for start, size in parts.raw] == list(expected.raw_input_contents)


@given(st.binary(max_size=60))
def test_any_bytes_are_read_as_protobuf_reads_them_or_refused(written: bytes) -> None:
    try:
        parts = take_apart(written)
        head = ModelInferRequest.FromString(parts.head)
    except (InvalidInput, DecodeError):
        return
    expected = ModelInferRequest.FromString(written)
    assert parts.id == expected.id
    assert [written[start : start + size] for start, size in parts.raw] == list(expected.raw_input_contents)
    assert (head.model_name, list(head.inputs)) == (expected.model_name, list(expected.inputs))


@given(infer_requests(), st.data())
def test_a_request_that_is_cut_off_is_refused_or_is_a_shorter_one(
    message: ModelInferRequest, data: st.DataObject
) -> None:
    written = message.SerializeToString()
    cut = written[: data.draw(st.integers(0, len(written)))]
    try:
        parts = take_apart(cut)
    except InvalidInput:
        return
    assert all(start + size <= len(cut) for start, size in parts.raw)


def test_fields_of_every_kind_that_are_not_known_are_left_to_protobuf() -> None:
    unknown = b"\xa0\x06\x96\x01" + b"\xa1\x06" + b"8" * 8 + b"\xa5\x06" + b"4" * 4 + b"\xa2\x06\x02ab"
    parts = take_apart(unknown + b"\x3a\x01z")
    assert (parts.head, parts.raw) == (unknown, [(len(unknown) + 2, 1)])


@pytest.mark.parametrize(
    ("written", "why"),
    [
        (b"\x3a", "cut off"),
        (b"\x3a\x05abc", "cut off"),
        (b"\x0a\x80", "cut off"),
        (b"\xa1\x061234567", "cut off"),
        (b"\x0b", "no known kind"),
        (b"\x3a" + b"\xff" * 11, "does not end"),
        (b"\x1a\x01\xff", "'id' is b'.xff', which is not UTF-8"),
    ],
)
def test_what_is_no_request_is_refused_with_the_reason(written: bytes, why: str) -> None:
    with pytest.raises(InvalidInput, match=why):
        take_apart(written)


@pytest.mark.parametrize("field", [b"\x3a\x00", b"\x22\x00", b"\xa0\x06\x01"])
def test_a_request_of_countless_fields_is_refused_before_they_are_walked(field: bytes) -> None:
    assert take_apart(field * 4096)
    with pytest.raises(InvalidInput, match="more than 4096 fields"):
        take_apart(field * 10_000_000)


@given(BLOBS, TEXT)
def test_a_response_put_together_is_read_by_protobuf(blobs: list[bytes], name: str) -> None:
    head = ModelInferResponse(model_name=name)
    parts = with_raw_contents(head.SerializeToString(), [memoryview(blob) for blob in blobs])
    head.raw_output_contents.extend(blobs)
    assert ModelInferResponse.FromString(b"".join(parts)) == head
    assert ModelStreamInferResponse.FromString(b"".join(in_stream(parts))).infer_response == head


def test_a_tensor_of_a_response_is_not_copied() -> None:
    blob = memoryview(bytearray(8))
    assert any(part is blob for part in in_stream(with_raw_contents(b"", [blob])))
