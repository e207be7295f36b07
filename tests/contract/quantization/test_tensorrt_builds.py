"""Real TensorRT engines of the emitters' graphs, in every precision, with no GPU: what is compiled has the wished type.

EfficientNet-Lite0 has its own layers and widths here, and random weights: the published ones need torch to be read.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto

from service.domain.recipe import Calibration, Recipe
from service.quantization.emitters.half import emit_half
from service.quantization.emitters.tensorrt import emit_tensorrt, plan_in_half
from service.quantization.graphs.graph import Graph, attribute
from service.quantization.graphs.sparsity import prune
from service.quantization.lint.fusion_lint import predict
from tests.unit.quantization.efficientnet_lite0 import efficientnet_lite0, pictures
from tests.unit.quantization.int8 import quantize
from tests.unit.quantization.small_models import Array
from tests.unit.quantization.tensorrt_engine import build_engine
from tests.unit.quantization.transformer_block import tokens, transformer_block

DIGITS = Path(__file__).parents[3] / "models" / "digits"
NETWORKS = ("digits", "efficientnet_lite0", "transformer block")
FLOATS = {"fp32": "FLOAT", "fp16": "HALF", "bf16": "BF16"}
MINMAX = Recipe(calibration=Calibration(method="minmax"))


def source(network: str) -> tuple[ModelProto, dict[str, Array]]:
    if network == "digits":
        with np.load(DIGITS / "calibration.npz") as archive:
            return onnx.load_model(DIGITS / "digits.onnx"), {"input": archive["input"][:32]}
    if network == "transformer block":
        return transformer_block(), {"x": tokens(32)}
    return efficientnet_lite0(), {"input": pictures(16)}


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


def test_the_network_is_efficientnet_lite0s_own() -> None:
    model = efficientnet_lite0()
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    depthwise = [node for node in convolutions if attribute(node, "group", 1) > 1]
    # A stem, a head, and of 16 blocks 15 that widen before they filter and narrow.
    assert (len(convolutions), len(depthwise)) == (2 + 15 * 3 + 2, 16)
    weights = sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer if len(tensor.dims) > 0)
    # The published 4,652,008, less a scale for each of the 21,008 channels that batch normalisation had.
    assert weights == 4_652_008 - 21_008


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_pruned_network_is_built_with_its_weights_known_as_sparse(precision: str) -> None:
    model = efficientnet_lite0()
    prune(model)
    notes = build_engine(model if precision == "fp32" else emit_half(model, (), precision))
    # All but the stem, which reads three channels, and the depthwise ones.
    assert len(notes["sparse_operators"]) == 49 - 1 - 16 + 1


def test_an_engine_is_compiled_for_the_whole_list_of_gpus() -> None:
    notes = build_engine(emitted("efficientnet_lite0", "int8", "fp16"))
    assert notes["built_for"][:3] == ["8.0", "8.6", "8.9"]
    assert notes["portable"]
