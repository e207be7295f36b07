"""Batching set live on a real server: what callers and tools see of it, on every server of the installation."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.installation import served, upload_digits
from tests.uploading import refusal
from tests.waiting import wait_until


def batching_config(client: httpx.Client, model: str = "digits") -> dict[str, Any]:
    config: dict[str, Any] = client.get(f"/v2/models/{model}/config").json()
    shown: dict[str, Any] = config["dynamic_batching"]
    return shown | {"rows": config["max_batch_size"]}


def test_a_change_holds_on_every_server_and_after_a_restart(tmp_path: Path) -> None:
    wish = {"max_batch_rows": 8, "preferred_batch_rows": [4], "batch_delay_seconds": 0.002, "timeout_seconds": 2.0}
    shown = {"rows": 8, "preferred_batch_size": [4], "max_queue_delay_microseconds": 2000}
    with served(tmp_path) as client:
        upload_digits(client)
        with served(tmp_path) as other:
            assert client.put("/models/digits/batching", json=wish).status_code == 200
            assert batching_config(client).items() >= shown.items()
            wait_until(lambda: batching_config(other).items() >= shown.items())
    with served(tmp_path) as client:
        config = batching_config(client)
        assert config.items() >= shown.items()
        assert config["default_queue_policy"]["default_timeout_microseconds"] == 2_000_000


def masked_mean(path: Path, masked: bool) -> bytes:
    """Rows of any length: what the mask lets through, and its mean; without the mask the mean of all."""
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", "length"])]
    nodes = [helper.make_node("ReduceMean", ["x"], ["mean"], axes=[1], keepdims=1)]
    outputs = [helper.make_tensor_value_info("mean", TensorProto.FLOAT, ["n", 1])]
    if masked:
        ends.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["n", "length"]))
        outputs.append(helper.make_tensor_value_info("kept", TensorProto.FLOAT, ["n", "length"]))
        nodes = [
            helper.make_node("Mul", ["x", "mask"], ["kept"]),
            helper.make_node("ReduceSum", ["kept", "axis"], ["sum"], keepdims=1),
            helper.make_node("ReduceSum", ["mask", "axis"], ["count"], keepdims=1),
            helper.make_node("Div", ["sum", "count"], ["mean"]),
        ]
    axis = helper.make_tensor("axis", TensorProto.INT64, [1], [1])
    graph = helper.make_graph(nodes, "mean", ends, outputs, [axis] if masked else [])
    opset = [helper.make_opsetid("", 13)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    return path.read_bytes()


def ready(client: httpx.Client, model: str) -> bool:
    return client.get(f"/v2/models/{model}/ready").status_code == 200


def infer(client: httpx.Client, values: list[float], model: str = "masked") -> dict[str, Any]:
    tensor = {"shape": [1, len(values)], "datatype": "FP32"}
    inputs = [tensor | {"name": "x", "data": values}, tensor | {"name": "mask", "data": [1.0] * len(values)}]
    answer = client.post(f"/v2/models/{model}/infer", json={"inputs": inputs})
    assert answer.status_code == 200, answer.text
    return {output["name"]: output for output in answer.json()["outputs"]}


def test_padded_answers_are_those_of_the_request_alone_and_unproven_padding_is_refused(tmp_path: Path) -> None:
    padding = {"padding": {"buckets": [4, 8]}}
    with served(tmp_path) as client:
        for name, masked in (("masked", True), ("plain", False)):
            body = masked_mean(tmp_path / "model.onnx", masked)
            assert client.post("/models", data={"name": name}, files={"file": body}).status_code == 201
            wait_until(partial(ready, client, name))
        plain = infer(client, [1, 2, 3])
        assert client.put("/models/masked/batching", json=padding).status_code == 200
        padded = infer(client, [1, 2, 3])
        assert padded["kept"]["shape"] == [1, 3]
        assert np.allclose(padded["kept"]["data"], plain["kept"]["data"])
        assert np.allclose(padded["mean"]["data"], plain["mean"]["data"])
        refusal(client.put("/models/plain/batching", json=padding), 400, "padding changes the answers: output 'mean'")
        assert client.get("/models/plain/batching").json()["padding"] is None


def test_a_request_without_the_time_for_an_answer_is_refused_at_once(tmp_path: Path) -> None:
    with served(tmp_path, OCTAVO_MAX_BATCH_ROWS="4") as client:
        upload_digits(client)
        tensor = {"name": "input", "shape": [1, 1, 8, 8], "datatype": "FP32", "data": [0.0] * 64}
        answer = client.post("/v2/models/digits/infer", json={"inputs": [tensor], "parameters": {"timeout": 1}})
        refusal(answer, 429, "a timeout of 1 microseconds cannot be met")
        assert int(answer.headers["retry-after"]) >= 1
