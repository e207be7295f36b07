"""Which operators run in INT8 on TensorRT, and through which tensors, follows from its rules, each with its reason."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, helper

from service.quantization.graphs.graph import Graph
from service.quantization.placements.placement import Placement
from service.quantization.placements.tensorrt import place
from tests.unit.quantization.small_models import Array, model_of, value
from tests.unit.quantization.transformer_block import transformer_block

KERNEL = np.ones((16, 16, 1, 1), np.float32)
node = helper.make_node


def conv(source: str, result: str, weight: str = "k", **more: Any) -> NodeProto:
    return node("Conv", [source, weight], [result], result, **more)


def image_model(*nodes: NodeProto, result: str, **constants: Array) -> ModelProto:
    start = conv("image", "x")
    shape = ("batch", 16, 8, 8)
    return model_of(
        [start, *nodes], [value("image", shape)], [value(result, None)], {"k": KERNEL} | constants, opset=13
    )


def placed(model: ModelProto, *keep_float: str) -> Placement:
    return place(Graph(model), keep_float)


def precisions(placement: Placement) -> dict[str, str]:
    return {operator.name: operator.precision for operator in placement.operators}


def reasons(placement: Placement) -> dict[str, str]:
    return {operator.name: operator.reason for operator in placement.operators}


def test_inputs_of_weighted_operators_are_quantized_and_their_results_are_not() -> None:
    placement = placed(image_model(conv("x", "a"), node("Sigmoid", ["a"], ["b"], "b"), result="b"))
    assert placement.grids == {"image": "image", "x": "x"}
    assert precisions(placement) == {"x": "INT8", "a": "INT8", "b": "FP32"}


def test_nothing_stands_between_a_convolution_and_its_norm_and_rectifier() -> None:
    norm = node("BatchNormalization", ["a", "v", "v", "v", "v"], ["b"], "norm")
    model = image_model(
        conv("x", "a"), norm, node("Relu", ["b"], ["c"], "relu"), conv("c", "d"), result="d", v=np.ones(16, np.float32)
    )
    placement = placed(model)
    assert set(placement.grids) == {"image", "x", "c"}
    assert reasons(placement)["norm"] == "fused into 'a'"
    assert reasons(placement)["relu"] == "fused into 'norm'"


def test_biases_and_outputs_stay_in_floating_point() -> None:
    biased = node("Conv", ["x", "k", "bias"], ["y"], "y")
    placement = placed(image_model(biased, result="y", bias=np.ones(16, np.float32)))
    assert [(operator.name, operator.bias) for operator in placement.weighted] == [("x", None), ("y", None)]
    assert "y" not in placement.grids


def test_of_a_residual_addition_only_the_skip_is_quantized() -> None:
    model = image_model(conv("x", "a"), node("Add", ["x", "a"], ["b"], "add"), conv("b", "c"), result="c")
    placement = placed(model)
    assert set(placement.grids) == {"image", "x", "b"}
    assert "the skip input alone" in reasons(placement)["add"]


def test_with_a_convolution_on_both_sides_the_shorter_way_is_the_skip() -> None:
    block = [conv("x", "a"), node("Relu", ["a"], ["b"], "relu"), conv("b", "long"), conv("x", "short")]
    for order in (["long", "short"], ["short", "long"]):
        placement = placed(image_model(*block, node("Add", order, ["c"], "add"), conv("c", "d"), result="d"))
        assert "short" in placement.grids
        assert "long" not in placement.grids


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ("constant", "one of its inputs is a constant"),
        ("image", "its result is used in floating point"),
    ],
)
def test_adding_a_constant_or_an_input_is_no_residual_connection(other: str, reason: str) -> None:
    add = node("Add", ["a", other], ["b"], "add")
    placement = placed(image_model(conv("x", "a"), add, result="b", constant=np.ones((16, 1, 1), np.float32)))
    assert precisions(placement)["add"] == "FP32"
    assert reasons(placement)["add"] == reason


def test_a_block_that_does_not_end_in_a_convolution_is_no_residual_connection() -> None:
    gate = node("Sigmoid", ["a"], ["b"], "gate")
    placement = placed(image_model(conv("x", "a"), gate, node("Add", ["x", "b"], ["c"], "add"), result="c"))
    assert precisions(placement)["add"] == "FP32"


def test_a_sum_of_int8_tensors_joins_where_only_int8_reads_it() -> None:
    nodes = [node("Sigmoid", ["x"], ["s"], "s"), node("Tanh", ["x"], ["t"], "t"), conv("s", "a"), conv("t", "b")]
    add = node("Add", ["s", "t"], ["c"], "add")
    total = [node("Sum", ["a", "b", "d"], ["y"], "sum")]
    placement = placed(image_model(*nodes, add, conv("c", "d"), *total, result="y"))
    assert precisions(placement)["add"] == "INT8"
    placement = placed(image_model(*nodes[:3], add, conv("c", "d"), node("Add", ["a", "d"], ["y"], "sum"), result="y"))
    assert reasons(placement)["add"] == "an input would be rounded to INT8 for it alone"


def test_operators_that_move_values_share_one_scale_and_have_no_pair() -> None:
    pool = node("MaxPool", ["x"], ["a"], "pool", kernel_shape=[2, 2])
    turn = node("Transpose", ["a"], ["b"], "turn", perm=[0, 1, 3, 2])
    placement = placed(image_model(pool, turn, conv("b", "c"), result="c"))
    assert placement.grids == {"image": "image", "b": "x"}
    assert precisions(placement)["pool"] == precisions(placement)["turn"] == "INT8"


def test_an_operator_that_moves_values_to_float_readers_stays_in_floating_point() -> None:
    pool = node("MaxPool", ["x"], ["a"], "pool", kernel_shape=[2, 2])
    nodes = [pool, conv("a", "b"), node("Sigmoid", ["a"], ["c"], "gate"), node("Mul", ["b", "c"], ["d"], "mul")]
    placement = placed(image_model(*nodes, result="d"))
    assert reasons(placement)["pool"] == "its result is used in floating point"
    assert placement.grids["a"] == "a"


def test_an_average_runs_in_int8_behind_a_convolution_and_before_int8() -> None:
    relu, pool = node("Relu", ["a"], ["b"], "relu"), node("GlobalAveragePool", ["b"], ["c"], "pool")
    placement = placed(image_model(conv("x", "a"), relu, pool, conv("c", "d"), result="d"))
    assert precisions(placement)["pool"] == "INT8"
    assert {"b", "c"} <= set(placement.grids)
    placement = placed(image_model(conv("x", "a"), relu, pool, result="c"))
    assert reasons(placement)["pool"] == "its result is used in floating point"
    gate = node("Sigmoid", ["a"], ["b"], "gate")
    placement = placed(image_model(conv("x", "a"), gate, pool, conv("c", "d"), result="d"))
    assert reasons(placement)["pool"] == "its input would be rounded to INT8 for it alone"


def wide(inputs: int) -> Array:
    return np.ones((16, 16 * inputs, 1, 1), np.float32)


def test_the_inputs_of_a_concatenation_share_the_scale_of_its_result() -> None:
    join = node("Concat", ["a", "b"], ["c"], "join", axis=1)
    nodes = [conv("x", "a"), conv("x", "b"), join, conv("c", "d", "wide"), conv("a", "e")]
    model = image_model(*nodes, node("Add", ["d", "e"], ["y"], "last"), result="y", wide=wide(2))
    placement = placed(model)
    assert {placement.grids[name] for name in "abc"} == {"c"}
    assert precisions(placement)["join"] == "INT8"


def test_a_concatenation_at_the_end_stays_in_floating_point() -> None:
    join = node("Concat", ["a", "b"], ["c"], "boxes_and_scores", axis=1)
    placement = placed(image_model(conv("x", "a"), conv("x", "b"), join, result="c"))
    assert not {"a", "b", "c"} & set(placement.grids)


def test_a_tensor_shares_its_scale_with_one_concatenation_only() -> None:
    first, second = (node("Concat", ["x", name], [f"{name}x"], f"{name}x", axis=1) for name in ("a", "b"))
    nodes = [conv("x", "a"), conv("x", "b"), first, second, conv("ax", "c", "wide"), conv("bx", "d", "wide")]
    placement = placed(image_model(*nodes, node("Add", ["c", "d"], ["y"], "last"), result="y", wide=wide(2)))
    assert sorted(precisions(placement)[name] for name in ("ax", "bx")) == ["FP32", "INT8"]
    assert "an input shares its scale with another Concat" in reasons(placement).values()


def test_a_concatenation_of_all_parts_of_a_split_shares_one_scale_with_what_was_split() -> None:
    split = node("Split", ["x", "sizes"], ["a", "b"], "split", axis=1)
    joined = [node("Concat", ["a", "b"], ["c"], "join", axis=1), conv("c", "d"), result_conv("d", "y")]
    placement = placed(image_model(split, *joined, result="y", sizes=np.array([8, 8]), last=KERNEL))
    assert precisions(placement)["join"] == precisions(placement)["split"] == "INT8"
    joined[0].input[1] = "a"
    other = node("Sigmoid", ["b"], ["z"], "other")
    placement = placed(image_model(split, other, *joined, result="y", sizes=np.array([8, 8]), last=KERNEL))
    assert reasons(placement)["join"].startswith("an input is a part of what Split 'split' reads")


def test_a_concatenation_of_a_slice_stays_in_floating_point() -> None:
    bounds = {"from": np.array([0]), "to": np.array([8]), "channels": np.array([1])}
    part = node("Slice", ["x", "from", "to", "channels"], ["a"], "part")
    join = node("Concat", ["a", "a"], ["c"], "join", axis=1)
    placement = placed(image_model(part, join, conv("c", "y"), result="y", **bounds))
    assert reasons(placement)["join"].startswith("an input is a part of what Slice 'part' reads")


def result_conv(source: str, result: str) -> NodeProto:
    return conv(source, result, "last")


@pytest.mark.parametrize(
    ("dims", "group", "int8"),
    [
        ((16, 16, 1, 1), 1, True),
        ((8, 16, 3, 3), 1, True),
        ((10, 16, 3, 3), 1, False),
        ((10, 12, 3, 3), 1, False),
        ((8, 12, 3, 3), 1, False),
        ((8, 16, 1, 3), 1, False),
        ((32, 1, 3, 3), 32, True),
        ((20, 1, 3, 3), 20, False),
        ((32, 1, 1, 1), 32, False),
        ((32, 16, 1, 1), 2, True),
    ],
)
def test_convolutions_of_few_channels_stay_in_floating_point(dims: tuple[int, ...], group: int, int8: bool) -> None:
    kernel = np.ones(dims, np.float32)
    turn = node("Sigmoid", ["x"], ["s"], "s")
    inner = node("Conv", ["s", "w"], ["y"], "inner", group=group)
    shape = ("batch", dims[1] * group, 8, 8)
    model = model_of([turn, inner], [value("x", shape)], [value("y", None)], {"w": kernel})
    assert (precisions(placed(model))["inner"] == "INT8") is int8


def test_the_first_layer_may_have_three_channels() -> None:
    first = node("Conv", ["x", "w"], ["y"], "first")
    kernel = np.ones((32, 3, 3, 3), np.float32)
    model = model_of([first], [value("x", ("n", 3, 8, 8))], [value("y", None)], {"w": kernel})
    assert precisions(placed(model)) == {"first": "INT8"}


def test_a_transposed_convolution_counts_output_channels_on_its_second_axis() -> None:
    up = node("ConvTranspose", ["x", "k"], ["y"], "up")
    placement = placed(image_model(up, result="y"))
    assert [(operator.name, operator.axis) for operator in placement.weighted] == [("x", 0), ("up", 1)]


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ([node("Gemm", ["x", "narrow"], ["y"], "n")], "its matrix is 32 by 10; INT8 pays from 16 by 16"),
        ([node("Gemm", ["x", "w"], ["y"], "n", alpha=0.5)], "it transposes or scales its input"),
        ([node("MatMul", ["x", "deep"], ["y"], "n")], "its weight has 3 axes; INT8 needs 2"),
        ([node("MatMul", ["x", "thin"], ["y"], "n")], "it multiplies by a vector, which has no INT8 kernel"),
        ([node("MatMul", ["w", "w"], ["y"], "n")], "its input is a constant"),
    ],
)
def test_a_layer_without_a_good_kernel_says_why(nodes: list[NodeProto], reason: str) -> None:
    constants = {
        "w": np.ones((32, 32), np.float32),
        "narrow": np.ones((32, 10), np.float32),
        "thin": np.ones((32, 1), np.float32),
        "deep": np.ones((2, 32, 32), np.float32),
    }
    model = model_of(nodes, [value("x", ("batch", 32))], [value("y", None)], constants)
    placement = placed(model)
    assert placement.weighted == ()
    assert reasons(placement)["n"] == reason


def test_a_product_of_two_computed_matrices_is_quantized_on_both_sides() -> None:
    turn = node("Tanh", ["x"], ["t"], "t")
    product = node("MatMul", ["x", "t"], ["y"], "product")
    placement = placed(model_of([turn, product], [value("x", (16, 16))], [value("y", None)]))
    assert placement.grids == {"x": "x", "t": "t"}
    assert placement.weighted == ()


def test_attention_is_kept_whole_and_its_projections_are_quantized() -> None:
    placement = placed(transformer_block())
    found = precisions(placement)
    assert {found[name] for name in ("query", "key", "value", "out", "up", "down")} == {"INT8"}
    assert {found[name] for name in ("scores", "temper", "softmax", "mix", "norm1", "skip1")} == {"FP32"}
    assert "attention around 'softmax'" in reasons(placement)["scores"]
    assert "attention around 'softmax'" in reasons(placement)["softmax"]


def test_operators_that_keep_float_names_stay_in_floating_point() -> None:
    model = image_model(conv("x", "a"), node("Relu", ["a"], ["b"], "relu"), conv("b", "c"), result="c")
    placement = placed(model, "a")
    assert reasons(placement)["a"] == "kept in floating point by keep_float 'a'"
    assert precisions(placement)["relu"] == "FP32"
    assert set(placement.grids) == {"image", "b"}


def test_operators_on_shapes_are_named_as_such() -> None:
    nodes = [node("Shape", ["x"], ["s"], "shape"), node("Reshape", ["x", "s"], ["a"], "again"), conv("a", "y")]
    placement = placed(image_model(*nodes, result="y"))
    assert (precisions(placement)["shape"], reasons(placement)["shape"]) == ("INT64", "works on shapes or integers")
    assert precisions(placement)["again"] == "INT8"
