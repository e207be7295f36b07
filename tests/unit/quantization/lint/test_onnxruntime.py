"""What the lint says of an emitted graph is what ONNX Runtime then runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, helper, numpy_helper

from service.domain.recipe import Recipe
from service.quantization.builders.onnxruntime_builder import OnnxRuntimeBuilder
from service.quantization.lint.fusion_lint import predict
from service.quantization.lint.prediction import Predicted
from service.quantization.measures.simulation import simulated
from tests.unit.quantization.int8 import quantize, run
from tests.unit.quantization.random_graphs import random_network, random_rows
from tests.unit.quantization.small_models import Array, classifier, fp32, images, model_of, saved, value

DIGITS = Path(__file__).parents[4] / "models" / "digits"


def lint(model: ModelProto) -> dict[str, Predicted]:
    return {entry.name: entry for entry in predict("onnxruntime", model)}


def contradictions(model: ModelProto, folder: Path) -> list[tuple[str, bool, str]]:
    """Operators that run otherwise than predicted. Layout passes make transposes of their own, which count for none."""
    predicted = lint(model)
    executed = OnnxRuntimeBuilder().executed(saved(model, folder / "engine.onnx"), 1)
    return [
        (operator.name, operator.int8, predicted[operator.name].rule)
        for operator in executed
        if operator.name in predicted
        and operator.operator != "Transpose"
        and operator.int8 != predicted[operator.name].int8
    ]


def pair(source: str, zero_point: int = 0) -> list[onnx.NodeProto]:
    """source -> {source}_d through an UINT8 grid of the shared scale."""
    grid = ["scale", f"zero{zero_point}"]
    return [
        helper.make_node("QuantizeLinear", [source, *grid], [f"{source}_q"], f"{source}/q"),
        helper.make_node("DequantizeLinear", [f"{source}_q", *grid], [f"{source}_d"], f"{source}/d"),
    ]


def small(nodes: Sequence[onnx.NodeProto], result: str) -> ModelProto:
    constants: dict[str, Array] = {
        "w": np.ones((4, 4, 1, 1), np.float32),
        "w_q": np.ones((4, 4, 1, 1), np.int8),
        "b_q": np.ones(4, np.int32),
        "b": np.ones(4, np.float32),
        "scale": fp32(0.1),
        "zero0": np.array(0, np.uint8),
        "zero7": np.array(7, np.uint8),
        "weight_zero": np.array(0, np.int8),
        "bias_zero": np.array(0, np.int32),
        "bias_scale": fp32(0.01),
    }
    constant = [
        helper.make_node("DequantizeLinear", ["w_q", "scale", "weight_zero"], ["w_d"], "w/d"),
        helper.make_node("DequantizeLinear", ["b_q", "bias_scale", "bias_zero"], ["b_d"], "b/d"),
    ]
    shape = ("n", 4, 6, 6)
    return model_of([*constant, *nodes], [value("x", shape)], [value(result, None)], constants)


def convolution(*inputs: str) -> onnx.NodeProto:
    return helper.make_node("Conv", inputs, ["y"], "conv", kernel_shape=[1, 1])


def test_a_convolution_between_pairs_runs_in_int8(tmp_path: Path) -> None:
    model = small([*pair("x"), convolution("x_d", "w_d", "b_d"), *pair("y")], "y_d")
    assert lint(model)["conv"].int8
    assert contradictions(model, tmp_path) == []


def test_a_convolution_whose_result_is_not_rounded_runs_in_float(tmp_path: Path) -> None:
    model = small([*pair("x"), convolution("x_d", "w_d", "b_d")], "y")
    assert not lint(model)["conv"].int8
    assert lint(model)["conv"].rule == "its output does not go to one QuantizeLinear alone"
    assert contradictions(model, tmp_path) == []


def test_a_rectifier_that_the_grid_does_not_make_redundant_keeps_the_convolution_in_float(tmp_path: Path) -> None:
    rectifier = helper.make_node("Relu", ["y"], ["z"], "relu")
    for zero_point, fused in ((0, True), (7, False)):
        nodes = [*pair("x"), convolution("x_d", "w_d", "b_d"), rectifier, *pair("z", zero_point)]
        model = small(nodes, "z_d")
        assert (lint(model)["relu"].int8, lint(model)["conv"].int8) == (fused, fused)
        assert contradictions(model, tmp_path) == []


def test_a_rounding_moves_before_a_pooling_only_where_nobody_else_reads_what_it_pools(tmp_path: Path) -> None:
    pool = helper.make_node("MaxPool", ["s"], ["p"], "pool", kernel_shape=[1, 1])
    nodes = [*pair("x"), helper.make_node("Sigmoid", ["x_d"], ["s"], "sigmoid"), pool, *pair("p")]
    assert lint(small(nodes, "p_d"))["pool"].int8
    assert contradictions(small(nodes, "p_d"), tmp_path) == []
    shared = small([*nodes, helper.make_node("Mul", ["p_d", "s"], ["y"], "mul")], "y")
    assert "others read its input 's' too" in lint(shared)["pool"].rule
    assert contradictions(shared, tmp_path) == []


@pytest.mark.parametrize(
    ("behind", "fused"),
    [
        (("Relu", "Relu"), True),
        (("Relu", "MaxPool"), True),
        (("MaxPool", "Relu"), False),
        (("Relu", "MaxPool", "Relu"), False),
    ],
)
def test_clips_are_removed_one_after_another_but_not_behind_what_a_rounding_passes(
    behind: tuple[str, ...], fused: bool, tmp_path: Path
) -> None:
    nodes = [*pair("x"), helper.make_node("Sigmoid", ["x_d"], ["s0"], "sigmoid")]
    for place, kind in enumerate(behind):
        node = helper.make_node(kind, [f"s{place}"], [f"s{place + 1}"], f"{kind}{place}")
        if kind == "MaxPool":
            node.attribute.append(helper.make_attribute("kernel_shape", [1, 1]))
        nodes.append(node)
    last = f"s{len(behind)}"
    model = small([*nodes, *pair(last)], f"{last}_d")
    assert lint(model)["sigmoid"].int8 == fused
    assert contradictions(model, tmp_path) == []


def test_an_operator_without_a_kernel_says_so() -> None:
    model = small([helper.make_node("Softmax", ["x"], ["y"], "soft")], "y")
    assert lint(model)["soft"].rule == "Softmax has no integer kernel here"


def test_a_classifier_runs_as_predicted(tmp_path: Path) -> None:
    emitted, plan = quantize(classifier(), {"x": images(16)}, tmp_path)
    assert contradictions(emitted, tmp_path) == []
    planned = {operator.name for operator in plan.operators if operator.precision == "INT8"}
    assert {name for name, entry in lint(emitted).items() if entry.int8} == planned


def test_digits_runs_as_predicted(tmp_path: Path) -> None:
    with np.load(DIGITS / "calibration.npz") as archive:
        rows = {"input": archive["input"][:64]}
    emitted, _ = quantize(onnx.load_model(DIGITS / "digits.onnx"), rows, tmp_path)
    assert contradictions(emitted, tmp_path) == []
    assert all(entry.int8 for entry in lint(emitted).values() if entry.operator in ("Conv", "Gemm"))


def test_a_weight_that_is_kept_in_float_between_int8_operators_stays_so(tmp_path: Path) -> None:
    """ONNX Runtime would quantize it by itself, on one grid for all its channels, once a pair has moved next to it."""
    pool = helper.make_node("MaxPool", ["x_d"], ["pooled"], "pool", kernel_shape=[2, 2], strides=[1, 1])
    network = small([*pair("x"), pool, convolution("pooled", "w"), *pair("y")], "y_d")
    w = next(tensor for tensor in network.graph.initializer if tensor.name == "w")
    w.CopyFrom(numpy_helper.from_array(np.geomspace(1e-4, 1, 16, dtype=np.float32).reshape(4, 4, 1, 1), "w"))
    assert contradictions(network, tmp_path) == []
    assert not lint(network)["conv"].int8


@given(seed=st.integers(0, 10_000), layers=st.integers(0, 8), scheme=st.sampled_from(["symmetric", "asymmetric"]))
@settings(max_examples=25, deadline=None)
def test_random_networks_run_as_predicted_and_as_simulated(seed: int, layers: int, scheme: str) -> None:
    keep_float = (("op:Add",), ("*w*",), ())[seed % 3]
    rows = random_rows(seed)
    with TemporaryDirectory() as name:
        folder = Path(name)
        model, plan = quantize(random_network(seed, layers), rows, folder, Recipe(scheme=scheme, keep_float=keep_float))
        assert contradictions(model, folder) == []
        engine, simulation = run(model, rows, folder)["y"], simulated(model, 1).infer(rows)["y"]
    scales = {grid.tensor: grid.scales[0] for grid in plan.activations}
    assert all(scale > 0 for scale in scales.values())
    assert all(scale > 0 for grids in plan.weights for scale in grids.weight.scales)
    # A result in floating point is judged by its span, for no grid of its own says what a step is.
    step = scales.get("y", float(np.ptp(simulation)) / 64)
    assert np.abs(engine - simulation).max() <= step * 1.001 + 1e-6
