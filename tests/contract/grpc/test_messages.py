"""What no client of the protocol would send, and what a stub of any language may: typed contents, and nonsense."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2, service_pb2_grpc

from service.metrics import REGISTRY
from service.rpc.methods import SHARED_MEMORY
from service.rpc.typed_contents import contents_from_array
from tests.contract.grpc.serving import GrpcServing
from tests.contract.grpc.tensors import ANSWER, ONES, every_datatype, texts
from tests.contract.oip.serving import LIMITS
from tests.served_models import deployment, served

PATH = "/inference.GRPCInferenceService/"


@pytest.fixture(name="channel")
def _channel(serving: GrpcServing) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(serving.grpc_address) as channel:
        yield channel


@pytest.fixture(name="stub")
def _stub(channel: grpc.Channel) -> Any:
    return service_pb2_grpc.GRPCInferenceServiceStub(channel)


def linear(**changes: Any) -> Any:
    request = service_pb2.ModelInferRequest(model_name="linear", **changes)
    request.inputs.add(name="x", datatype="FP32", shape=[1, 1, 2, 2])
    return request


def refused(call: Any) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value


def reason(error: grpc.RpcError) -> str:
    return str(error.details())


def public_code(error: grpc.RpcError) -> str:
    trailer: Any = error.trailing_metadata()
    return str(dict(trailer)["error-code"])


def send(channel: grpc.Channel, method: str, message: bytes) -> bytes:
    """Bytes as they are."""
    call: Any = channel.unary_unary(PATH + method)
    return bytes(call(message, timeout=30))


def typed(model: str, arrays: dict[str, Any]) -> Any:
    request = service_pb2.ModelInferRequest(model_name=model)
    request.parameters["binary_data_output"].bool_param = False
    for kind, array in arrays.items():
        tensor = request.inputs.add(name=kind.lower(), datatype=kind, shape=array.shape)
        contents = contents_from_array(kind, "FP32" if kind == "FP16" else kind, array)
        tensor.contents.ParseFromString(contents.SerializeToString())
    return request


def test_contents_both_ways_for_every_datatype_that_has_them(stub: Any) -> None:
    arrays = {kind: array for kind, array in every_datatype().items() if kind != "FP16"}
    answer = stub.ModelInfer(typed("typed", arrays))
    assert not answer.raw_output_contents
    assert {output.name for output in answer.outputs} == {f"{kind.lower()}_out" for kind in arrays}
    for output in answer.outputs:
        ((_, values),) = output.contents.ListFields()
        assert texts(np.array(list(values), object)) == arrays[output.datatype].ravel().tolist(), output.name


def test_half_precision_in_contents_is_refused(stub: Any) -> None:
    error = refused(lambda: stub.ModelInfer(typed("types", every_datatype())))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "receiving FP16 data in contents is not supported" in reason(error)


def test_numbers_in_contents_are_answered_raw_unless_asked_otherwise(stub: Any) -> None:
    request = linear()
    request.inputs[0].contents.fp32_contents.extend([1, 1, 1, 1])
    answer = stub.ModelInfer(request)
    assert np.frombuffer(answer.raw_output_contents[0], np.float32).tolist() == ANSWER[0]
    assert not answer.outputs[0].HasField("contents")
    request.parameters["binary_data_output"].bool_param = False
    answer = stub.ModelInfer(request)
    assert list(answer.outputs[0].contents.fp32_contents) == ANSWER[0]
    assert len(answer.raw_output_contents) == 0


def test_raw_contents_may_be_answered_typed(stub: Any) -> None:
    request = service_pb2.ModelInferRequest(model_name="types")
    arrays = every_datatype()
    for kind, array in arrays.items():
        request.inputs.add(name=kind.lower(), datatype=kind, shape=array.shape)
        request.raw_input_contents.append(raw(kind, array))
        if kind != "FP16":
            request.outputs.add(name=f"{kind.lower()}_out").parameters["binary_data"].bool_param = False
    answer = stub.ModelInfer(request)
    assert not answer.raw_output_contents
    for output in answer.outputs:
        ((field, values),) = output.contents.ListFields()
        kind = output.datatype
        assert texts(np.array(list(values), object)) == arrays[kind].ravel().tolist(), field.name
    request.outputs.add(name="fp16_out").parameters["binary_data"].bool_param = False
    error = refused(lambda: stub.ModelInfer(request))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "output 'fp16_out' is FP16" in reason(error)


def raw(kind: str, array: Any) -> bytes:
    from tritonclient.utils import serialize_byte_tensor

    return bytes(serialize_byte_tensor(array).item() if kind == "BYTES" else array.tobytes())


def status_of(channel: grpc.Channel, method: str, message: bytes) -> grpc.StatusCode:
    try:
        send(channel, method, message)
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    return grpc.StatusCode.OK


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        (lambda r: r.raw_input_contents.append(b"1234"), "INVALID_ARGUMENT", "unexpected size for input 'x'"),
        (lambda r: r.raw_input_contents.extend([b"", b""]), "INVALID_ARGUMENT", "to be 1, got 2, for model 'linear'"),
        (lambda r: setattr(r, "model_version", "9"), "NOT_FOUND", "version 9 is not found"),
        (lambda r: setattr(r, "model_name", "nothing"), "NOT_FOUND", "Request for unknown model: 'nothing'"),
        (lambda r: setattr(r, "model_name", ""), "NOT_FOUND", "Request for unknown model: ''"),
        (lambda r: setattr(r.inputs[0], "datatype", "FP31"), "INVALID_ARGUMENT", "the datatype of input 'x' is 'FP31'"),
        (lambda r: setattr(r.inputs[0], "name", "grün"), "INVALID_ARGUMENT", "unexpected inference input 'grün'"),
        (lambda r: r.outputs.add(name="z"), "INVALID_ARGUMENT", "unexpected inference output 'z'"),
    ],
)
def test_an_error_has_its_status_its_reason_and_its_public_code(
    stub: Any, change: Any, code: str, message: str
) -> None:
    request = linear()
    change(request)
    if not request.raw_input_contents:
        request.raw_input_contents.append(ONES.tobytes())
    error = refused(lambda: stub.ModelInfer(request))
    assert (error.code().name, message in reason(error)) == (code, True), reason(error)
    assert public_code(error) in ("invalid_tensor", "not_found", "invalid_input")


def test_a_shape_that_the_network_cannot_take_is_an_invalid_argument(serving: GrpcServing, stub: Any) -> None:
    serving.call(serving.router.deploy(served(deployment(model="u-net"))))
    request = service_pb2.ModelInferRequest(model_name="u-net", raw_input_contents=[bytes(4 * 3 * 7 * 8)])
    request.inputs.add(name="x", datatype="FP32", shape=[1, 3, 7, 8])
    error = refused(lambda: stub.ModelInfer(request))
    assert (error.code().name, public_code(error)) == ("INVALID_ARGUMENT", "invalid_tensor")
    assert "input 'x' of shape [1, 3, 7, 8]" in reason(error)


def test_a_message_over_the_limit_is_refused_and_the_next_one_answered(stub: Any) -> None:
    error = refused(lambda: stub.ModelInfer(linear(raw_input_contents=[b"\0" * LIMITS.max_body_bytes])))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert str(LIMITS.max_body_bytes) in reason(error)
    assert stub.ModelInfer(linear(raw_input_contents=[ONES.tobytes()])).outputs[0].name == "y"


def test_a_compressed_message_is_measured_by_what_it_holds(stub: Any) -> None:
    bomb = linear(raw_input_contents=[b"\0" * (LIMITS.max_body_bytes * 16)])
    error = refused(lambda: stub.ModelInfer(bomb, compression=grpc.Compression.Gzip))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_connection_may_have_a_bounded_number_of_calls_under_way(serving: GrpcServing) -> None:
    host, port = serving.grpc_address.split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")
        connection.settimeout(10)
        frames = b""
        # The first frame of a server tells its settings: six bytes each, after nine of the frame's head.
        while len(frames) < 9 or len(frames) < 9 + int.from_bytes(frames[:3]):
            frames += connection.recv(4096)
    size = int.from_bytes(frames[:3])
    assert frames[3] == 4
    told = {int.from_bytes(frames[at : at + 2]): frames[at + 2 : at + 6] for at in range(9, 9 + size, 6)}
    assert int.from_bytes(told[3]) == 1024


@pytest.mark.parametrize(
    "method", ["ServerLive", "ModelReady", "ModelMetadata", "ModelConfig", "RepositoryIndex", "ModelInfer"]
)
def test_bytes_that_are_no_message_are_refused_as_such(channel: grpc.Channel, method: str) -> None:
    error = refused(lambda: send(channel, method, b"\x0a\x05ab"))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "the 4 bytes are no" in reason(error) or "the bytes are no" in reason(error)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.binary(max_size=80))
def test_no_bytes_are_a_fault_of_the_server(channel: grpc.Channel, message: bytes) -> None:
    valid = linear(raw_input_contents=[ONES.tobytes()]).SerializeToString()
    for body in (message, valid + message, message + valid):
        assert status_of(channel, "ModelInfer", body).name in ("OK", "INVALID_ARGUMENT", "NOT_FOUND")


@pytest.mark.parametrize("method", SHARED_MEMORY)
def test_shared_memory_is_refused_with_the_reason(channel: grpc.Channel, method: str) -> None:
    error = refused(lambda: send(channel, method, b"\x0a\x06region"))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "shared memory is not offered" in reason(error)


def test_every_method_of_the_service_is_there(channel: grpc.Channel) -> None:
    for method in service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods:
        if method.client_streaming:
            assert list(channel.stream_stream(PATH + method.name)(iter(()), timeout=30)) == []
            continue
        expected = "UNIMPLEMENTED" if method.name in SHARED_MEMORY else ("OK", "NOT_FOUND", "INVALID_ARGUMENT")
        assert status_of(channel, method.name, b"").name in expected, method.name


def test_calls_outside_inference_are_counted_by_method_and_status(stub: Any) -> None:
    def counted(code: str) -> float:
        return REGISTRY.get_sample_value("octavo_grpc_requests_total", {"method": "ModelMetadata", "code": code}) or 0.0

    good, bad = counted("OK"), counted("NOT_FOUND")
    stub.ModelMetadata(service_pb2.ModelMetadataRequest(name="linear"))
    refused(lambda: stub.ModelMetadata(service_pb2.ModelMetadataRequest(name="nothing")))
    assert (counted("OK"), counted("NOT_FOUND")) == (good + 1, bad + 1)
