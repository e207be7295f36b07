"""What TensorRT will run in INT8, and what its parser refuses, is told from the Q/DQ nodes of a graph alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, helper

from service.quantization.lint.tensorrt import predict, refusals
from tests.unit.quantization.small_models import Array, fp32, model_of, value
from tests.unit.quantization.tensorrt_engine import build_engine, compiles

SHAPE = ("batch", 16, 8, 8)
node = helper.make_node


def pair(source: str, scale: str = "s") -> list[NodeProto]:
    name = f"{source}_{scale}"
    return [
        node("QuantizeLinear", [source, scale, "z"], [f"{name}_q"], f"{name}/q"),
        node("DequantizeLinear", [f"{name}_q", scale, "z"], [f"{name}_d"], f"{name}/d"),
    ]


def conv(source: str, result: str, weight: str = "k_d") -> NodeProto:
    return node("Conv", [source, weight], [result], result)


def graph_of(*nodes: NodeProto, result: str = "y", **changes: Array) -> ModelProto:
    constants: dict[str, Array] = {
        "s": fp32(0.1),
        "t": fp32(0.2),
        "z": np.array(0, np.int8),
        "k": np.ones((16, 16, 1, 1), np.float32),
        "k_q": np.ones((16, 16, 1, 1), np.int8),
        "k_s": np.full(16, 0.01, np.float32),
        "k_z": np.zeros(16, np.int8),
    }
    weight = node("DequantizeLinear", ["k_q", "k_s", "k_z"], ["k_d"], "k/d", axis=0)
    inputs, outputs = [value("x", SHAPE)], [value(result, None)]
    return model_of([weight, *nodes], inputs, outputs, {**constants, **changes}, 19)


def predicted(*nodes: NodeProto, **changes: Any) -> dict[str, tuple[bool, str]]:
    return {found.name: (found.int8, found.rule) for found in predict(graph_of(*nodes, **changes))}


def test_a_convolution_is_int8_with_pairs_on_input_and_weight() -> None:
    assert predicted(*pair("x"), conv("x_s_d", "y"))["y"] == (
        True,
        "its input and its weight come from DequantizeLinear",
    )
    assert predicted(conv("x", "y"))["y"] == (False, "its input comes from no DequantizeLinear")
    assert predicted(*pair("x"), conv("x_s_d", "y", "k"))["y"] == (False, "its weight comes from no DequantizeLinear")


def test_operators_on_shapes_are_left_out() -> None:
    nodes = [node("Shape", ["x"], ["shape"], "shape"), node("Reshape", ["x", "shape"], ["y"], "again")]
    assert set(predicted(*nodes)) == {"again"}


def test_float_weights_behind_a_pair_of_their_own_are_int8_too() -> None:
    model = graph_of(*pair("x"), *pair("k"), conv("x_s_d", "y", "k_s_d"))
    assert {found.name: found.int8 for found in predict(model)} == {"y": True}
    assert refusals(model) == ()
    assert len(build_engine(model)) > 0


def test_rectifiers_fuse_into_the_convolution_that_feeds_them_alone() -> None:
    nodes = [*pair("x"), conv("x_s_d", "a"), node("Relu", ["a"], ["b"], "relu")]
    assert predicted(*nodes, result="b")["relu"] == (True, "fused into 'a'")
    found = predicted(*nodes, node("Mul", ["a", "b"], ["y"], "mul"))
    assert not found["relu"][0]
    assert found["mul"] == (False, "Mul runs in floating point on this runtime")


@pytest.mark.parametrize(("skip", "int8"), [("x_s_d", True), ("x", False)])
def test_a_residual_addition_is_int8_where_its_skip_is(skip: str, int8: bool) -> None:
    found = predicted(*pair("x"), conv("x_s_d", "a"), node("Add", [skip, "a"], ["y"], "add"))
    assert found["add"][0] is int8
    assert int8 or "its skip input 'x' is in floating point" in found["add"][1]


def test_operators_that_move_values_follow_the_pairs_on_either_side() -> None:
    pool = node("MaxPool", ["x"], ["a"], "pool", kernel_shape=[1, 1])
    assert (
        predicted(pool, *pair("a"), conv("a_s_d", "y"))["pool"][1] == "the QuantizeLinear behind it moves up through it"
    )
    after = node("MaxPool", ["x_s_d"], ["a"], "pool", kernel_shape=[1, 1])
    found = predicted(*pair("x"), after, conv("a", "y"))
    assert found["pool"][1] == "the DequantizeLinear before it moves down through it"
    assert found["y"][0]
    assert not predicted(pool, result="a")["pool"][0]


def test_an_average_is_int8_between_pairs_only() -> None:
    pool = node("GlobalAveragePool", ["x_s_d"], ["a"], "pool")
    assert predicted(*pair("x"), pool, *pair("a"), conv("a_s_d", "y"))["pool"][0]
    assert predicted(*pair("x"), pool, result="a")["pool"] == (False, "its result is used in floating point")
    bare = node("GlobalAveragePool", ["x"], ["a"], "pool")
    assert predicted(bare, *pair("a"), conv("a_s_d", "y"))["pool"] == (False, "an input comes from no DequantizeLinear")


def test_a_concatenation_wants_one_scale() -> None:
    wide = {"k_q": np.ones((16, 32, 1, 1), np.int8)}
    for scale, int8 in (("s", True), ("t", False)):
        join = node("Concat", ["x_s_d", f"x_{scale}_d"], ["a"], "join", axis=1)
        pairs = pair("x") if scale == "s" else [*pair("x"), *pair("x", "t")]
        found = predicted(*pairs, join, *pair("a"), conv("a_s_d", "y"), **wide)
        assert found["join"][0] is int8, found


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"z": np.array(3, np.int8)}, "its zero point is 3"),
        ({"s": fp32(0)}, "its scale is 0.0"),
        ({"k_s": np.full(8, 0.1, np.float32), "k_z": np.zeros(8, np.int8)}, "8 scales along axis 0 of [16, 16, 1, 1]"),
    ],
)
def test_what_the_parser_refuses_is_told_beforehand(changes: dict[str, Any], words: str) -> None:
    model = graph_of(*pair("x"), conv("x_s_d", "y"), **changes)
    assert any(words in reason for reason in refusals(model))
    assert not any(found.int8 for found in predict(model))
    assert not compiles(model)
    assert compiles(graph_of(*pair("x"), conv("x_s_d", "y")))


def test_unsigned_integers_are_refused_though_the_parser_would_read_them_as_signed() -> None:
    model = graph_of(*pair("x"), conv("x_s_d", "y"), z=np.array(0, np.uint8))
    assert any("its zero point is UINT8; write INT8" in reason for reason in refusals(model))
    assert not any(found.int8 for found in predict(model))


def test_activations_by_channel_are_refused() -> None:
    by_channel = [
        node("QuantizeLinear", ["x", "k_s", "k_z"], ["q"], "q", axis=1),
        node("DequantizeLinear", ["q", "k_s", "k_z"], ["d"], "d", axis=1),
    ]
    model = graph_of(*by_channel, conv("d", "y"))
    assert any("an activation has 16 scales; write one" in reason for reason in refusals(model))


def test_operators_that_hold_their_own_quantization_are_refused() -> None:
    nodes = [
        node("DynamicQuantizeLinear", ["x"], ["q", "qs", "qz"], "dynamic"),
        node("DequantizeLinear", ["q", "qs", "qz"], ["y"], "back"),
    ]
    found = refusals(graph_of(*nodes))
    assert found[0].startswith("DynamicQuantizeLinear 'dynamic' is refused")
    assert "its zero point is UINT8" in found[1]


def test_a_quantization_without_a_zero_point_makes_unsigned_integers_and_is_refused() -> None:
    bare = node("QuantizeLinear", ["x", "s"], ["q"], "q")
    back = node("DequantizeLinear", ["q", "s"], ["y"], "d")
    assert refusals(graph_of(bare, back)) == ("QuantizeLinear 'q' is refused: it has no zero point and so makes UINT8",)
