"""A layer's unrolled input times its matrix is what ONNX Runtime computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from service.quantization.graphs.graph import Graph
from service.quantization.placements.onnxruntime import place
from service.quantization.tuning.layer import Layer
from service.quantization.tuning.patches import unrolled
from tests.unit.quantization.int8 import run
from tests.unit.quantization.small_models import Array, model_of, value

ALL = 10**6


def random(*shape: int) -> Array:
    return np.random.default_rng(7).normal(0, 1, shape).astype(np.float32)


@pytest.mark.parametrize(
    ("weight", "attributes"),
    [
        ((6, 4, 3, 3), {"pads": [1, 1, 1, 1]}),
        ((6, 4, 3, 3), {"strides": [2, 1], "pads": [1, 0, 2, 1]}),
        ((6, 2, 3, 3), {"group": 2, "dilations": [2, 2]}),
        ((4, 1, 3, 3), {"group": 4, "auto_pad": "SAME_UPPER", "strides": [2, 2]}),
        ((6, 4, 2, 2), {"auto_pad": "SAME_LOWER"}),
        ((6, 4, 1, 1), {"auto_pad": "VALID"}),
    ],
)
def test_convolutions_are_products_of_their_patches(
    tmp_path: Path, weight: tuple[int, ...], attributes: dict[str, Any]
) -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], "conv", kernel_shape=weight[2:], **attributes)
    model = model_of([node], [value("x", ("n", 4, 9, 8))], [value("y", None)], {"w": random(*weight)})
    graph = Graph(model)
    layer = Layer.of(graph, place(graph, ()).weighted[0])
    rows = random(3, 4, 9, 8)
    expected = np.moveaxis(run(model, {"x": rows}, tmp_path)["y"], 1, 0).reshape(weight[0], -1)
    matrix = layer.matrix(random(*weight))
    products = matrix @ unrolled(layer, rows, ALL).transpose(0, 2, 1)
    np.testing.assert_allclose(products.reshape(weight[0], -1), expected, atol=1e-4)


@pytest.mark.parametrize("transposed", [0, 1])
def test_fully_connected_layers_have_one_group(tmp_path: Path, transposed: int) -> None:
    weight = random(5, 3) if transposed else random(3, 5)
    node = helper.make_node("Gemm", ["x", "w"], ["y"], "gemm", transB=transposed)
    model = model_of([node], [value("x", ("n", 3))], [value("y", None)], {"w": weight})
    graph = Graph(model)
    layer = Layer.of(graph, place(graph, ()).weighted[0])
    rows = random(4, 3)
    products = unrolled(layer, rows, ALL)[0] @ layer.matrix(weight)[0].T
    np.testing.assert_allclose(products, run(model, {"x": rows}, tmp_path)["y"], atol=1e-5)
    np.testing.assert_array_equal(layer.tensor(layer.matrix(weight)), weight)


def test_a_sample_keeps_at_most_about_the_positions_asked_for() -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], "conv", kernel_shape=[3, 3])
    model = model_of([node], [value("x", ("n", 2, 34, 34))], [value("y", None)], {"w": random(2, 2, 3, 3)})
    graph = Graph(model)
    layer = Layer.of(graph, place(graph, ()).weighted[0])
    assert unrolled(layer, random(2, 2, 34, 34), 64).shape == (1, 2 * 64, 18)
