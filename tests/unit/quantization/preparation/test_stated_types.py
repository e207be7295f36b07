"""What stands behind an operator whose types ONNX does not infer is quantized as everything else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper

from service.quantization.emitters.half import emit_half
from service.quantization.graphs.graph import Graph
from service.quantization.placements.onnxruntime import place
from service.quantization.preparation.preparation import LOWEST_OPSET, prepare
from service.quantization.preparation.stated_types import state_types
from tests.unit.quantization.int8 import quantize, run
from tests.unit.quantization.small_models import fp32, model_of, saved, value

ROWS = {"x": np.random.default_rng(1).normal(0, 1, (6, 8)).astype(np.float32)}


def feed_forward(gate: str = "FastGelu") -> ModelProto:
    """Two layers with an operator of com.microsoft between them, whose result no value_info describes."""
    draw = np.random.default_rng(0)
    weights = {name: draw.normal(0, 0.4, shape).astype(np.float32) for name, shape in (("w", (8, 16)), ("v", (16, 4)))}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["wide"], "first"),
        helper.make_node(gate, ["wide"], ["gated"], "gate", domain="com.microsoft"),
        helper.make_node("Transpose", ["gated"], ["turned"], "turn", perm=[1, 0]),
        helper.make_node("Transpose", ["turned"], ["back"], "turn_back", perm=[1, 0]),
        helper.make_node("Neg", ["back"], ["less"], "negate"),
        helper.make_node("MatMul", ["less", "v"], ["scores"], "second"),
    ]
    return model_of(nodes, [value("x", ("n", 8))], [value("scores", ("n", 4))], weights)


def scaled() -> ModelProto:
    """Columns that are scaled, multiplied and added to, as scikit-learn's pipelines begin: FP32 [n, 8] to [n, 3]."""
    weights = np.random.default_rng(4).normal(0, 1, (8, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Scaler", ["x"], ["s"], "scale", domain="ai.onnx.ml", offset=[1.0] * 8, scale=[0.5] * 8),
        helper.make_node("MatMul", ["s", "w"], ["m"], "multiply"),
        helper.make_node("Add", ["m", "b"], ["y"], "add"),
        helper.make_node("ArgMax", ["y"], ["best"], "argmax", axis=1, keepdims=0),
        helper.make_node("ArrayFeatureExtractor", ["classes", "best"], ["label"], "pick", domain="ai.onnx.ml"),
    ]
    constants = {"w": weights, "b": fp32([[1, 2, 3]]), "classes": np.array([3, 5, 7], np.int32)}
    outputs = [value("y", ("n", 3)), value("label", (1, "n"), TensorProto.INT32)]
    return model_of(nodes, [value("x", ("n", 8))], outputs, constants)


def prepared(folder: Path) -> ModelProto:
    prepare(saved(feed_forward(), folder / "float.onnx"), folder / "prepared.onnx", LOWEST_OPSET)
    return onnx.load_model(folder / "prepared.onnx")


def test_both_sides_of_a_runtimes_own_operator_run_in_int8(tmp_path: Path) -> None:
    weighted = place(Graph(prepared(tmp_path)), ()).weighted
    assert [operator.name for operator in weighted] == ["first", "second"]


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_both_sides_of_a_runtimes_own_operator_run_in_half(tmp_path: Path, precision: str) -> None:
    emitted = Graph(emit_half(prepared(tmp_path), (), precision))
    made = {node.name: emitted.type_name(node.output[0]) for node in emitted.nodes}
    assert made["first"] == made["second"] == ("FLOAT16" if precision == "fp16" else "BFLOAT16")


def test_an_fp16_graph_around_a_runtimes_own_operator_answers_as_the_upload(tmp_path: Path) -> None:
    meant = run(feed_forward(), ROWS, tmp_path)["scores"]
    given = run(emit_half(prepared(tmp_path), (), "fp16"), ROWS, tmp_path)["scores"]
    assert np.allclose(meant, given, rtol=0.02, atol=0.02)


def test_a_pipeline_that_scales_its_columns_first_runs_in_int8(tmp_path: Path) -> None:
    emitted, plan = quantize(scaled(), ROWS, tmp_path)
    assert "INT8" in {operator.precision for operator in plan.operators}
    meant, given = (run(model, ROWS, tmp_path)["y"] for model in (scaled(), emitted))
    assert np.abs(meant - given).max() < np.abs(meant).max() * 0.05


def test_types_and_axes_are_stated_of_what_was_open_alone() -> None:
    model = feed_forward()
    state_types(model)
    stated = {entry.name: entry.type.tensor_type for entry in model.graph.value_info}
    assert stated.keys() == {"gated", "turned", "back", "less"}
    assert {entry.elem_type for entry in stated.values()} == {TensorProto.FLOAT}
    assert stated["turned"].shape.dim[0].dim_value == 16


def test_a_graph_of_known_types_is_left_as_it_is() -> None:
    model = model_of([helper.make_node("Neg", ["x"], ["y"], "negate")], [value("x", ("n", 8))], [value("y", ("n", 8))])
    before = model.SerializeToString(deterministic=True)
    state_types(model)
    assert model.SerializeToString(deterministic=True) == before
