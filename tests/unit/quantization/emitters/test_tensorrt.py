"""The emitted graph is what TensorRT takes, holds what the plan says, and computes what the float graph does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from service.domain.plan import QuantizationPlan, TensorGrid
from service.domain.recipe import GRANULARITIES, Calibration, Recipe
from service.errors import StageFailed
from service.quantization.emitters.tensorrt import emit_tensorrt, half_scales, plan_in_half
from service.quantization.graphs.graph import Graph, attribute
from service.quantization.lint.tensorrt import predict, refusals
from service.quantization.measures.simulation import simulated
from tests.unit.quantization.int8 import quantize
from tests.unit.quantization.small_models import Array, classifier, images, model_of, value
from tests.unit.quantization.tensorrt_engine import build_engine
from tests.unit.quantization.tensorrt_graphs import random_graph, random_rows
from tests.unit.quantization.transformer_block import tokens, transformer_block

MINMAX = Calibration(method="minmax")
DIGITS = Path(__file__).parents[4] / "models" / "digits"
node = helper.make_node


def emitted(
    model: ModelProto, rows: dict[str, Array], folder: Path, recipe: Recipe | None = None
) -> tuple[ModelProto, QuantizationPlan, Graph]:
    made, plan = quantize(model, rows, folder, recipe or Recipe(calibration=MINMAX), runtime="tensorrt")
    return made, plan, Graph.load(folder / "prepared.onnx")


def decibels(reference: Array, given: Array) -> float:
    wanted = reference.astype(np.float64)
    return float(10 * np.log10((wanted**2).sum() / max(((wanted - given) ** 2).sum(), 1e-30)))


def constants(model: ModelProto) -> dict[str, Array]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def of_type(model: ModelProto, kind: str) -> list[NodeProto]:
    return [each for each in model.graph.node if each.op_type == kind]


def digits() -> tuple[ModelProto, dict[str, Array]]:
    with np.load(DIGITS / "calibration.npz") as archive:
        return onnx.load_model(DIGITS / "digits.onnx"), {"input": archive["input"][:64]}


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_a_classifier_stays_close_to_its_float_self(tmp_path: Path, granularity: str) -> None:
    rows = {"x": images(64)}
    made, _, _ = emitted(classifier(), rows, tmp_path, Recipe(granularity=granularity, calibration=MINMAX))
    onnx.checker.check_model(made, full_check=True)
    reference, given_ = (simulated(model, 1).infer(rows)["scores"] for model in (classifier(), made))
    assert decibels(reference, given_) > (30 if granularity == "per_channel" else 20)


@pytest.mark.parametrize("around", ["fp32", "fp16"])
def test_digits_and_a_transformer_stay_close_in_both_forms(tmp_path: Path, around: str) -> None:
    for name, (model, rows) in {"digits": digits(), "block": (transformer_block(), {"x": tokens(64)})}.items():
        (tmp_path / name).mkdir()
        made, plan, graph = emitted(model, rows, tmp_path / name)
        if around == "fp16":
            made = emit_tensorrt(graph.model, plan_in_half(plan, graph, (), "fp16"), "fp16")
        output = model.graph.output[0].name
        reference, given_ = (simulated(each, 1).infer(rows)[output] for each in (model, made))
        assert given_.dtype == np.float32
        assert decibels(reference, given_) > 30, name


@pytest.mark.parametrize("around", ["fp32", "fp16", "bf16"])
def test_tensorrt_builds_every_form(tmp_path: Path, around: str) -> None:
    for name, (model, rows) in {"digits": digits(), "block": (transformer_block(), {"x": tokens(64)})}.items():
        (tmp_path / name).mkdir()
        made, plan, graph = emitted(model, rows, tmp_path / name)
        if around != "fp32":
            made = emit_tensorrt(graph.model, plan_in_half(plan, graph, (), around), around)
        assert build_engine(made)


def test_weights_are_integers_and_biases_are_not(tmp_path: Path) -> None:
    made, plan, _ = emitted(classifier(), {"x": images(64)}, tmp_path)
    held = constants(made)
    stem = next(entry for entry in plan.weights if entry.operator == "stem")
    assert stem.bias is None
    assert held["stem/weight_quantized"].dtype == np.int8
    assert held["stem/weight_scale"].shape == (8,)
    assert held["stem/weight_zero_point"].tolist() == [0] * 8
    assert next(each for each in of_type(made, "Conv") if each.name == "stem").input[2] in held
    assert not any(values.dtype == np.int32 for values in held.values())


def test_every_reader_has_a_pair_of_its_own(tmp_path: Path) -> None:
    nodes = [node("Conv", ["x", f"{name}.k"], [name], name) for name in ("a", "b")]
    kernel = np.eye(16, dtype=np.float32).reshape(16, 16, 1, 1)
    model = model_of(
        [*nodes, node("Sigmoid", ["x"], ["c"], "c"), node("Sum", ["a", "b", "c"], ["y"], "sum")],
        [value("x", ("n", 16, 4, 4))],
        [value("y", None)],
        {"a.k": kernel, "b.k": 2 * kernel},
    )
    made, _, _ = emitted(model, {"x": random_rows(8)[:, :, :4, :4]}, tmp_path)
    pairs = of_type(made, "QuantizeLinear")
    assert sorted(pair.input[0] for pair in pairs) == ["x", "x"]
    assert len({pair.input[1] for pair in pairs}) == 2
    assert of_type(made, "Sigmoid")[0].input[0] == "x"


def test_a_transposed_convolution_and_a_gemm_are_quantized_along_their_own_axes(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    up = node("ConvTranspose", ["x", "k"], ["a"], "up", strides=[2, 2])
    flat, gemm = node("Flatten", ["a"], ["b"], "flat"), node("Gemm", ["b", "w"], ["y"], "gemm")
    weights = {
        "k": random.normal(0, 1, (16, 24, 2, 2)).astype(np.float32),
        "w": random.normal(0, 0.1, (24 * 64, 32)).astype(np.float32),
    }
    model = model_of([up, flat, gemm], [value("x", ("n", 16, 4, 4))], [value("y", None)], weights)
    rows = {"x": random_rows(16)[:, :, :4, :4]}
    made, _, _ = emitted(model, rows, tmp_path)
    axes = {each.name: attribute(each, "axis", None) for each in of_type(made, "DequantizeLinear")}
    assert (axes["up/weight/dequantize"], axes["gemm/weight/dequantize"]) == (1, 1)
    assert constants(made)["up/weight_scale"].shape == (24,)
    reference, given_ = (simulated(each, 1).infer(rows)["y"] for each in (model, made))
    assert decibels(reference, given_) > 30
    assert refusals(made) == ()


def test_a_channel_of_zeros_has_a_positive_scale(tmp_path: Path) -> None:
    kernel = np.ones((16, 16, 1, 1), np.float32)
    kernel[3] = 0
    shape = ("n", 16, 4, 4)
    model = model_of([node("Conv", ["x", "k"], ["y"], "conv")], [value("x", shape)], [value("y", shape)], {"k": kernel})
    made, plan, graph = emitted(model, {"x": random_rows(8)[:, :, :4, :4]}, tmp_path)
    halved = emit_tensorrt(graph.model, plan_in_half(plan, graph, (), "fp16"), "fp16")
    for each in (made, halved):
        assert (constants(each)["conv/weight_scale"].astype(np.float64) > 0).all()
        assert not constants(each)["conv/weight_quantized"][3].any()


def test_in_the_half_form_every_float_edge_is_half(tmp_path: Path) -> None:
    _, plan, graph = emitted(classifier(), {"x": images(64)}, tmp_path)
    halved = emit_tensorrt(graph.model, plan_in_half(plan, graph, (), "fp16"), "fp16")
    assert halved.opset_import[0].version >= 19
    assert {tensor.data_type for tensor in halved.graph.initializer} <= {
        TensorProto.FLOAT16, TensorProto.INT8, TensorProto.INT64,
    }  # fmt: skip
    casts = [(each.input[0], each.output[0]) for each in of_type(halved, "Cast")]
    assert casts == [("x", "x_fp16"), ("scores_fp16", "scores")]
    assert halved.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT


def test_an_operator_whose_result_outgrows_fp16_leaves_int8_and_keeps_fp32(tmp_path: Path) -> None:
    rows = {"x": images(64)}
    _, plan, graph = emitted(classifier(), rows, tmp_path)
    result = next(each for each in graph.nodes if each.name == "pw").output[0]
    halved = plan_in_half(plan, graph, (), "fp16", {result: (-1e6, 1e6)})
    operators = {operator.name: operator for operator in halved.operators}
    assert operators["pw"].precision == "FP32"
    assert "reaches 1e+06" in operators["pw"].reason
    assert "pw" not in {entry.operator for entry in halved.weights}
    made = emit_tensorrt(graph.model, halved, "fp16")
    assert constants(made)["pw.w"].dtype == np.float32
    reference, given_ = (simulated(each, 1).infer(rows)["scores"] for each in (classifier(), made))
    assert decibels(reference, given_) > 30


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@given(scale=st.floats(1e-9, 1e3))
@settings(max_examples=25, deadline=None)
def test_half_scales_hold_no_less_than_the_scales_did(precision: str, scale: float) -> None:
    (rounded,) = half_scales(TensorGrid("t", "INT8", (scale,)), precision).scales
    kind = helper.tensor_dtype_to_np_dtype(TensorProto.FLOAT16 if precision == "fp16" else TensorProto.BFLOAT16)
    assert float(np.array(rounded).astype(kind)) == rounded
    assert rounded >= np.float32(scale)
    assert rounded <= max(scale * 1.01, 2.0**-23 + scale)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"datatype": "UINT8"}, "UINT8 with zero point 0, which TensorRT refuses"),
        ({"zero_point": 3}, "INT8 with zero point 3, which TensorRT refuses"),
        ({"scales": (0.0,)}, "positive scales only"),
        ({"scales": (float("inf"),)}, "positive scales only"),
    ],
)
def test_grids_that_tensorrt_refuses_are_refused_here(tmp_path: Path, change: dict[str, object], words: str) -> None:
    _, plan, graph = emitted(classifier(), {"x": images(8)}, tmp_path)
    broken = replace(plan, activations=(replace(plan.activations[0], **change), *plan.activations[1:]))  # type: ignore[arg-type]
    with pytest.raises(StageFailed, match=words):
        emit_tensorrt(graph.model, broken)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_any_graph_is_emitted_as_planned(seed: int) -> None:
    rows = {"x": random_rows(8)}
    with TemporaryDirectory() as folder:
        made, plan, graph = emitted(random_graph(seed), rows, Path(folder))
    onnx.checker.check_model(made, full_check=True)
    assert refusals(made) == ()
    planned = {operator.name: operator.precision == "INT8" for operator in plan.operators}
    assert {found.name: found.int8 for found in predict(made)} == planned
    reference = simulated(graph.model, 1).infer(rows)["y"]
    assert decibels(reference, simulated(made, 1).infer(rows)["y"]) > 15
    halved = emit_tensorrt(graph.model, plan_in_half(plan, graph, (), "fp16"), "fp16")
    assert decibels(reference, simulated(halved, 1).infer(rows)["y"]) > 15


@pytest.mark.parametrize("seed", range(6))
def test_tensorrt_builds_random_graphs(tmp_path: Path, seed: int) -> None:
    made, plan, graph = emitted(random_graph(seed), {"x": random_rows(8)}, tmp_path)
    assert build_engine(made)
    assert build_engine(emit_tensorrt(graph.model, plan_in_half(plan, graph, (), "fp16"), "fp16"))


def test_an_emission_leaves_the_float_model_untouched(tmp_path: Path) -> None:
    _, plan, graph = emitted(classifier(), {"x": images(8)}, tmp_path)
    before = graph.model.SerializeToString()
    emit_tensorrt(graph.model, plan)
    emit_tensorrt(graph.model, plan_in_half(plan, graph, (), "fp16"), "fp16")
    assert graph.model.SerializeToString() == before
