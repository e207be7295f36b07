"""Which operators run in INT8 follows from the graph and the recipe, each with its reason."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper

from service.quantization.graphs.graph import Graph
from service.quantization.placements.onnxruntime import place
from service.quantization.placements.placement import Placement
from tests.unit.quantization.small_models import Array, classifier, fp32, model_of, value

WEIGHT = np.ones((4, 4), np.float32)
KERNEL = np.ones((4, 4, 1, 1), np.float32)


def conv(source: str, result: str, **more: Any) -> NodeProto:
    return helper.make_node("Conv", [source, more.pop("weight", "k")], [result], result, **more)


def image_model(*nodes: NodeProto, result: str, **constants: Array) -> ModelProto:
    shape = ("batch", 4, 8, 8)
    return model_of(nodes, [value("x", shape)], [value(result, None)], {"k": KERNEL} | constants)


def vector_model(*nodes: NodeProto, result: str, **constants: Array) -> ModelProto:
    return model_of(nodes, [value("x", ("batch", 4))], [value(result, None)], {"w": WEIGHT} | constants)


def placed(model: ModelProto, *keep_float: str) -> Placement:
    return place(Graph(model), keep_float)


def precisions(placement: Placement) -> dict[str, str]:
    return {operator.name: operator.precision for operator in placement.operators}


def reasons(placement: Placement) -> dict[str, str]:
    return {operator.name: operator.reason for operator in placement.operators}


def test_a_classifier_runs_in_int8_from_end_to_end_once_its_norms_are_folded() -> None:
    model = classifier()
    nodes = [node for node in model.graph.node if node.name != "bn"]
    nodes[1].input[0] = "a"
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    placement = placed(model)
    assert set(precisions(placement).values()) == {"INT8"}
    assert [operator.name for operator in placement.weighted] == ["stem", "dw", "pw", "head"]
    assert placement.grids["i"] == "h"
    assert "scores" not in placement.grids
    assert placement.ceilings == {"c": float("inf"), "e": 6.0}


def test_a_convolution_is_quantized_behind_its_rectifier_and_not_between() -> None:
    model = image_model(conv("x", "a"), helper.make_node("Relu", ["a"], ["b"], "relu"), conv("b", "c"), result="c")
    placement = placed(model)
    assert set(placement.grids) == {"x", "b", "c"}
    assert "fused into 'a'" in reasons(placement)["relu"]


def test_a_rectifier_whose_input_others_read_too_is_not_fused() -> None:
    relu = helper.make_node("Relu", ["a"], ["b"], "relu")
    add = helper.make_node("Add", ["a", "b"], ["c"], "add")
    placement = placed(image_model(conv("x", "a"), relu, add, conv("c", "d"), result="d"))
    assert "a" in placement.grids
    assert "b" not in placement.grids
    assert precisions(placement)["relu"] == precisions(placement)["add"] == "FP32"
    assert reasons(placement)["add"] == "an input is in floating point"


@pytest.mark.parametrize(("low", "fused"), [(0.0, True), (-1.0, False)])
def test_only_a_clip_that_starts_at_zero_is_fused(low: float, fused: bool) -> None:
    clip = helper.make_node("Clip", ["a", "low", "high"], ["b"], "clip")
    constants = {"low": fp32(low), "high": fp32(6)}
    placement = placed(image_model(conv("x", "a"), clip, conv("b", "c"), result="c", **constants))
    assert (precisions(placement)["clip"] == "INT8") is fused
    assert ("a" in placement.grids) is not fused


def test_a_fully_connected_layer_keeps_a_float_result_that_nobody_wants_in_int8() -> None:
    first = helper.make_node("Gemm", ["x", "w"], ["a"], "first")
    relu = helper.make_node("Relu", ["a"], ["b"], "relu")
    second = helper.make_node("Gemm", ["b", "w"], ["c"], "second")
    placement = placed(vector_model(first, relu, second, result="c"))
    assert set(placement.grids) == {"x", "b"}
    alone = placed(vector_model(first, relu, result="b"))
    assert set(alone.grids) == {"x"}
    assert precisions(alone) == {"first": "INT8", "relu": "FP32"}


def test_moving_operators_share_the_grid_of_what_they_move() -> None:
    pool = helper.make_node("MaxPool", ["a"], ["b"], "pool", kernel_shape=[2, 2])
    turn = helper.make_node("Transpose", ["b"], ["c"], "turn", perm=[0, 1, 3, 2])
    placement = placed(image_model(conv("x", "a"), pool, turn, conv("c", "d"), result="d"))
    assert placement.grids["b"] == placement.grids["c"] == "a"
    assert placement.observed == ("x", "a", "d")


def test_a_pool_that_also_gives_positions_stays_in_float() -> None:
    pool = helper.make_node("MaxPool", ["a"], ["b", "where"], "pool", kernel_shape=[2, 2])
    placement = placed(image_model(conv("x", "a"), pool, conv("b", "c"), result="c"))
    assert precisions(placement)["pool"] == "FP32"


def test_operators_at_the_end_stay_in_float_for_nobody_wants_their_int8() -> None:
    add = helper.make_node("Add", ["a", "b"], ["c"], "add")
    placement = placed(image_model(conv("x", "a"), conv("x", "b"), add, result="c"))
    assert precisions(placement)["add"] == "FP32"
    assert reasons(placement)["add"] == "its result is used in floating point"


@pytest.mark.parametrize("kind", ["Add", "Mul"])
def test_joining_operators_run_in_int8_between_int8_neighbours(kind: str) -> None:
    join = helper.make_node(kind, ["a", "b"], ["c"], "join")
    relu = helper.make_node("Relu", ["c"], ["d"], "relu")
    placement = placed(image_model(conv("x", "a"), conv("x", "b"), join, relu, conv("d", "e"), result="e"))
    assert precisions(placement)["join"] == precisions(placement)["relu"] == "INT8"
    assert "c" not in placement.grids


def test_concatenation_runs_in_int8_with_a_grid_for_each_input() -> None:
    join = helper.make_node("Concat", ["a", "b"], ["c"], "join", axis=1)
    wide = np.ones((4, 8, 1, 1), np.float32)
    model = image_model(conv("x", "a"), conv("x", "b"), join, conv("c", "d", weight="wide"), result="d", wide=wide)
    placement = placed(model)
    assert precisions(placement)["join"] == "INT8"
    assert {placement.grids[name] for name in "abc"} == {"a", "b", "c"}


def test_what_has_no_int8_kernel_stays_in_float_with_that_reason() -> None:
    soft = helper.make_node("Softmax", ["a"], ["b"], "soft")
    placement = placed(image_model(conv("x", "a"), soft, conv("b", "c"), result="c"))
    assert reasons(placement)["soft"] == "Softmax has no INT8 kernel that pays on this runtime"


def test_a_sigmoid_runs_in_int8_where_both_its_sides_are_quantized_anyway() -> None:
    gate = helper.make_node("Sigmoid", ["a"], ["b"], "gate")
    between = placed(image_model(conv("x", "a"), gate, conv("b", "c"), result="c"))
    assert (precisions(between)["gate"], set(between.grids)) == ("INT8", {"x", "a", "b", "c"})
    at_the_end = placed(image_model(conv("x", "a"), gate, result="b"))
    assert (precisions(at_the_end)["gate"], set(at_the_end.grids)) == ("FP32", {"x", "a"})


@pytest.mark.parametrize("pattern", ["b", "[ab]", "op:Conv", "*"])
def test_operators_that_keep_float_names_stay_in_float(pattern: str) -> None:
    placement = placed(image_model(conv("x", "a"), conv("a", "b"), result="b"), pattern)
    assert precisions(placement)["b"] == "FP32"
    assert reasons(placement)["b"] == f"kept in floating point by keep_float {pattern!r}"
    assert "b" not in placement.grids


@pytest.mark.parametrize(
    ("node", "reason"),
    [
        (helper.make_node("MatMul", ["x", "x2"], ["y"], "n"), "its weight is computed, not a constant"),
        (helper.make_node("MatMul", ["x", "deep"], ["y"], "n"), "its weight has 3 axes; INT8 needs 2"),
        (helper.make_node("MatMul", ["w", "w"], ["y"], "n"), "its input is a constant"),
        (helper.make_node("MatMul", ["whole", "whole_w"], ["y"], "n"), "its input is INT32, not FLOAT"),
        (helper.make_node("Gemm", ["x", "w"], ["y"], "n", transA=1), "it transposes or scales its input"),
        (helper.make_node("Gemm", ["x", "w"], ["y"], "n", alpha=0.5), "it transposes or scales its input"),
        (helper.make_node("Gemm", ["x", "w", "b"], ["y"], "n", beta=0.5), "it scales its bias"),
        (helper.make_node("Gemm", ["x", "w", "w"], ["y"], "n"), "its bias is no constant vector"),
        (helper.make_node("Gemm", ["x", "w", "x2"], ["y"], "n"), "its bias is no constant vector"),
    ],
)
def test_a_layer_without_an_int8_kernel_says_why(node: NodeProto, reason: str) -> None:
    constants = {
        "b": np.ones(4, np.float32),
        "deep": np.ones((2, 4, 4), np.float32),
        "whole_w": np.ones((4, 4), np.int32),
    }
    nodes = [
        helper.make_node("Relu", ["x"], ["x2"], "other"),
        helper.make_node("Cast", ["x"], ["whole"], "cast", to=TensorProto.INT32),
        node,
    ]
    placement = placed(vector_model(*nodes, result="y", **constants))
    assert placement.weighted == ()
    assert reasons(placement)["n"] == reason


def test_output_channels_are_counted_on_the_axis_of_each_operator() -> None:
    bias = np.ones(4, np.float32)
    nodes = [
        helper.make_node("Gemm", ["x", "w", "bias"], ["a"], "straight"),
        helper.make_node("Gemm", ["a", "w"], ["b"], "turned", transB=1),
        helper.make_node("MatMul", ["b", "w"], ["c"], "plain"),
    ]
    placement = placed(vector_model(*nodes, result="c", bias=bias))
    assert [(operator.name, operator.axis, operator.bias) for operator in placement.weighted] == [
        ("straight", 1, "bias"),
        ("turned", 0, None),
        ("plain", 1, None),
    ]


def test_operators_on_shapes_are_named_as_such() -> None:
    nodes = [helper.make_node("Shape", ["x"], ["s"], "shape"), helper.make_node("Reshape", ["x", "s"], ["y"], "r")]
    placement = placed(vector_model(*nodes, result="y"))
    assert (precisions(placement)["shape"], reasons(placement)["shape"]) == ("INT64", "works on shapes or integers")
