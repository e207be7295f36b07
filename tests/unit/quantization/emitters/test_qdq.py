"""New tensors get names that nothing in the model has, and every reader sees the values it should."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from service.quantization.builders.onnxruntime_builder import OnnxRuntimeBuilder
from tests.unit.quantization.int8 import quantize, run
from tests.unit.quantization.small_models import Array, fp32, images, model_of, saved, value

RUNTIMES = ("onnxruntime", "openvino", "tensorrt")
ROWS = {"x": images(16)}


def kernel(outputs: int, inputs: int) -> Array:
    return np.random.default_rng(outputs).normal(0, 0.2, (outputs, inputs, 3, 3)).astype(np.float32)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_model_whose_names_end_as_ours_do_is_emitted_right(tmp_path: Path, runtime: str) -> None:
    nodes = [
        helper.make_node("Mul", ["x", "x_scale"], ["x_quantized"], "x/quantize"),
        helper.make_node("Conv", ["x", "w"], ["h"], "first", pads=[1] * 4),
        helper.make_node("Conv", ["h", "v", "second/bias"], ["h_dequantized"], "second", pads=[1] * 4),
        helper.make_node("Conv", ["x_quantized", "w"], ["first/weight"], "third", pads=[1] * 4),
        helper.make_node("Conv", ["first/weight", "v"], ["u"], "fourth", pads=[1] * 4),
        helper.make_node("Add", ["u", "h_dequantized"], ["y"], "sum"),
    ]
    constants = {"x_scale": fp32(2), "w": kernel(8, 3), "v": kernel(4, 8), "second/bias": np.zeros(4, np.float32)}
    model = model_of(nodes, [value("x", ("n", 3, 8, 8))], [value("y", ("n", 4, 8, 8))], constants)
    emitted, _ = quantize(model, ROWS, tmp_path, runtime=runtime)
    onnx.checker.check_model(emitted, full_check=True)
    expected, given = (run(graph, ROWS, tmp_path)["y"] for graph in (model, emitted))
    assert (expected**2).sum() > 300 * ((expected - given) ** 2).sum()


def test_what_a_subgraph_reads_runs_in_int8_too(tmp_path: Path) -> None:
    outs = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("then", "else")}
    then = helper.make_graph([helper.make_node("Relu", ["h"], ["then"], "inner")], "then", [], [outs["then"]])
    other = helper.make_graph([helper.make_node("Neg", ["h"], ["else"], "minus")], "else", [], [outs["else"]])
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"], "first", pads=[1] * 4),
        helper.make_node("ReduceSum", ["x"], ["total"], "total", keepdims=0),
        helper.make_node("Greater", ["total", "zero"], ["positive"], "sign"),
        helper.make_node("If", ["positive"], ["branch"], "if", then_branch=then, else_branch=other),
        helper.make_node("Conv", ["h", "v"], ["u"], "second", pads=[1] * 4),
    ]
    constants = {"w": kernel(8, 3), "v": kernel(4, 8), "zero": fp32(0)}
    ends = [value("y", ("n", 4, 8, 8)), value("branch", ("n", 8, 8, 8))]
    nodes[-1].output[0] = "y"
    model = model_of(nodes, [value("x", ("n", 3, 8, 8))], ends, constants)
    emitted, _ = quantize(model, ROWS, tmp_path)
    ran = OnnxRuntimeBuilder().executed(saved(emitted, tmp_path / "engine.onnx"), 1)
    assert {operator.name for operator in ran if operator.operator == "QLinearConv"} == {"first", "second"}
    expected, given = (run(graph, ROWS, tmp_path) for graph in (model, emitted))
    for name, values in expected.items():
        assert (values**2).sum() > 300 * ((values - given[name]) ** 2).sum()
