"""From an answer to the bytes of a response, of which repeated requests share a part."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from service.api.infer_response import EncodedResponse, encode_response
from service.domain.inference import Array, InferResult
from service.protocol.heads import RequestHead, read_head
from service.router.route import Route

ROUTE = Route("stable", "m", 3, "int8-openvino")
INPUT = {"name": "x", "shape": [1], "datatype": "FP32", "parameters": {"binary_data_size": 4}}


def head_of(**fields: Any) -> RequestHead:
    return read_head({"inputs": [INPUT], "parameters": {"binary_data_output": True}} | fields)


def answered(head: RequestHead, outputs: dict[str, Array], route: Route = ROUTE, waited: int = 7) -> EncodedResponse:
    result = InferResult(outputs, route.variant, route.version, route.name, waited, 9)
    return encode_response(route, dict.fromkeys(outputs, "FP32"), head, result)


def split(encoded: EncodedResponse) -> tuple[Any, bytes]:
    body = b"".join(encoded.parts)
    assert len(body) == encoded.length
    return json.loads(body[: encoded.header_length]), body[encoded.header_length :]


def floats(*shape: int) -> Array:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


@pytest.mark.parametrize("identity", [None, "null", "\ud800"])
def test_an_answer_to_a_repeated_head_tells_its_own_shape_route_and_times(identity: str | None) -> None:
    head = head_of(id=identity)
    other = Route("canary", "null", 4, "fp32-openvino")
    for waited in (1, 2):
        for route in (ROUTE, other):
            for shape in ((1, 4), (2, 2), (3, 4)):
                text, binary = split(answered(head, {"y": floats(*shape)}, route, waited))
                assert text == {
                    "model_name": route.model,
                    "model_version": str(route.version),
                    "parameters": {"variant": route.variant, "route": route.name, "queue_us": waited, "compute_us": 9},
                    "outputs": [
                        {
                            "name": "y",
                            "datatype": "FP32",
                            "shape": list(shape),
                            "parameters": {"binary_data_size": 4 * shape[0] * shape[1]},
                        }
                    ],
                } | ({} if identity is None else {"id": identity})
                assert binary == floats(*shape).tobytes()


def test_outputs_go_out_in_the_order_asked_for_whether_binary_or_not() -> None:
    arrays = {"a": floats(1, 2), "b": floats(1, 3)}
    wanted = [{"name": name, "parameters": {"binary_data": True}} for name in ("b", "a")]
    text, binary = split(answered(head_of(outputs=wanted), arrays))
    assert [output["name"] for output in text["outputs"]] == ["b", "a"]
    assert binary == floats(1, 3).tobytes() + floats(1, 2).tobytes()
    wanted[0]["parameters"] = {"binary_data": False}
    text, binary = split(answered(head_of(outputs=wanted), arrays))
    assert text["outputs"][0]["data"] == [0.0, 1.0, 2.0]
    assert binary == floats(1, 2).tobytes()


def test_shapes_that_never_come_again_do_not_pile_up() -> None:
    head = head_of()
    for rows in range(1, 100):
        answered(head, {"y": floats(rows, 1)})
    assert len(head.envelopes) <= 8
