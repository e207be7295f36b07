"""Real TensorRT engines of the emitters' graphs, in every precision, with no GPU: what is compiled has the wished type.

Of EfficientNet-Lite0, whose weights come from elsewhere, a block of its shape stands in: depthwise, clipped, residual.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto, helper

from service.domain.recipe import Calibration, Recipe
from service.quantization.emitters.half import emit_half
from service.quantization.emitters.tensorrt import emit_tensorrt, plan_in_half
from service.quantization.fusion_lint import predict
from service.quantization.graph import Graph
from tests.unit.quantization.int8 import quantize
from tests.unit.quantization.small_models import Array, fp32, model_of, value
from tests.unit.quantization.tensorrt_engine import build_engine
from tests.unit.quantization.transformer_block import tokens, transformer_block

DIGITS = Path(__file__).parents[3] / "models" / "digits"
NETWORKS = ("digits", "lite block", "transformer block")
FLOATS = {"fp32": "FLOAT", "fp16": "HALF", "bf16": "BF16"}
MINMAX = Recipe(calibration=Calibration(method="minmax"))
WIDE, NARROW = 96, 16
node = helper.make_node


def lite_block() -> ModelProto:
    """FP32 [batch, 3, 16, 16] to [batch, 24]: a stem, two inverted residual blocks of 3x3 and 5x5, pooling, a head."""
    random = np.random.default_rng(7)
    constants: dict[str, Array] = {"zero": fp32(0), "six": fp32(6)}
    nodes: list[NodeProto] = []

    def convolve(source: str, name: str, shape: tuple[int, int, int], group: int = 1, clipped: bool = True) -> str:
        made, fed, kernel = shape
        weights = random.normal(0, 1 / np.sqrt(fed * kernel**2), (made, fed, kernel, kernel))
        constants[f"{name}.w"] = weights.astype(np.float32)
        constants[f"{name}.b"] = random.normal(0, 0.1, made).astype(np.float32)
        pads, size = [kernel // 2] * 4, [kernel, kernel]
        inputs = [source, f"{name}.w", f"{name}.b"]
        nodes.append(node("Conv", inputs, [f"{name}.y"], name, kernel_shape=size, pads=pads, group=group))
        if clipped:
            nodes.append(node("Clip", [f"{name}.y", "zero", "six"], [f"{name}.z"], f"{name}/clip"))
        return f"{name}.{'z' if clipped else 'y'}"

    tensor = convolve("x", "stem", (NARROW, 3, 3))
    for index, kernel in enumerate((3, 5)):
        wide = convolve(tensor, f"expand{index}", (WIDE, NARROW, 1))
        deep = convolve(wide, f"depthwise{index}", (WIDE, 1, kernel), group=WIDE)
        thin = convolve(deep, f"project{index}", (NARROW, WIDE, 1), clipped=False)
        nodes.append(node("Add", [thin, tensor], [f"sum{index}"], f"add{index}"))
        tensor = f"sum{index}"
    constants["head.w"] = random.normal(0, 0.3, (24, NARROW)).astype(np.float32)
    constants["head.b"] = random.normal(0, 0.1, 24).astype(np.float32)
    nodes += [
        node("GlobalAveragePool", [tensor], ["pooled"], "pool"),
        node("Flatten", ["pooled"], ["flat"], "flatten"),
        node("Gemm", ["flat", "head.w", "head.b"], ["y"], "head", transB=1),
    ]
    return model_of(nodes, [value("x", ["batch", 3, 16, 16])], [value("y", ["batch", 24])], constants)


def source(network: str) -> tuple[ModelProto, dict[str, Array]]:
    if network == "digits":
        with np.load(DIGITS / "calibration.npz") as archive:
            return onnx.load_model(DIGITS / "digits.onnx"), {"input": archive["input"][:32]}
    if network == "transformer block":
        return transformer_block(), {"x": tokens(32)}
    return lite_block(), {"x": np.random.default_rng(1).normal(0, 1, (16, 3, 16, 16)).astype(np.float32)}


@cache
def emitted(network: str, precision: str, around: str = "fp32") -> ModelProto:
    model, rows = source(network)
    with TemporaryDirectory() as folder:
        made, plan = quantize(model, rows, Path(folder), MINMAX, runtime="tensorrt")
        graph = Graph.load(Path(folder) / "prepared.onnx")
    if precision == "int8":
        return made if around == "fp32" else emit_tensorrt(graph.model, plan_in_half(plan, graph, (), around), around)
    return graph.model if precision == "fp32" else emit_half(graph.model, (), precision)


def types(notes: dict[str, Any]) -> set[str]:
    return {layer["type"] for layer in notes["network"]}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("precision", FLOATS)
def test_a_float_engine_is_built_of_the_wished_type(network: str, precision: str) -> None:
    notes = build_engine(emitted(network, precision))
    assert FLOATS[precision] in types(notes)
    assert "INT8" not in types(notes)
    assert not any(operator["int8"] for operator in notes["executed"])


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("around", FLOATS)
def test_an_int8_engine_multiplies_in_int8_where_the_lint_says_so(network: str, around: str) -> None:
    model = emitted(network, "int8", around)
    notes = build_engine(model)
    assert {"INT8", FLOATS[around]} <= types(notes)
    predicted = {entry.name: entry.int8 for entry in predict("tensorrt", model)}
    told = {entry["name"]: entry["int8"] for entry in notes["executed"] if entry["name"] in predicted}
    assert any(told.values())
    assert told == {name: predicted[name] for name in told}


def test_an_engine_is_compiled_for_the_whole_list_of_gpus() -> None:
    notes = build_engine(emitted("lite block", "int8", "fp16"))
    assert notes["built_for"][:3] == ["8.0", "8.6", "8.9"]
    assert notes["portable"]
