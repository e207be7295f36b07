"""The emitted graph computes what the plan says and runs on INT8 kernels throughout."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto, helper

from service.domain.plan import TensorGrid
from service.domain.recipe import GRANULARITIES, SCHEMES, Calibration, Recipe
from service.quantization.builders.builder import ExecutedOperator
from service.quantization.builders.onnxruntime_builder import OnnxRuntimeBuilder
from service.quantization.emitters.qdq import quantized
from tests.unit.quantization.int8 import quantize, run
from tests.unit.quantization.small_models import (
    Array,
    classifier,
    fp32,
    images,
    model_of,
    read_in_a_branch,
    saved,
    value,
)

ROWS = {"x": images(64)}
MINMAX = Calibration(method="minmax")


def decibels(reference: Array, given: Array) -> float:
    return float(10 * np.log10((reference**2).sum() / ((reference - given) ** 2).sum()))


def executed(model: ModelProto, folder: Path) -> dict[str, ExecutedOperator]:
    operators = OnnxRuntimeBuilder().executed(saved(model, folder / "engine.onnx"), 1)
    return {operator.name: operator for operator in operators}


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_a_classifier_stays_close_to_its_float_self(tmp_path: Path, scheme: str, granularity: str) -> None:
    recipe = Recipe(scheme=scheme, granularity=granularity, calibration=MINMAX)
    emitted, _ = quantize(classifier(), ROWS, tmp_path, recipe)
    onnx.checker.check_model(emitted, full_check=True)
    reference, given = (run(model, ROWS, tmp_path)["scores"] for model in (classifier(), emitted))
    assert decibels(reference, given) > (25 if granularity == "per_channel" else 20)


def test_per_channel_weights_are_closer_than_per_tensor_where_channels_differ(tmp_path: Path) -> None:
    found = []
    for granularity in GRANULARITIES:
        emitted, _ = quantize(classifier(), ROWS, tmp_path, Recipe(granularity=granularity, calibration=MINMAX))
        found.append(decibels(run(classifier(), ROWS, tmp_path)["scores"], run(emitted, ROWS, tmp_path)["scores"]))
    assert found[0] > found[1] + 1


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_operator_of_a_classifier_runs_in_int8(tmp_path: Path, scheme: str) -> None:
    emitted, plan = quantize(classifier(), ROWS, tmp_path, Recipe(scheme=scheme))
    ran = executed(emitted, tmp_path)
    assert {operator.precision for operator in plan.operators} == {"INT8"}
    assert {operator.operator for operator in ran.values()} <= {
        "QuantizeLinear", "QLinearConv", "QLinearAdd", "QLinearGlobalAveragePool", "Flatten", "QGemm", "Transpose",
    }  # fmt: skip
    assert all(ran[name].int8 for name in ("stem", "dw", "pw", "residual", "pool", "head"))


def test_the_engine_computes_what_the_plan_means(tmp_path: Path) -> None:
    weight, bias = fp32([[1, -2], [0.5, 4]]), fp32([0.25, -1])
    gemm = helper.make_node("Gemm", ["x", "w", "b"], ["y"], "gemm", transB=1)
    model = model_of([gemm], [value("x", ("n", 2))], [value("y", ("n", 2))], {"w": weight, "b": bias})
    rows = {"x": fp32([[1, 2], [-3, 0.1], [0, 0]])}
    emitted, plan = quantize(model, rows, tmp_path, Recipe(calibration=MINMAX))
    activation, grids = plan.activations[0], plan.weights[0]
    assert grids.bias is not None
    x = (quantized(rows["x"], activation).astype(np.float64) - activation.zero_point) * activation.scales[0]
    w = quantized(weight, grids.weight) * np.asarray(grids.weight.scales)[:, None]
    b = quantized(bias, grids.bias) * np.asarray(grids.bias.scales)
    assert np.allclose(run(emitted, rows, tmp_path)["y"], x @ w.T + b, atol=1e-5)


def test_kept_operators_keep_their_float_weights(tmp_path: Path) -> None:
    emitted, _ = quantize(classifier(), ROWS, tmp_path, Recipe(keep_float=("dw", "op:Gemm")))
    constants = {tensor.name for tensor in emitted.graph.initializer}
    assert {"dw.w", "head.w"} <= constants
    assert "pw.w" not in constants
    ran = executed(emitted, tmp_path)
    assert ran["pw"].int8
    assert not ran["dw"].int8
    assert not ran["head"].int8


def test_a_convolution_at_the_end_keeps_the_outputs_name_and_float_type(tmp_path: Path) -> None:
    conv = helper.make_node("Conv", ["x", "k"], ["y"], "conv")
    shape = ("n", 3, 8, 8)
    kernel = np.random.default_rng(0).normal(0, 1, (2, 3, 1, 1)).astype(np.float32)
    model = model_of([conv], [value("x", shape)], [value("y", ("n", 2, 8, 8))], {"k": kernel})
    emitted, _ = quantize(model, ROWS, tmp_path, Recipe(calibration=MINMAX))
    reference, given = (run(each, ROWS, tmp_path)["y"] for each in (model, emitted))
    assert given.dtype == np.float32
    assert decibels(reference, given) > 30
    assert executed(emitted, tmp_path)["conv"].operator == "QLinearConv"


def test_a_tensor_that_is_an_output_and_read_on_serves_both(tmp_path: Path) -> None:
    nodes = [helper.make_node("Conv", ["x", "k"], ["y"], "one"), helper.make_node("Conv", ["y", "k"], ["z"], "two")]
    kernel = np.random.default_rng(0).normal(0, 1, (3, 3, 1, 1)).astype(np.float32)
    shape = ("n", 3, 8, 8)
    model = model_of(nodes, [value("x", shape)], [value("y", shape), value("z", shape)], {"k": kernel})
    emitted, _ = quantize(model, ROWS, tmp_path, Recipe(calibration=MINMAX))
    reference, given = (run(each, ROWS, tmp_path) for each in (model, emitted))
    for name in ("y", "z"):
        assert decibels(reference[name], given[name]) > 25


def test_float_readers_of_a_float_tensor_do_not_pay_for_its_int8_readers(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Sigmoid", ["x"], ["s"], "sigmoid"),
        helper.make_node("Conv", ["s", "k"], ["y"], "conv"),
        helper.make_node("Exp", ["s"], ["e"], "exp"),
    ]
    kernel = np.ones((1, 3, 1, 1), np.float32)
    shape = ("n", 3, 8, 8)
    model = model_of(nodes, [value("x", shape)], [value("y", None), value("e", shape)], {"k": kernel})
    emitted, _ = quantize(model, ROWS, tmp_path)
    reference, given = (run(each, ROWS, tmp_path)["e"] for each in (model, emitted))
    assert np.array_equal(reference, given)


@pytest.mark.parametrize("kind", ["MaxPool", "AveragePool", "Concat", "Mul", "MatMul", "Transpose", "Squeeze"])
def test_every_placed_kind_of_operator_runs_in_int8(tmp_path: Path, kind: str) -> None:
    shape = ("n", 3, 8, 8)
    kernel = np.random.default_rng(0).normal(0, 1, (3, 3, 1, 1)).astype(np.float32)
    wide = np.random.default_rng(0).normal(0, 1, (3, 6, 1, 1)).astype(np.float32)
    square = np.random.default_rng(0).normal(0, 1, (8, 8)).astype(np.float32)
    node = helper.make_node
    first, second = node("Conv", ["x", "k"], ["a"], "first"), node("Conv", ["x", "k"], ["b"], "second")
    constants: dict[str, Array] = {"k": kernel, "wide": wide, "w": square, "axes": np.array([0], np.int64)}
    last = node("Conv", ["c", "k"], ["y"], "last")
    bodies: dict[str, list[Any]] = {
        "MaxPool": [node("MaxPool", ["a"], ["c"], "it", kernel_shape=[2, 2]), last],
        "AveragePool": [node("AveragePool", ["a"], ["c"], "it", kernel_shape=[2, 2]), last],
        "Concat": [second, node("Concat", ["a", "b"], ["c"], "it", axis=1), node("Conv", ["c", "wide"], ["y"], "last")],
        "Mul": [second, node("Mul", ["a", "b"], ["c"], "it"), last],
        "MatMul": [node("MatMul", ["a", "w"], ["c"], "it"), last],
        "Transpose": [node("Transpose", ["a"], ["c"], "it", perm=[0, 1, 3, 2]), last],
        "Squeeze": [node("Unsqueeze", ["a", "axes"], ["u"], "up"), node("Squeeze", ["u", "axes"], ["c"], "it"), last],
    }
    model = model_of([first, *bodies[kind]], [value("x", shape)], [value("y", None)], constants)
    emitted, plan = quantize(model, ROWS, tmp_path, Recipe(calibration=MINMAX))
    planned = {operator.name: operator.precision for operator in plan.operators}
    ran = executed(emitted, tmp_path)
    assert all(precision == "INT8" for precision in planned.values()), planned
    assert not [operator for operator in ran.values() if not operator.int8 and operator.name in planned]
    reference, given = (run(each, ROWS, tmp_path)["y"] for each in (model, emitted))
    assert decibels(reference, given) > 20


def loads_elsewhere(model: ModelProto, folder: Path) -> bool:
    """Whether a process without any option of ours can open the model: ONNX Runtime may abort the one that tries."""
    path = saved(model, folder / "elsewhere.onnx")
    script = "import sys, onnxruntime; onnxruntime.InferenceSession(sys.argv[1], providers=['CPUExecutionProvider'])"
    return subprocess.run([sys.executable, "-c", script, path], capture_output=True, check=False).returncode == 0


MOVES: dict[str, list[NodeProto]] = {
    "MaxPool": [helper.make_node("MaxPool", ["a"], ["c"], "it", kernel_shape=[2, 2])],
    "Reshape": [helper.make_node("Reshape", ["a", "flat"], ["c"], "it")],
    "Flatten": [helper.make_node("Flatten", ["a"], ["c"], "it")],
    "Transpose": [helper.make_node("Transpose", ["a"], ["c"], "it", perm=[0, 2, 3, 1])],
    "Unsqueeze": [helper.make_node("Unsqueeze", ["a", "axes"], ["c"], "it")],
    "Squeeze": [
        helper.make_node("MaxPool", ["a"], ["b"], "pool", kernel_shape=[8, 8]),
        helper.make_node("Squeeze", ["b", "last"], ["c"], "it"),
    ],
    "Slice": [helper.make_node("Slice", ["a", "axes", "last", "axes"], ["c"], "it")],
    "two of them": [
        helper.make_node("MaxPool", ["a"], ["b"], "pool", kernel_shape=[2, 2]),
        helper.make_node("Reshape", ["b", "flat"], ["c"], "it"),
    ],
    "one with an INT8 reader": [
        helper.make_node("Slice", ["a", "axes", "last", "last"], ["c"], "it"),
        helper.make_node("Conv", ["c", "k"], ["d"], "next"),
    ],
}


@pytest.mark.parametrize("keep_float", [(), ("it",)])
@pytest.mark.parametrize("move", MOVES)
def test_a_branch_may_read_what_an_operator_moves(tmp_path: Path, move: str, keep_float: tuple[str, ...]) -> None:
    constants: dict[str, Array] = {
        "k": np.random.default_rng(0).normal(0, 1, (3, 3, 1, 1)).astype(np.float32),
        "flat": np.array([0, -1], np.int64),
        "axes": np.array([1], np.int64),
        "last": np.array([3], np.int64),
    }
    nodes = [helper.make_node("Conv", ["x", "k"], ["a"], "conv"), *MOVES[move]]
    model = read_in_a_branch(model_of(nodes, [value("x", ("n", 3, 8, 8))], [], constants), "c")
    emitted, _ = quantize(model, ROWS, tmp_path, Recipe(calibration=MINMAX, keep_float=keep_float))
    assert loads_elsewhere(emitted, tmp_path)
    assert executed(emitted, tmp_path)["conv"].operator == "QLinearConv"
    assert decibels(run(model, ROWS, tmp_path)["c/seen"], run(emitted, ROWS, tmp_path)["c/seen"]) > 30


def test_an_emission_leaves_the_float_model_untouched(tmp_path: Path) -> None:
    model = classifier()
    before = model.SerializeToString()
    quantize(model, ROWS, tmp_path)
    assert model.SerializeToString() == before


def test_values_are_rounded_to_even_and_clipped_to_the_grid() -> None:
    grid = TensorGrid("t", "UINT8", (0.5,), 10)
    assert quantized(fp32([0, 0.25, 0.75, 1000, -1000]), grid).tolist() == [10, 10, 12, 255, 0]
    narrow = TensorGrid("w", "INT8", (1.0, 2.0), 0, axis=1)
    assert quantized(fp32([[-500, 3]]), narrow).tolist() == [[-127, 2]]
