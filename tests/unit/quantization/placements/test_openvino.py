"""Which operators run in INT8 on OpenVINO, where grids lie, and why."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from service.quantization.graphs.graph import Graph
from service.quantization.placements.openvino import place
from service.quantization.placements.placement import Placement
from tests.unit.quantization.bodies import BODIES, CONSTANTS, SHAPE, body_model
from tests.unit.quantization.small_models import classifier, model_of, value


def placed(body: str, *keep_float: str) -> Placement:
    return place(Graph(body_model(body)), keep_float)


def precisions(placement: Placement) -> dict[str, str]:
    return {operator.name: operator.precision for operator in placement.operators}


def reasons(placement: Placement) -> dict[str, str]:
    return {operator.name: operator.reason for operator in placement.operators}


def test_results_that_no_int8_operator_reads_are_not_rounded() -> None:
    assert placed("nothing").grids == {"x": "x", "a": "a"}
    assert placed("Add at the end").grids == {"x": "x"}
    assert precisions(placed("Add at the end"))["it"] == "FP32"


@pytest.mark.parametrize(
    ("body", "grids"),
    [
        ("MaxPool", {"x": "x", "a": "a", "c": "a"}),
        ("MaxPool at the start", {"x": "x", "c": "x"}),
        ("Squeeze", {"x": "x", "a": "a", "u": "a", "c": "a"}),
        ("Flatten", {"x": "x", "b": "b", "c": "b"}),
    ],
)
def test_what_moves_values_shares_the_grid_of_what_it_moves(body: str, grids: dict[str, str]) -> None:
    placement = placed(body)
    assert placement.grids == grids
    assert precisions(placement)["it"] == "INT8"
    assert reasons(placement)["it"] == "moves INT8 values unchanged"


@pytest.mark.parametrize("body", ["Relu", "Clip", "Clip below zero"])
def test_a_clip_is_computed_in_the_kernel_before_it_and_only_its_result_is_rounded(body: str) -> None:
    placement = placed(body)
    assert placement.grids == {"x": "x", "c": "c"}
    assert reasons(placement)["it"] == "computed in the kernel of 'first'"


@pytest.mark.parametrize(
    ("channels", "taps", "precision"),
    [
        (16, 8, "FP32"),
        (28, 16, "FP32"),
        (4, 32, "FP32"),
        (16, 4, "INT8"),
        (16, 7, "INT8"),
        (6, 32, "INT8"),
        (32, 8, "INT8"),
    ],
)
def test_rows_of_a_kernel_that_fill_several_tiles_with_few_channels_stay_in_float(
    channels: int, taps: int, precision: str
) -> None:
    weight = np.ones((8, channels, taps), np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"], "it")
    model = model_of([node], [value("x", ["n", channels, 64])], [value("y", ["n", 8, 65 - taps])], {"w": weight})
    placement = place(Graph(model), ())
    assert precisions(placement)["it"] == precision
    assert (f"{taps} taps over {channels} channels" in reasons(placement)["it"]) == (precision == "FP32")


@pytest.mark.parametrize(
    ("channels", "group", "taps", "stride", "precision"),
    [
        (16, 16, 14, 1, "FP32"),
        (16, 16, 31, 1, "FP32"),
        (16, 16, 13, 1, "INT8"),
        (16, 16, 31, 2, "INT8"),
        (32, 32, 31, 1, "INT8"),
        (16, 1, 15, 1, "INT8"),
    ],
)
def test_long_kernels_over_one_vector_of_separate_channels_stay_in_float(
    channels: int, group: int, taps: int, stride: int, precision: str
) -> None:
    weight = np.ones((channels, channels // group, taps), np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"], "it", group=group, strides=[stride])
    made = (64 - taps) // stride + 1
    model = model_of([node], [value("x", ["n", channels, 64])], [value("y", ["n", channels, made])], {"w": weight})
    placement = place(Graph(model), ())
    assert precisions(placement)["it"] == precision
    assert (f"{taps} taps over {channels} separate" in reasons(placement)["it"]) == (precision == "FP32")


def test_the_grid_of_a_clip_that_starts_at_zero_ends_at_its_ceiling() -> None:
    assert placed("Clip").ceilings == {"c": 6.0}
    assert placed("Relu").ceilings == {"c": float("inf")}
    assert placed("Clip below zero").ceilings == {}


@pytest.mark.parametrize("body", ["Sigmoid", "LeakyRelu", "swish", "hard swish", "Softmax", "Mul", "Add of a constant"])
def test_other_elementwise_operators_stay_in_float_and_only_their_result_is_rounded(body: str) -> None:
    placement = placed(body)
    assert precisions(placement)["it"] == "FP32"
    assert placement.grids == {"x": "x", "c": "c"}


@pytest.mark.parametrize("body", ["AveragePool", "AveragePool with padding", "GlobalAveragePool"])
def test_averages_run_in_int8_with_grids_on_both_sides(body: str) -> None:
    placement = placed(body)
    assert precisions(placement)["it"] == "INT8"
    assert placement.grids == {"x": "x", "a": "a", "c": "c"}


def test_an_average_that_counts_its_padding_stays_in_float_and_says_why() -> None:
    placement = placed("AveragePool of its padding")
    assert precisions(placement)["it"] == "FP32"
    assert placement.grids == {"x": "x", "c": "c"}
    assert "it counts its padding" in reasons(placement)["it"]


def test_of_the_branches_of_an_add_the_last_one_straight_from_a_kernel_is_not_rounded() -> None:
    assert placed("Add").grids == {"x": "x", "a": "a", "c": "c"}
    assert placed("residual").grids == {"x": "x", "b": "b", "c": "c"}
    assert placed("residual over two").grids.keys() == {"x", "a", "d", "c"}
    assert placed("residual of clipped branches").grids.keys() == {"x", "b", "e", "c"}


def test_a_clip_behind_an_add_takes_the_rounding_to_itself() -> None:
    placement = placed("Add and Relu")
    assert placement.grids.keys() == {"x", "a", "c"}
    assert precisions(placement)["relu"] == "INT8"


def test_the_result_of_a_concatenation_has_a_grid_and_its_inputs_are_rounded_to_that() -> None:
    placement = placed("Concat")
    assert placement.grids.keys() == {"x", "c"}
    assert precisions(placement)["it"] == "INT8"


def test_a_multiplication_of_two_computed_tensors_stays_in_float() -> None:
    placement = placed("attention")
    assert reasons(placement)["it"] == "its weight is computed, not a constant"
    assert {operator.name for operator in placement.weighted} == {"query", "key", "last"}


def test_an_average_of_a_float_result_stays_in_float() -> None:
    nodes = [
        helper.make_node("Softmax", ["x"], ["a"], "soft"),
        helper.make_node("GlobalAveragePool", ["a"], ["c"], "it"),
        helper.make_node("Conv", ["c", "k"], ["y"], "last"),
    ]
    model = model_of(nodes, [value("x", SHAPE)], [value("y", None)], {"k": CONSTANTS["k"]})
    placement = place(Graph(model), ())
    assert reasons(placement)["it"] == "an input is in floating point"
    assert placement.grids == {"c": "c"}


@pytest.mark.parametrize("pattern", ["last", "l?st", "op:Conv", "*"])
def test_operators_that_keep_float_names_stay_in_float(pattern: str) -> None:
    placement = placed("nothing", pattern)
    assert precisions(placement)["last"] == "FP32"
    assert reasons(placement)["last"] == f"kept in floating point by keep_float {pattern!r}"
    assert "a" not in placement.grids


def test_what_is_kept_between_is_not_moved_past() -> None:
    placement = placed("MaxPool", "it")
    assert placement.grids == {"x": "x", "c": "c"}
    assert precisions(placement)["it"] == "FP32"


@pytest.mark.parametrize("body", BODIES)
def test_every_int8_operator_reads_grids_that_calibration_is_asked_for(body: str) -> None:
    placement = placed(body)
    assert placement.weighted
    assert {operator.activation for operator in placement.weighted} <= placement.grids.keys()
    assert set(placement.observed) == set(placement.grids.values()) <= placement.grids.keys()


def test_a_whole_classifier_is_placed_in_int8() -> None:
    model = classifier()
    for node in [node for node in model.graph.node if node.op_type == "BatchNormalization"]:
        node.CopyFrom(onnx.helper.make_node("Identity", node.input[:1], node.output, node.name))
    placement = place(Graph(model), ("bn",))
    assert {name for name, precision in precisions(placement).items() if precision == "FP32"} == {"bn", "stem/relu"}


def test_operators_on_shapes_are_named_as_such() -> None:
    nodes = [helper.make_node("Shape", ["x"], ["s"], "shape"), helper.make_node("Reshape", ["x", "s"], ["y"], "r")]
    placement = place(Graph(model_of(nodes, [value("x", SHAPE)], [value("y", None)])), ())
    assert (precisions(placement)["shape"], reasons(placement)["shape"]) == ("INT64", "works on shapes or integers")
    assert placement.weighted == ()
