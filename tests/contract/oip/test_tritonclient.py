"""The protocol's own client, unmodified, as the judge."""

from __future__ import annotations

import asyncio
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from service import __version__
from tests.contract.oip.serving import KINDS, Serving
from tests.served_models import STABLE
from tests.waiting import wait_until

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import tritonclient.http as triton
    import tritonclient.http.aio as triton_aio
    from tritonclient.utils import InferenceServerException, np_to_triton_dtype

ONES = np.ones((1, 1, 2, 2), np.float32)
ANSWER = [[6, 12, 18]]
TIMESTAMPS = [
    "REQUEST_START", "QUEUE_START", "COMPUTE_START", "COMPUTE_INPUT_END", "COMPUTE_OUTPUT_START", "COMPUTE_END",
    "REQUEST_END",
]  # fmt: skip


class Awaited:
    """The asynchronous client, each call of which is run to its end."""

    def __init__(self, address: str) -> None:
        self._runner = asyncio.Runner()
        self._client = self._runner.run(self._open(address))

    async def _open(self, address: str) -> Any:
        return triton_aio.InferenceServerClient(address)

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._client, name)
        return lambda *args, **kwargs: self._runner.run(call(*args, **kwargs))

    def close(self) -> None:
        self._runner.run(self._client.close())
        self._runner.close()


@pytest.fixture(name="client", params=[triton.InferenceServerClient, Awaited], ids=["sync", "asyncio"])
def _client(request: pytest.FixtureRequest, serving: Serving) -> Iterator[Any]:
    client = request.param(serving.address)
    yield client
    client.close()


def one_input(array: Any = ONES, binary: bool = True, name: str = "x") -> Any:
    wanted = triton.InferInput(name, array.shape, np_to_triton_dtype(array.dtype))
    wanted.set_data_from_numpy(array, binary_data=binary)
    return wanted


def test_health_and_metadata(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    server = client.get_server_metadata()
    assert (server["name"], server["version"]) == ("octavo", __version__)
    assert "binary_tensor_data" in server["extensions"]
    assert client.is_model_ready("linear")
    assert client.is_model_ready("linear", "1")
    assert not client.is_model_ready("linear", "2")
    assert not client.is_model_ready("nothing")
    assert client.get_model_metadata("linear") == {
        "name": "linear",
        "versions": ["1"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 1, 2, 2]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 3]}],
    }
    assert client.get_model_metadata("linear", "1") == client.get_model_metadata("linear")


def test_configuration_agrees_with_the_metadata(client: Any) -> None:
    config = client.get_model_config("linear")
    assert config["max_batch_size"] == 8
    assert config["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": [1, 2, 2]}]
    assert config["output"] == [{"name": "y", "data_type": "TYPE_FP32", "dims": [3]}]
    assert config["dynamic_batching"]["max_queue_delay_microseconds"] == 0
    assert {i["data_type"] for i in client.get_model_config("types")["input"]} >= {"TYPE_STRING", "TYPE_BOOL"}


def test_the_index_lists_what_is_served(client: Any) -> None:
    index = {line["name"]: line for line in client.get_model_repository_index()}
    assert index["linear"] == {"name": "linear", "version": "1", "state": "READY"}


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False, None])
def test_inference_in_every_mixture_of_json_and_binary(client: Any, binary_in: bool, binary_out: bool | None) -> None:
    outputs = None if binary_out is None else [triton.InferRequestedOutput("y", binary_data=binary_out)]
    result = client.infer("linear", [one_input(binary=binary_in)], outputs=outputs, request_id="r-1")
    assert result.as_numpy("y").tolist() == ANSWER
    response = result.get_response()
    assert (response["id"], response["model_name"], response["model_version"]) == ("r-1", "linear", "1")
    assert response["parameters"]["variant"] == STABLE
    assert response["parameters"]["route"] == "stable"
    assert response["parameters"]["queue_us"] >= 0
    assert response["parameters"]["compute_us"] >= 0


def test_a_version_and_a_variant_can_be_named(client: Any) -> None:
    result = client.infer("linear", [one_input()], model_version="1", parameters={"variant": STABLE})
    assert result.as_numpy("y").tolist() == ANSWER
    with pytest.raises(InferenceServerException, match="variant 'int4' of model 'linear' is not deployed"):
        client.infer("linear", [one_input()], parameters={"variant": "int4"})


@pytest.mark.parametrize("request_coding", [None, "gzip", "deflate"])
@pytest.mark.parametrize("response_coding", [None, "gzip", "deflate"])
def test_compression_either_way(client: Any, request_coding: str | None, response_coding: str | None) -> None:
    result = client.infer(
        "linear",
        [one_input()],
        request_compression_algorithm=request_coding,
        response_compression_algorithm=response_coding,
    )
    assert result.as_numpy("y").tolist() == ANSWER


def values_of(kind: str) -> Any:
    if kind == "BYTES":
        return np.array([["grün", ""], ["a b", "\0"]], dtype=np.object_)
    dtype = triton_dtype(kind)
    if kind == "BOOL":
        return np.array([[True, False], [False, True]])
    limits: Any = np.finfo(dtype) if np.dtype(dtype).kind == "f" else np.iinfo(dtype)
    return np.array([[limits.min, limits.max], [0, 1]], dtype)


def triton_dtype(kind: str) -> Any:
    from tritonclient.utils import triton_to_np_dtype

    return triton_to_np_dtype(kind)


@pytest.mark.parametrize("binary", [True, False])
def test_every_datatype_arrives_and_returns_as_it_is(client: Any, binary: bool) -> None:
    arrays = {kind: values_of(kind) for kind in KINDS}
    # The protocol has no FP16 in JSON on the way in.
    inputs = [one_input(array, binary or kind == "FP16", kind.lower()) for kind, array in arrays.items()]
    outputs = [triton.InferRequestedOutput(f"{kind.lower()}_out", binary_data=binary) for kind in KINDS]
    result = client.infer("types", inputs, outputs=outputs)
    for kind, array in arrays.items():
        got = result.as_numpy(f"{kind.lower()}_out")
        assert got.shape == array.shape
        texts = [value.decode() if isinstance(value, bytes) else value for value in got.ravel().tolist()]
        assert texts == array.ravel().tolist(), kind


def test_only_the_wanted_outputs_come_back(client: Any) -> None:
    inputs = [one_input(values_of(kind), True, kind.lower()) for kind in KINDS]
    result = client.infer("types", inputs, outputs=[triton.InferRequestedOutput("int8_out")])
    assert [output["name"] for output in result.get_response()["outputs"]] == ["int8_out"]


def test_an_empty_axis_and_nan_pass_through(client: Any) -> None:
    arrays = {kind: values_of(kind)[:, :0] for kind in KINDS}
    inputs = [one_input(array, True, kind.lower()) for kind, array in arrays.items()]
    assert client.infer("types", inputs).as_numpy("fp32_out").shape == (2, 0)
    nan = np.array([[np.nan, np.inf, 1.0]], np.float32)
    inputs = [
        one_input(
            nan
            if kind == "FP32"
            else np.zeros((1, 3), array.dtype)
            if kind != "BYTES"
            else np.full((1, 3), "x", object),
            True,
            kind.lower(),
        )
        for kind, array in arrays.items()
    ]
    for binary in (True, False):
        wanted = [triton.InferRequestedOutput("fp32_out", binary_data=binary)]
        np.testing.assert_array_equal(client.infer("types", inputs, outputs=wanted).as_numpy("fp32_out"), nan)


def test_statistics_count_what_was_answered(client: Any) -> None:
    def numbers() -> tuple[int, int, int]:
        (model,) = client.get_inference_statistics("linear")["model_stats"]
        assert set(model["inference_stats"]) == {
            "success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss",
        }  # fmt: skip
        return (
            model["inference_count"],
            model["inference_stats"]["success"]["count"],
            model["inference_stats"]["fail"]["count"],
        )

    rows, good, bad = numbers()
    client.infer("linear", [one_input(np.ones((3, 1, 2, 2), np.float32))])
    with pytest.raises(InferenceServerException):
        client.infer("linear", [one_input(np.ones((3, 2), np.float32))])
    assert numbers() == (rows + 3, good + 1, bad + 1)
    assert {"linear", "types"} <= {model["name"] for model in client.get_inference_statistics()["model_stats"]}


@pytest.mark.parametrize(
    ("model", "version", "message"),
    [
        ("nothing", "", "Request for unknown model: 'nothing' is not found"),
        ("linear", "9", "Request for unknown model: 'linear' version 9 is not found"),
    ],
)
def test_errors_arrive_as_the_clients_own(client: Any, model: str, version: str, message: str) -> None:
    with pytest.raises(InferenceServerException, match=message):
        client.infer(model, [one_input()], model_version=version)
    with pytest.raises(InferenceServerException, match=message):
        client.get_model_metadata(model, version)


def test_classes_come_back_by_value_index_and_label(client: Any) -> None:
    for binary in (True, False):
        outputs = [triton.InferRequestedOutput("y", binary_data=binary, class_count=2)]
        result = client.infer("linear", [one_input(np.concatenate([ONES, 2 * ONES]))], outputs=outputs)
        assert result.get_output("y")["datatype"] == "BYTES"
        texts = [[text.decode() if binary else text for text in row] for row in result.as_numpy("y").tolist()]
        assert texts == [["18.000000:2", "12.000000:1:dog"], ["36.000000:2", "24.000000:1:dog"]]
    inputs = [one_input(values_of(kind), True, kind.lower()) for kind in KINDS]
    with pytest.raises(InferenceServerException, match="class result not available for output"):
        client.infer("types", inputs, outputs=[triton.InferRequestedOutput("bytes_out", class_count=1)])


def test_log_settings_act_on_the_process(client: Any) -> None:
    before = client.get_log_settings()
    level = logging.getLogger().level
    try:
        assert client.update_log_settings({"log_verbose_level": 1})["log_verbose_level"] == 1
        assert logging.getLogger().level == logging.DEBUG
        assert client.update_log_settings({"log_verbose_level": 0, "log_info": False})["log_info"] is False
        assert logging.getLogger().level == logging.WARNING
        with pytest.raises(InferenceServerException, match="log file location can not be updated"):
            client.update_log_settings({"log_file": "x"})
    finally:
        client.update_log_settings({key: before[key] for key in ("log_info", "log_verbose_level")})
        logging.getLogger().setLevel(level)
    assert client.get_log_settings() == before


def test_traces_are_written_for_the_requests_that_are_asked_for(client: Any, serving: Serving) -> None:
    before = client.get_trace_settings()
    on = {"trace_level": ["TIMESTAMPS"], "trace_rate": "2", "trace_count": "2"}
    assert client.update_trace_settings("linear", on)["trace_rate"] == "2"
    assert client.get_trace_settings("linear")["trace_level"] == ["TIMESTAMPS"]
    assert client.get_trace_settings() == client.get_trace_settings("types") == before
    try:
        written = len(serving.traces())
        for number in range(6):
            client.infer("linear", [one_input()], request_id=f"traced-{number}")
        wait_until(lambda: len(serving.traces()) == written + 4)
    finally:
        assert client.update_trace_settings("linear", dict.fromkeys(on)) == before
    entries = serving.traces()[written:]
    assert [entry["request_id"] for entry in entries if "request_id" in entry] == ["traced-1", "traced-3"]
    for entry in entries[1::2]:
        times = {stamp["name"]: stamp["ns"] for stamp in entry["timestamps"]}
        assert list(times) == TIMESTAMPS
        assert list(times.values()) == sorted(times.values())
    assert not serving.tracer.active, "untraced requests need not pass by"


def test_shared_memory_is_refused_with_a_reason(client: Any) -> None:
    calls = [
        (client.get_system_shared_memory_status, ()),
        (client.get_system_shared_memory_status, ("r",)),
        (client.register_system_shared_memory, ("r", "/r", 8)),
        (client.unregister_system_shared_memory, ()),
        (client.unregister_system_shared_memory, ("r",)),
        (client.get_cuda_shared_memory_status, ()),
        (client.register_cuda_shared_memory, ("r", b"handle", 0, 8)),
        (client.unregister_cuda_shared_memory, ("r",)),
    ]
    for call, arguments in calls:
        with pytest.raises(InferenceServerException, match=r"shared memory is not offered: .*; send tensors in"):
            call(*arguments)


def test_requests_in_flight_at_once(serving: Serving) -> None:
    with triton.InferenceServerClient(serving.address, concurrency=4) as client:
        answers = [client.async_infer("linear", [one_input()]) for _ in range(20)]
        assert [answer.get_result().as_numpy("y").tolist() for answer in answers] == [ANSWER] * 20
