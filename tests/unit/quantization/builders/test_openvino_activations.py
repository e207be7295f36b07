"""Activations that OpenVINO has only a slow reference of are written as its kernels take them, and answer the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, helper

from service.domain.recipe import BatchProfile
from service.engines.onnxruntime_engine import OnnxRuntimeEngine
from service.engines.openvino_engine import compile_model
from service.quantization.builders.builder import BuildOptions
from service.quantization.builders.openvino_activations import write_activations
from service.quantization.builders.openvino_builder import OpenVinoBuilder
from service.quantization.emitters.half import emit_half
from tests.unit.quantization.small_models import Array, fp32, model_of, saved, value

ROWS = {"x": fp32(np.random.default_rng(2).normal(0, 4, (4, 16, 9, 9)))}
SIXTH = {"alpha": 1 / 6, "beta": 0.5}
FORMS: dict[str, tuple[str, dict[str, float]]] = {
    "default": ("HardSigmoid", {}),
    "of MobileNet": ("HardSigmoid", SIXTH),
    "other numbers": ("HardSigmoid", {"alpha": 0.37, "beta": 0.21}),
    "flat": ("HardSigmoid", {"alpha": 0.0, "beta": 0.3}),
    "nearly flat": ("HardSigmoid", {"alpha": 1e-6, "beta": 0.5}),
    "falling": ("HardSigmoid", {"alpha": -0.4, "beta": 0.6}),
    "selu": ("Selu", {}),
    "selu of other numbers": ("Selu", {"alpha": 1.2, "gamma": 0.7}),
}


def network(operator: str, numbers: dict[str, float], opset: int = 17, swish: bool = False) -> ModelProto:
    """A convolution, the operator, the product with what it read if `swish`, and a convolution."""
    weights = fp32(np.random.default_rng(1).normal(0, 0.1, (16, 16, 3, 3)))
    nodes: list[NodeProto] = [
        helper.make_node("Conv", ["x", "w"], ["a"], "first", pads=[1, 1, 1, 1]),
        helper.make_node(operator, ["a"], ["b"], "bend", **numbers),  # type: ignore[arg-type]
    ]
    if swish:
        nodes.append(helper.make_node("Mul", ["a", "b"], ["c"], "swish"))
    nodes.append(helper.make_node("Conv", ["c" if swish else "b", "w"], ["y"], "last", pads=[1, 1, 1, 1]))
    sides = [value(name, ("n", 16, 9, 9)) for name in ("x", "y")]
    return model_of(nodes, sides[:1], sides[1:], {"w": weights}, opset)


def answers(engine: Any) -> Array:
    (found,) = engine.infer(ROWS).values()
    engine.close()
    return fp32(found)


def built(model: ModelProto, folder: Path) -> Path:
    path = saved(model, folder / "converted.onnx")
    OpenVinoBuilder().build(path, folder / "engine.onnx", BuildOptions(1, BatchProfile()))
    return folder / "engine.onnx"


def slow_layers(engine: Path) -> list[str]:
    """Those that run in plain C++."""
    layers = compile_model(engine, 1)[0].get_runtime_model().get_ordered_ops()
    described = ({key: str(entry.astype(str)) for key, entry in layer.get_rt_info().items()} for layer in layers)
    return [one["layerType"] for one in described if one.get("primitiveType", "").startswith("ref")]


@pytest.mark.parametrize("opset", [10, 17])
@pytest.mark.parametrize("form", FORMS)
def test_the_engine_answers_as_the_model_does(form: str, opset: int, tmp_path: Path) -> None:
    model = network(*FORMS[form], opset)
    expected = answers(OnnxRuntimeEngine.load(saved(model, tmp_path / "m.onnx"), 1))
    found = answers(OpenVinoBuilder().load(built(model, tmp_path), 1))
    assert np.allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("swish", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_no_layer_of_the_engine_runs_in_plain_cpp(form: str, swish: bool, tmp_path: Path) -> None:
    model = network(*FORMS[form], swish=swish)
    assert slow_layers(saved(model, tmp_path / "m.onnx")), "nothing to mend: try whether this is still needed"
    assert slow_layers(built(model, tmp_path)) == []


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_constants_are_of_the_type_that_the_operator_computes_in(precision: str, tmp_path: Path) -> None:
    model = network("HardSigmoid", SIXTH, swish=True)
    expected = answers(OnnxRuntimeEngine.load(saved(model, tmp_path / "m.onnx"), 1))
    found = answers(OpenVinoBuilder().load(built(emit_half(model, (), precision), tmp_path), 1))
    assert np.allclose(found, expected, atol=0.05 * np.abs(expected).max())


def test_what_stands_behind_a_dequantization_is_left_alone() -> None:
    pair = [
        helper.make_node("QuantizeLinear", ["x", "step"], ["q"], "q"),
        helper.make_node("DequantizeLinear", ["q", "step"], ["d"], "d"),
        helper.make_node("HardSigmoid", ["d"], ["y"], "bend"),
    ]
    assert not write_activations(model_of(pair, [value("x", ("n",))], [value("y", ("n",))], {"step": fp32(0.2)}))


def test_names_stay_and_new_ones_are_new() -> None:
    model = network("HardSigmoid", SIXTH)
    model.graph.node[0].output[0] = model.graph.node[1].input[0] = "b/first"
    assert write_activations(model)
    names = [output for node in model.graph.node for output in node.output]
    assert len(set(names)) == len(names)
    assert [node.name for node in model.graph.node if node.output[0] == "b"] == ["bend"]
    assert not write_activations(model)
