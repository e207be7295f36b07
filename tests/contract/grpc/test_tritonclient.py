"""The protocol's own client over gRPC, unmodified, as the judge."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from google.protobuf.json_format import MessageToDict, ParseDict
from tritonclient.utils import InferenceServerException

from service.logs import LEVELS
from service.rpc.generated import inference_pb2 as messages
from tests.contract.grpc.serving import GrpcServing
from tests.contract.grpc.tensors import ANSWER, ONES, Call, every_datatype, one_input, texts
from tests.contract.oip.serving import KINDS
from tests.served_models import STABLE


def test_health_and_metadata(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("linear")
    assert client.is_model_ready("linear", "1")
    assert not client.is_model_ready("linear", "2")
    assert not client.is_model_ready("linear", "one")
    assert not client.is_model_ready("nothing")


def test_a_server_that_still_loads_is_not_ready(serving: GrpcServing, client: Any) -> None:
    serving.ready = False
    try:
        assert not client.is_server_ready()
    finally:
        serving.ready = True


def over_http(serving: GrpcServing, path: str, method: str = "GET") -> Any:
    answer: httpx.Response = serving.client.request(method, f"{serving.url}{path}")
    return answer.json()


@pytest.mark.parametrize(
    ("method", "path", "kind"),
    [
        ("get_server_metadata", "/v2", messages.ServerMetadataResponse),
        ("get_model_metadata", "/v2/models/{}", messages.ModelMetadataResponse),
        ("get_model_config", "/v2/models/{}/config", messages.ModelConfig),
        ("get_inference_statistics", "/v2/models/{}/stats", messages.ModelStatisticsResponse),
    ],
)
@pytest.mark.parametrize("model", ["linear", "types"])
def test_both_protocols_tell_the_same(
    serving: GrpcServing, client: Any, method: str, path: str, kind: Any, model: str
) -> None:
    told = over_http(serving, path.format(model))
    # Without leave to pass over fields: there must be one for all that HTTP tells.
    expected = ParseDict(told, kind())
    answer = getattr(client, method)(*([model] if "{}" in path else []))
    answer = getattr(answer, "config", answer)
    assert kind.FromString(answer.SerializeToString()) == expected


def test_a_version_can_be_named(client: Any) -> None:
    assert client.get_model_metadata("linear", "1") == client.get_model_metadata("linear")
    assert client.get_model_config("linear", "1") == client.get_model_config("linear")
    assert client.get_inference_statistics("linear", "1") == client.get_inference_statistics("linear")
    assert client.infer("linear", [one_input()], model_version="1").as_numpy("y").tolist() == ANSWER


def test_statistics_without_a_name_are_those_of_all_models(client: Any) -> None:
    assert {"linear", "types"} <= {model.name for model in client.get_inference_statistics().model_stats}


def test_the_index_is_that_of_http(serving: GrpcServing, client: Any) -> None:
    index = MessageToDict(client.get_model_repository_index())["models"]
    assert index == over_http(serving, "/v2/repository/index", "POST")
    assert {"name": "linear", "version": "1", "state": "READY"} in index


def test_inference(client: Any) -> None:
    result = client.infer(
        "linear", [one_input()], request_id="r-1", outputs=[triton.InferRequestedOutput("y")], priority=1
    )
    assert result.as_numpy("y").tolist() == ANSWER
    response = result.get_response(as_json=True)
    assert (response["id"], response["model_name"], response["model_version"]) == ("r-1", "linear", "1")
    assert response["outputs"] == [{"name": "y", "datatype": "FP32", "shape": ["1", "3"]}]
    parameters = result.get_response().parameters
    assert (parameters["variant"].string_param, parameters["route"].string_param) == (STABLE, "stable")
    assert parameters["queue_us"].int64_param >= 0
    assert parameters["compute_us"].int64_param >= 0


def test_a_variant_can_be_named(client: Any) -> None:
    result = client.infer("linear", [one_input()], parameters={"variant": STABLE})
    assert result.as_numpy("y").tolist() == ANSWER
    with pytest.raises(InferenceServerException, match="variant 'int4' of model 'linear' is not deployed"):
        client.infer("linear", [one_input()], parameters={"variant": "int4"})


@pytest.mark.parametrize("coding", [None, "gzip", "deflate"])
def test_compressed_messages(client: Any, coding: str | None) -> None:
    assert client.infer("linear", [one_input()], compression_algorithm=coding).as_numpy("y").tolist() == ANSWER


def test_every_datatype_arrives_and_returns_as_it_is(client: Any) -> None:
    arrays = every_datatype()
    result = client.infer("types", [one_input(array, kind.lower()) for kind, array in arrays.items()])
    for kind, array in arrays.items():
        got = result.as_numpy(f"{kind.lower()}_out")
        assert got.shape == array.shape
        assert texts(got) == array.ravel().tolist(), kind


def test_only_the_wanted_outputs_come_back_in_the_order_asked_for(client: Any) -> None:
    inputs = [one_input(array, kind.lower()) for kind, array in every_datatype().items()]
    wanted = ["int8_out", "bool_out"]
    result = client.infer("types", inputs, outputs=[triton.InferRequestedOutput(name) for name in wanted])
    assert [output.name for output in result.get_response().outputs] == wanted
    assert result.as_numpy("bool_out").tolist() == [[True, False], [False, True]]


def test_an_empty_axis_and_nan_pass_through(client: Any) -> None:
    empty = {kind: array[:, :0] for kind, array in every_datatype().items()}
    result = client.infer("types", [one_input(array, kind.lower()) for kind, array in empty.items()])
    assert {result.as_numpy(f"{kind.lower()}_out").shape for kind in KINDS} == {(2, 0)}
    nan = np.array([[np.nan, np.inf]], np.float32)
    arrays = {kind: array[:1] for kind, array in every_datatype().items()} | {"FP32": nan}
    result = client.infer("types", [one_input(array, kind.lower()) for kind, array in arrays.items()])
    np.testing.assert_array_equal(result.as_numpy("fp32_out"), nan)


def test_statistics_count_requests_of_both_protocols(serving: GrpcServing, client: Any) -> None:
    def numbers() -> tuple[int, int, int]:
        (model,) = client.get_inference_statistics("linear").model_stats
        return model.inference_count, model.inference_stats.success.count, model.inference_stats.fail.count

    rows, good, bad = numbers()
    client.infer("linear", [one_input(np.ones((3, 1, 2, 2), np.float32))])
    with pytest.raises(InferenceServerException):
        client.infer("linear", [one_input(np.ones((3, 2), np.float32))])
    x = {"name": "x", "shape": [1, 1, 2, 2], "datatype": "FP32", "data": [1, 1, 1, 1]}
    serving.client.post(f"{serving.url}/v2/models/linear/infer", json={"inputs": [x]}).raise_for_status()
    assert numbers() == (rows + 4, good + 2, bad + 1)


def test_classes_are_those_of_http(serving: GrpcServing, client: Any) -> None:
    result = client.infer("linear", [one_input()], outputs=[triton.InferRequestedOutput("y", class_count=2)])
    assert texts(result.as_numpy("y")) == ["18.000000:2", "12.000000:1:dog"]
    x = {"name": "x", "shape": [1, 1, 2, 2], "datatype": "FP32", "data": [1, 1, 1, 1]}
    body = {"inputs": [x], "outputs": [{"name": "y", "parameters": {"classification": 2}}]}
    answer = serving.client.post(f"{serving.url}/v2/models/linear/infer", json=body).json()
    assert texts(result.as_numpy("y")) == answer["outputs"][0]["data"]
    assert list(result.as_numpy("y").shape) == answer["outputs"][0]["shape"]


def test_shared_memory_of_outputs_is_refused(client: Any) -> None:
    shared = triton.InferRequestedOutput("y")
    shared.set_shared_memory("region", 12)
    with pytest.raises(InferenceServerException, match="output 'y' asks for shared memory") as refused:
        client.infer("linear", [one_input()], outputs=[shared])
    assert refused.value.status() == "StatusCode.UNIMPLEMENTED"


def test_log_settings_are_those_of_http(serving: GrpcServing, client: Any) -> None:
    before = LEVELS.now
    try:
        changed = MessageToDict(client.update_log_settings({"log_verbose_level": 1}))["settings"]
        assert changed["log_verbose_level"] == {"uint32Param": 1}
        told = over_http(serving, "/v2/logging")
        assert told["log_verbose_level"] == 1
        assert {name: next(iter(value.values())) for name, value in changed.items()} == told
    finally:
        LEVELS.now = before
    with pytest.raises(InferenceServerException, match="log setting 'loud' is unknown"):
        client.update_log_settings({"loud": True})


def test_trace_settings_are_those_of_http(serving: GrpcServing, client: Any) -> None:
    client.update_trace_settings("linear", {"trace_rate": "7"})
    told = over_http(serving, "/v2/models/linear/trace/setting")
    assert told["trace_rate"] == "7"
    shown = client.get_trace_settings("linear").settings
    flat = {name: list(value.value) if name == "trace_level" else value.value[0] for name, value in shown.items()}
    assert flat == told
    client.update_trace_settings("linear", {"trace_rate": None})
    assert client.get_trace_settings("linear") == client.get_trace_settings()
    with pytest.raises(InferenceServerException, match="Request for unknown model: 'nothing'"):
        client.get_trace_settings("nothing")


def test_the_asynchronous_client(serving: GrpcServing) -> None:
    async def main() -> None:
        async with triton_aio.InferenceServerClient(serving.grpc_address) as client:
            assert await client.is_server_ready()
            assert (await client.get_model_metadata("linear")).name == "linear"
            results = await asyncio.gather(*[client.infer("linear", [one_input(ONES * n)]) for n in range(8)])
            assert [result.as_numpy("y")[0, 0] for result in results] == [6 * n for n in range(8)]

    asyncio.run(main())


def test_the_callbacks_of_the_client(client: Any) -> None:
    calls = [Call(client, ONES * n, "linear") for n in range(8)]
    assert [call.answer()[0][0] for call in calls] == [6 * n for n in range(8)]
