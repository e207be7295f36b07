"""Operators whose numbers outgrow FP16 stay in FP32, by measured ranges or, without them, by what they can do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper

from service.quantization.graphs.graph import Graph
from service.quantization.placements.half import Ranges, half_plan, place_half
from tests.unit.quantization.small_models import Array, classifier, fp32, model_of, value

node = helper.make_node


def vector_model(*nodes: NodeProto, result: str = "y", **constants: Array) -> ModelProto:
    return model_of(nodes, [value("x", ("batch", 64))], [value(result, None)], constants, 18)


def placed(model: ModelProto, ranges: Ranges | None = None, precision: str = "fp16") -> dict[str, tuple[str, str]]:
    found = place_half(Graph(model), (), precision, ranges)
    return {operator.name: (operator.precision, operator.reason) for operator in found}


def test_a_network_of_small_numbers_is_half_throughout() -> None:
    for precision in ("fp16", "bf16"):
        found = placed(classifier(), precision=precision)
        assert {kept for kept, _ in found.values()} == {precision.upper()}


@pytest.mark.parametrize(("reach", "kept"), [(8000.0, "FP16"), (9000.0, "FP32")])
def test_operators_at_both_ends_of_a_large_tensor_stay_in_fp32(reach: float, kept: str) -> None:
    nodes = [
        node("Relu", ["x"], ["a"], "before"),
        node("Tanh", ["a"], ["b"], "after"),
        node("Tanh", ["b"], ["y"], "far"),
    ]
    found = placed(vector_model(*nodes), {"x": (-1, 1), "a": (0, reach), "b": (-1, 1), "y": (-1, 1)})
    assert (found["before"][0], found["after"][0], found["far"][0]) == (kept, kept, "FP16")
    if kept == "FP32":
        assert found["before"][1].startswith("its result 'a' reaches 9000")
        assert found["after"][1].startswith("its input 'a' reaches 9000")


@pytest.mark.parametrize(("reach", "kept"), [(30.0, "FP16"), (40.0, "FP32")])
def test_a_sum_of_squares_inside_a_norm_counts_its_depth(reach: float, kept: str) -> None:
    norm = node("LayerNormalization", ["x", "w"], ["y"], "norm")
    found = placed(vector_model(norm, w=np.ones(64, np.float32)), {"x": (-reach, reach), "y": (-8, 8)})
    assert found["norm"][0] == kept
    assert kept == "FP16" or "the sum of 64 terms inside it may reach 1.02e+05" in found["norm"][1]


@pytest.mark.parametrize(
    ("axes", "kept"), [(np.array([1]), "FP32"), (np.array([2, 3]), "FP16"), (np.array([0]), "FP32")]
)
def test_a_mean_counts_the_terms_that_it_adds(axes: Array, kept: str) -> None:
    mean = node("ReduceMean", ["x", "axes"], ["y"], "mean")
    model = model_of([mean], [value("x", ("batch", 100, 4, 4))], [value("y", None)], {"axes": axes}, 18)
    found = placed(model, {"x": (0, 1000), "y": (0, 1000)})
    assert found["mean"][0] == kept


def test_pools_count_their_windows() -> None:
    pool = node("AveragePool", ["x"], ["y"], "pool", kernel_shape=[16, 16])
    all_of_it = node("GlobalAveragePool", ["x"], ["y"], "pool")
    for each in (pool, all_of_it):
        model = model_of([each], [value("x", ("batch", 4, 16, 16))], [value("y", None)])
        assert placed(model, {"x": (0, 300), "y": (0, 300)})["pool"][0] == "FP32"
        assert placed(model, {"x": (0, 200), "y": (0, 200)})["pool"][0] == "FP16"


def norm_by_hand() -> ModelProto:
    nodes = [
        node("Pow", ["x", "two"], ["squares"], "square"),
        node("ReduceMean", ["squares", "last"], ["mean"], "mean"),
        node("Add", ["mean", "epsilon"], ["safe"], "add"),
        node("Sqrt", ["safe"], ["root"], "root"),
        node("Div", ["x", "root"], ["normed"], "divide"),
        node("Relu", ["normed"], ["y"], "relu"),
    ]
    return vector_model(*nodes, two=fp32(2), last=np.array([-1]), epsilon=fp32(1e-6))


def test_without_ranges_what_follows_a_square_stays_in_fp32_until_a_root() -> None:
    found = placed(norm_by_hand())
    assert [name for name, (kept, _) in found.items() if kept == "FP32"] == ["square", "mean", "add", "root"]
    assert "no range of it was measured" in found["square"][1]


def test_measured_ranges_take_the_place_of_suspicion() -> None:
    small = dict.fromkeys(("x", "squares", "mean", "safe", "root", "normed", "y"), (-1.0, 1.0))
    assert {kept for kept, _ in placed(norm_by_hand(), small).values()} == {"FP16"}


def test_bf16_reaches_as_far_as_fp32_and_keeps_nothing_for_its_size() -> None:
    found = placed(norm_by_hand(), {"squares": (0.0, 1e30)}, "bf16")
    assert {kept for kept, _ in found.values()} == {"BF16"}


def test_a_constant_beyond_fp16_keeps_its_readers_and_what_they_make_in_fp32() -> None:
    nodes = [
        node("Add", ["x", "mask"], ["masked"], "mask"),
        node("Softmax", ["masked"], ["soft"], "softmax"),
        node("Relu", ["soft"], ["y"], "relu"),
    ]
    found = placed(vector_model(*nodes, mask=fp32([-1e9] * 64)))
    assert found["mask"] == ("FP32", "its constant 'mask' holds 1e+09, beyond FP16's largest number 65504")
    assert found["softmax"][0] == "FP32"
    assert found["relu"][0] == "FP16"


def test_bounds_of_a_clip_may_lie_beyond_fp16() -> None:
    clip = node("Clip", ["x", "low", "high"], ["y"], "clip")
    assert placed(vector_model(clip, low=fp32(0), high=fp32(3e38)))["clip"][0] == "FP16"


def test_a_constant_that_would_become_zero_keeps_its_reader_in_fp32() -> None:
    divide = node("Add", ["x", "epsilon"], ["y"], "add")
    kept, reason = placed(vector_model(divide, epsilon=fp32(1e-12)))["add"]
    assert (kept, reason) == ("FP32", "its constant 'epsilon' holds 1e-12, which would become 0 in FP16")


def test_what_onnx_does_not_define_in_half_stays_in_fp32() -> None:
    nodes: list[Any] = [
        node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"], "dynamic"),
        node("DequantizeLinear", ["q", "s", "z"], ["y"], "back"),
    ]
    found = placed(vector_model(*nodes))
    assert found["dynamic"] == ("FP32", "ONNX does not define DynamicQuantizeLinear in FP16")


@pytest.mark.parametrize(("reduction", "kept"), [("add", "FP32"), ("none", "FP16")])
def test_a_scatter_that_reduces_stays_in_fp32(reduction: str, kept: str) -> None:
    scatter = node("ScatterElements", ["x", "i", "x"], ["y"], "scatter", axis=1, reduction=reduction)
    assert placed(vector_model(scatter, i=np.zeros((1, 64), np.int64)))["scatter"][0] == kept


def test_inner_graphs_and_what_they_read_stay_as_uploaded() -> None:
    def branch(kind: str) -> Any:
        return helper.make_graph([node(kind, ["a"], ["out"], kind)], kind, [], [value("out", None)])

    choice = node("If", ["flag"], ["y"], "if", then_branch=branch("Relu"), else_branch=branch("Neg"))
    before = [node("Tanh", ["x"], ["b"], "free"), node("Tanh", ["b"], ["a"], "read")]
    inputs = [value("x", ("batch", 64)), value("flag", (), TensorProto.BOOL)]
    found = placed(model_of([*before, choice], inputs, [value("y", None)]))
    assert found["free"][0] == "FP16"
    assert found["read"] == ("FP32", "an inner graph reads its result")
    assert found["if"] == ("FP32", "its inner graph stays as it was uploaded")


def test_a_plan_names_patterns_shapes_and_types() -> None:
    nodes = [
        node("Shape", ["x"], ["s"], "shape"),
        node("Relu", ["x"], ["a"], "relu"),
        node("Reshape", ["a", "s"], ["y"], "r"),
    ]
    plan = half_plan(Graph(vector_model(*nodes)), ("op:Relu",), "fp16")
    assert [(entry.precision, entry.reason) for entry in plan.operators] == [
        ("INT64", "works on shapes or integers"),
        ("FP32", "kept in floating point by keep_float 'op:Relu'"),
        ("FP16", "as the recipe's precision asks"),
    ]
    assert (plan.activations, plan.weights) == ((), ())
