"""A model trained with Q/DQ inside is read into floats and grids, from which every runtime's graph comes out again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from service.domain.plan import QuantizationPlan
from service.domain.recipe import Calibration, Recipe
from service.errors import InvalidRecipe
from service.quantization.calibration.observation import ObservedModel
from service.quantization.graphs.graph import Graph
from service.quantization.lint.tensorrt import refusals
from service.quantization.measures.simulation import simulated
from service.quantization.planning.planner import Planned, make_plan
from service.quantization.planning.rules import rules_of
from service.quantization.preparation.quantized_upload import QuantizedUpload, as_trained, is_quantized, read_quantized
from tests.unit.quantization.int8 import quantize
from tests.unit.quantization.small_models import Array, classifier, fp32, images, model_of, saved, value

ROWS = {"x": images(64)}
RECIPE = Recipe(scheme="asymmetric", calibration=Calibration(method="minmax"))
SHAPE = ("n", 16, 4, 4)
node = helper.make_node


def uploaded(folder: Path, runtime: str) -> ModelProto:
    """What another tool could have exported: a quantized classifier."""
    return quantize(classifier(), ROWS, folder, RECIPE, runtime=runtime)[0]


def planned_for(
    upload: QuantizedUpload, runtime: str, folder: Path | None = None
) -> tuple[ModelProto, QuantizationPlan]:
    rules, graph = rules_of(runtime), Graph(upload.model)
    placement = rules.place(graph, ())
    unseen = dict.fromkeys(placement.observed, (-4.0, 4.0))
    if folder is not None:
        observed = ObservedModel(saved(upload.model, folder / "read.onnx"), placement.observed, 1)
        unseen = {name: (float(values.min()), float(values.max())) for name, values in observed.run(ROWS)}
    plan = make_plan(Planned(graph, placement, unseen | upload.ranges), RECIPE, rules.grids)
    plan = as_trained(plan, graph, upload)
    return rules.emit(graph.model, plan), plan


def decibels(reference: Array, given: Array) -> float:
    return float(10 * np.log10((reference.astype(np.float64) ** 2).sum() / ((reference - given) ** 2).sum()))


def scores(model: ModelProto) -> Array:
    return simulated(model, 1).infer(ROWS)["scores"]


@pytest.mark.parametrize("source", ["onnxruntime", "tensorrt"])
def test_the_float_graph_holds_no_pairs_and_the_weights_as_trained(tmp_path: Path, source: str) -> None:
    model = uploaded(tmp_path, source)
    upload = read_quantized(model)
    assert is_quantized(model)
    assert not is_quantized(upload.model)
    assert {each.op_type for each in upload.model.graph.node} >= {"Conv", "Add", "Gemm"}
    integers = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    grid = upload.weights["stem/weight_dequantized/trained"]
    weight = Graph(upload.model).constant("stem/weight_dequantized/trained")
    assert weight is not None
    assert (grid.axis, len(grid.scales)) == (0, 8)
    steps = weight / np.asarray(grid.scales)[:, None, None, None]
    assert np.allclose(steps, integers["stem/weight_quantized"], atol=1e-3)
    assert decibels(scores(model), scores(upload.model)) > 30


def test_the_same_runtime_gets_the_same_numbers_back(tmp_path: Path) -> None:
    model = uploaded(tmp_path, "onnxruntime")
    again, _ = planned_for(read_quantized(model), "onnxruntime")
    assert np.array_equal(scores(model), scores(again))


def test_unsigned_grids_become_symmetric_ones_that_hold_the_same_range(tmp_path: Path) -> None:
    model = uploaded(tmp_path, "onnxruntime")
    upload = read_quantized(model)
    assert any(grid.datatype == "UINT8" and grid.zero_point > 0 for grid in upload.grids.values())
    again, plan = planned_for(upload, "tensorrt")
    assert refusals(model) != ()
    assert refusals(again) == ()
    for grid in plan.activations:
        low, high = upload.ranges.get(grid.tensor, (0.0, 0.0))
        assert grid.scales[0] * 127 >= max(-low, high) * 0.999
    assert decibels(scores(model), scores(again)) > 25


def test_a_signed_upload_is_emitted_for_a_runtime_of_unsigned_grids(tmp_path: Path) -> None:
    model = uploaded(tmp_path, "tensorrt")
    again, _ = planned_for(read_quantized(model), "onnxruntime", tmp_path)
    assert decibels(scores(model), scores(again)) > 25


def test_weights_keep_their_trained_scale_where_no_weight_fills_the_grid() -> None:
    kernel = np.full((16, 16, 1, 1), 40, np.int8)
    model = conv_upload({"k_q": kernel})
    upload = read_quantized(model)
    _, plan = planned_for(upload, "tensorrt")
    assert plan.weights[0].weight.scales == (float(np.float32(0.01)),) * 16
    graph = Graph(upload.model)
    reduced = as_trained(plan, graph, upload, {plan.weights[0].operator})
    assert reduced == plan


def test_weights_that_were_changed_since_keep_the_plans_scales() -> None:
    upload = read_quantized(conv_upload({}))
    for tensor in upload.model.graph.initializer:
        if tensor.name == "k/trained":
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(0.7), "k/trained"))
    _, plan = planned_for(upload, "tensorrt")
    assert plan.weights[0].weight.scales[0] != np.float32(0.01)


def conv_upload(changes: dict[str, Array], float_weight: bool = False) -> ModelProto:
    constants: dict[str, Array] = {
        "s": fp32(0.1),
        "z": np.array(0, np.int8),
        "k_q": np.arange(-128, 128, dtype=np.int64).clip(-127, 127).astype(np.int8).reshape(16, 16, 1, 1),
        "k_f": np.linspace(-1, 1, 256, dtype=np.float32).reshape(16, 16, 1, 1),
        "k_s": np.full(16, 0.01, np.float32),
        "k_z": np.zeros(16, np.int8),
    }
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["x_q"], "x/q"),
        node("DequantizeLinear", ["x_q", "s", "z"], ["x_d"], "x/d"),
        node("DequantizeLinear", ["k_q", "k_s", "k_z"], ["k"], "k/d", axis=0),
        node("Conv", ["x_d", "k"], ["a"], "conv"),
        node("QuantizeLinear", ["a", "s", "z"], ["a_q"], "a/q"),
        node("DequantizeLinear", ["a_q", "s", "z"], ["y"], "a/d"),
    ]
    if float_weight:
        nodes.insert(2, node("QuantizeLinear", ["k_f", "k_s", "k_z"], ["k_fq"], "k/q", axis=0))
        nodes[3].input[0] = "k_fq"
    return model_of(nodes, [value("x", SHAPE)], [value("y", SHAPE)], constants | changes)


def test_float_weights_behind_a_pair_are_put_on_their_grid() -> None:
    upload = read_quantized(conv_upload({}, float_weight=True))
    weight = Graph(upload.model).constant("k/trained")
    assert weight is not None
    assert np.allclose(weight * 100, np.rint(weight * 100), atol=1e-4)
    assert upload.weights["k/trained"].axis == 0


def test_scales_may_be_constant_nodes() -> None:
    model = conv_upload({})
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    model.graph.node.insert(0, node("Constant", [], ["s"], "scale", value=held["s"]))
    model.graph.initializer.remove(held["s"])
    assert read_quantized(model).ranges == read_quantized(conv_upload({})).ranges


@pytest.mark.parametrize(("scale", "zero"), [(0.2, 0), (0.1, 3)])
def test_a_pair_of_two_grids_is_refused(scale: float, zero: int) -> None:
    model = conv_upload({"s2": fp32(scale), "z2": np.array(zero, np.int8)})
    model.graph.node[1].input[1:] = ["s2", "z2"]
    with pytest.raises(InvalidRecipe, match="'x/d' has another scale, zero point or axis than QuantizeLinear 'x/q'"):
        read_quantized(model)


def test_a_pair_may_spell_one_scale_as_one_for_each_channel() -> None:
    model = conv_upload({"s2": np.full(16, 0.1, np.float32), "z2": np.zeros(16, np.int8)})
    model.graph.node[1].input[1:] = ["s2", "z2"]
    assert read_quantized(model).ranges["x"] == pytest.approx((-12.7, 12.7))


@pytest.mark.parametrize("scale", [0.0, -0.1, np.nan, np.inf])
def test_scales_that_no_runtime_takes_are_refused(scale: float) -> None:
    with pytest.raises(InvalidRecipe, match=r"has the scale .*; export the model with positive, finite scales"):
        read_quantized(conv_upload({"s": fp32(scale)}))


def test_of_several_grids_of_one_tensor_the_widest_is_kept() -> None:
    model = conv_upload({"s2": fp32(0.3)})
    model.graph.node.insert(0, node("QuantizeLinear", ["x", "s2", "z"], ["x_q2"], "x/q2"))
    model.graph.node.insert(1, node("DequantizeLinear", ["x_q2", "s2", "z"], ["x_d2"], "x/d2"))
    model.graph.node.extend([node("Relu", ["x_d2"], ["y2"], "relu")])
    model.graph.output.append(value("y2", SHAPE))
    assert read_quantized(model).grids["x"].scales[0] == pytest.approx(0.3)
    assert read_quantized(conv_upload({})).grids["x"].scales[0] == pytest.approx(0.1)


def test_an_axis_counted_from_the_end_is_the_same_axis() -> None:
    model = conv_upload({})
    model.graph.node[2].attribute[0].i = -4
    upload = read_quantized(model)
    assert upload.weights["k/trained"].axis == 0
    _, plan = planned_for(upload, "tensorrt")
    assert plan.weights[0].weight.scales == (float(np.float32(0.01)),) * 16


def test_weights_have_the_type_of_their_scale() -> None:
    upload = read_quantized(conv_upload({"k_s": np.full(16, 0.01, np.float16)}))
    weight = Graph(upload.model).constant("k/trained")
    assert weight is not None
    assert weight.dtype == np.float16


def test_a_pair_without_zero_points_may_state_its_type_as_an_attribute() -> None:
    model = conv_upload({})
    for each in model.graph.node[:2]:
        del each.input[2:]
    model.graph.node[0].attribute.append(helper.make_attribute("output_dtype", TensorProto.INT8))
    assert read_quantized(model).grids["x"].datatype == "INT8"
    assert read_quantized(model).ranges["x"] == pytest.approx((-12.7, 12.7))


def test_a_pair_before_an_output_leaves_the_output_its_name() -> None:
    upload = read_quantized(conv_upload({}))
    assert [output.name for output in upload.model.graph.output] == ["y"]
    assert upload.ranges == dict.fromkeys(("x", "a", "y"), pytest.approx((-12.7, 12.7)))
    rows = {"x": np.ones((2, 16, 4, 4), np.float32)}
    assert simulated(upload.model, 1).infer(rows)["y"].shape == (2, 16, 4, 4)


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ([node("DynamicQuantizeLinear", ["x"], ["q", "s2", "z2"], "n")], "an integer operator"),
        ([node("QuantizeLinear", ["x", "s", "z"], ["q"], "n")], "read by the caller"),
        (
            [node("QuantizeLinear", ["x", "s", "z"], ["p"], "n"), node("Flatten", ["p"], ["q"], "f")],
            "read by Flatten and not by DequantizeLinear alone",
        ),
        ([node("DequantizeLinear", ["i", "s", "z"], ["q"], "n")], "which no QuantizeLinear makes"),
        (
            [node("Abs", ["s"], ["t"], "abs"), node("QuantizeLinear", ["x", "t", "z"], ["p"], "m"),
             node("DequantizeLinear", ["p", "t", "z"], ["q"], "n")],
            "scale or zero point that is computed",
        ),
    ],
)  # fmt: skip
def test_other_forms_of_quantization_are_refused_with_a_way_out(nodes: list[object], words: str) -> None:
    inputs = [value("x", ("n", 4)), value("i", ("n", 4), TensorProto.INT8)]
    constants: dict[str, Array] = {"s": fp32(0.1), "z": np.array(0, np.int8)}
    model = model_of(nodes, inputs, [value("q", None)], constants)  # type: ignore[arg-type]
    assert is_quantized(model)
    with pytest.raises(InvalidRecipe, match=words):
        read_quantized(model)


def test_a_float_model_is_not_taken_for_a_quantized_one() -> None:
    assert not is_quantized(classifier())
