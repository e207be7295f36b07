"""A Transpose that ONNX Runtime would fuse into an FP16 MatMul, and end the process of, never comes to that."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, helper

from service.errors import InvalidModel
from service.quantization.emitters.half import emit_half
from service.quantization.graphs.graph import Graph
from service.quantization.placements.half import place_half
from tests.unit.quantization.inspecting import inspect
from tests.unit.quantization.int8 import run
from tests.unit.quantization.small_models import fp32, model_of, value

WEIGHTS = {"w": fp32(np.linspace(-1, 1, 36).reshape(6, 6))}
ROWS = {"x": fp32(np.linspace(-1, 1, 216).reshape(6, 6, 6))}


def turned(*order: int, between: str | None = None, left: bool = True) -> ModelProto:
    """x [n, n, n] turned, and multiplied by weights from the right, or from the left."""
    nodes: list[NodeProto] = [helper.make_node("Transpose", ["x"], ["t"], "turn")]
    nodes[0].attribute.extend([helper.make_attribute("perm", order)] if order else [])
    if between:
        nodes.append(helper.make_node(between, ["t"], ["u"], "between"))
    operands = ["u" if between else "t", "w"]
    nodes.append(helper.make_node("MatMul", operands if left else operands[::-1], ["y"], "product"))
    return model_of(nodes, [value("x", ("n", "n", "n"))], [value("y", ("n", "n", "n"))], WEIGHTS)


@pytest.mark.parametrize(
    "model",
    [turned(1, 0, 2), turned(1, 0, 2, between="Identity"), turned(1, 2, 0, left=False), turned()],
    ids=["left", "through", "right", "reversed"],
)
def test_both_stay_in_fp32_on_onnx_runtime_and_the_engine_answers(model: ModelProto, tmp_path: Path) -> None:
    placed = {one.name: one for one in place_half(Graph(model), (), "fp16", runtime="onnxruntime")}
    assert (placed["turn"].precision, placed["product"].precision) == ("FP32", "FP32")
    assert "fuses this Transpose and MatMul" in placed["product"].reason
    halved = emit_half(model, (), "fp16", runtime="onnxruntime")
    wanted, found = (run(each, ROWS, tmp_path)["y"] for each in (model, halved))
    assert np.allclose(wanted, found, atol=1e-2)


@pytest.mark.parametrize("model", [turned(0, 2, 1), turned(1, 0, 2, between="Relu")], ids=["inside", "not beside"])
def test_one_that_is_not_fused_is_half(model: ModelProto) -> None:
    assert {one.precision for one in place_half(Graph(model), (), "fp16", runtime="onnxruntime")} == {"FP16"}


def test_runtimes_that_have_the_kernel_keep_it_half() -> None:
    for runtime in ("openvino", "tensorrt", None):
        found = place_half(Graph(turned(1, 0, 2)), (), "fp16", runtime=runtime)
        assert {one.precision for one in found} == {"FP16"}, runtime


def test_an_upload_that_computes_so_is_refused_with_the_next_step(tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match=r"MatMul 'product' computes in FP16 behind a Transpose.*precision fp16"):
        inspect(tmp_path, emit_half(turned(1, 0, 2), (), "fp16"))
