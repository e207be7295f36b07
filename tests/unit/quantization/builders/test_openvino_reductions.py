"""Reductions and what follows them, on OpenVINO as on ONNX Runtime: in FP32 and with a rounding to 8 bits behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, helper

from service.domain.recipe import BatchProfile
from service.engines.onnxruntime_engine import OnnxRuntimeEngine
from service.quantization.builders.builder import BuildOptions
from service.quantization.builders.openvino_builder import OpenVinoBuilder
from service.quantization.builders.openvino_reductions import separate_reductions
from tests.unit.quantization.small_models import Array, fp32, model_of, saved, value

# Shape, reduced axes, whether they stay.
FORMS: list[tuple[tuple[int, ...], list[int], int]] = [
    ((8, 16, 48), [1], 0),
    ((8, 16, 48), [1], 1),
    ((8, 48, 16), [2], 0),
    ((8, 48, 16), [-1], 1),
    ((8, 7, 7, 32), [1, 2], 0),
    ((8, 4, 16, 32), [1], 0),
    ((8, 32, 7, 7), [2, 3], 1),
    ((8, 32, 7, 7), [-2, -1], 0),
    ((8, 32, 4, 5, 6), [2, 3, 4], 1),
]


def reduction(kind: str, axes: list[int], keepdims: int, opset: int, constants: dict[str, Array]) -> NodeProto:
    if kind.startswith("Global"):
        return helper.make_node(kind, ["x"], ["r"], "it")
    if opset >= 18 or (kind == "ReduceSum" and opset >= 13):
        constants["axes"] = np.array(axes)
        return helper.make_node(kind, ["x", "axes"], ["r"], "it", keepdims=keepdims)
    return helper.make_node(kind, ["x"], ["r"], "it", axes=axes, keepdims=keepdims)


def network(
    kind: str, form: tuple[tuple[int, ...], list[int], int], *, rounded: bool, scaled: bool = True, opset: int = 17
) -> ModelProto:
    """x, reduced, times a number for each channel if `scaled`, rounded to 8 bits before a MatMul if `rounded`."""
    shape, axes, keepdims = form
    made = np.max(np.empty(shape), axis=tuple(axes), keepdims=bool(keepdims)).shape
    random = np.random.default_rng(1)
    constants: dict[str, Array] = {}
    nodes = [reduction(kind, axes, keepdims, opset, constants)]
    last = "r"
    if scaled:
        constants["c"] = fp32(random.uniform(0.3, 2, (1, made[1], *[1] * (len(made) - 2))))
        nodes.append(helper.make_node("Mul", ["r", "c"], ["s"], "scale"))
        last = "s"
    if rounded:
        constants |= {"step": fp32(0.03), "zero": np.array(128, np.uint8), "step_w": fp32(0.01)}
        constants["w"] = random.integers(-127, 128, (made[-1], 8)).astype(np.int8)
        pairs = [
            ("QuantizeLinear", [last, "step", "zero"], "q"),
            ("DequantizeLinear", ["q", "step", "zero"], "d"),
            ("DequantizeLinear", ["w", "step_w"], "v"),
            ("MatMul", ["d", "v"], "y"),
        ]
        nodes += [helper.make_node(operator, inputs, [name], name) for operator, inputs, name in pairs]
        last = "y"
    output: list[int | str] = ["n", *made[1:-1], 8 if rounded else made[-1]]
    return model_of(nodes, [value("x", ["n", *shape[1:]])], [value(last, output)], constants, opset)


def answers(engine: Any, rows: Array) -> Array:
    (found,) = engine.infer({"x": rows}).values()
    engine.close()
    return fp32(found)


def check(model: ModelProto, shape: tuple[int, ...], folder: Path) -> None:
    """OpenVINO's engine answers as ONNX Runtime does, a row alone and all together."""
    rows = fp32(np.random.default_rng(2).normal(0, 1, shape))
    path = saved(model, folder / "converted.onnx")
    expected = answers(OnnxRuntimeEngine.load(path, 1), rows)
    builder = OpenVinoBuilder()
    builder.build(path, folder / "engine.onnx", BuildOptions(1, BatchProfile()))
    for given in (rows, rows[:1]):
        found = answers(builder.load(folder / "engine.onnx", 1), given)
        scale = np.abs(expected).max()
        # One step of rounding for a number between two, and no more.
        assert np.sqrt(np.mean((found - expected[: len(given)]) ** 2)) < 0.005 * scale


@pytest.mark.parametrize("rounded", [False, True], ids=["FP32", "INT8"])
@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("kind", ["ReduceMean", "ReduceMax", "ReduceMin", "ReduceL2"])
def test_what_follows_a_reduction_is_right(
    kind: str, form: tuple[tuple[int, ...], list[int], int], rounded: bool, tmp_path: Path
) -> None:
    check(network(kind, form, rounded=rounded), form[0], tmp_path)


@pytest.mark.parametrize("form", [FORMS[0], FORMS[6]], ids=str)
@pytest.mark.parametrize("kind", ["ReduceMax", "ReduceMin"])
def test_an_extremum_is_found_before_it_is_rounded(
    kind: str, form: tuple[tuple[int, ...], list[int], int], tmp_path: Path
) -> None:
    check(network(kind, form, rounded=True, scaled=False), form[0], tmp_path)


@pytest.mark.parametrize("shape", [(8, 32, 10), (8, 32, 5, 7)])
@pytest.mark.parametrize("kind", ["GlobalMaxPool", "GlobalAveragePool"])
def test_a_pooling_of_all_places_is_a_reduction(kind: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    form = (shape, list(range(2, len(shape))), 1)
    check(network(kind, form, rounded=False), shape, tmp_path)
    check(network(kind, form, rounded=True), shape, tmp_path)


@pytest.mark.parametrize("opset", [12, 13, 18, 20])
@pytest.mark.parametrize("kind", ["ReduceMean", "ReduceSum"])
def test_axes_are_stated_as_each_opset_asks(kind: str, opset: int, tmp_path: Path) -> None:
    for form in (FORMS[0], FORMS[3]):
        check(network(kind, form, rounded=False, opset=opset), form[0], tmp_path)


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("kind", ["ReduceMean", "ReduceMax"])
def test_the_graph_computes_the_very_same(
    kind: str, form: tuple[tuple[int, ...], list[int], int], tmp_path: Path
) -> None:
    model = network(kind, form, rounded=False)
    before = answers(OnnxRuntimeEngine.load(saved(model, tmp_path / "m.onnx"), 1), fp32(np.ones(form[0])))
    separate_reductions(model)
    after = answers(OnnxRuntimeEngine.load(saved(model, tmp_path / "m.onnx"), 1), fp32(np.ones(form[0])))
    assert np.array_equal(before, after)
    assert [node.name for node in model.graph.node if node.op_type == kind] == ["it"]


def test_names_that_are_taken_are_left_alone(tmp_path: Path) -> None:
    model = network("ReduceMean", FORMS[0], rounded=False)
    model.graph.node[1].name = "r/reduced"
    for node in model.graph.node[:1]:
        node.name = ""
    check(model, FORMS[0][0], tmp_path)


def test_mean_over_the_places_of_a_picture_stays_as_it_is() -> None:
    assert not separate_reductions(network("ReduceMean", FORMS[6], rounded=False))
