"""Operators that OpenVINO reads otherwise than ONNX says, on OpenVINO as on ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, helper

from service.domain.recipe import BatchProfile
from service.engines.onnxruntime_engine import OnnxRuntimeEngine
from service.quantization.builders.builder import BuildOptions
from service.quantization.builders.openvino_builder import OpenVinoBuilder
from service.quantization.builders.openvino_operators import write_operators
from service.quantization.emitters.opset import opset_of
from tests.unit.quantization.small_models import Array, fp32, model_of, saved, value

SHAPE: tuple[int | str, ...] = ("n", 3, 8, 8)
OPEN: tuple[int | str, ...] = ("n", 3, "height", "width")
ROWS = fp32(np.random.default_rng(2).uniform(0.1, 2, (4, 3, 8, 8)))


def network(
    node: NodeProto, opset: int, shape: Sequence[int | str] = SHAPE, constants: dict[str, Array] | None = None
) -> ModelProto:
    """y of x by this one operator."""
    return model_of([node], [value("x", shape)], [value("y", None)], constants, opset)


def check(model: ModelProto, folder: Path) -> None:
    """OpenVINO's engine answers as ONNX Runtime does, one row and four."""
    path = saved(model, folder / "converted.onnx")
    builder = OpenVinoBuilder()
    builder.build(path, folder / "engine.onnx", BuildOptions(1, BatchProfile()))
    reference, engine = OnnxRuntimeEngine.load(path, 1), builder.load(folder / "engine.onnx", 1)
    for rows in (ROWS, ROWS[:1]):
        meant, found = reference.infer({"x": rows})["y"], engine.infer({"x": rows})["y"]
        assert meant.shape == found.shape
        assert np.allclose(meant, found, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("axis", [1, 2, -2, 3, -1, None])
@pytest.mark.parametrize("opset", [10, 11, 12, 13])
def test_a_softmax_is_over_the_axes_that_its_opset_says(opset: int, axis: int | None, tmp_path: Path) -> None:
    stated: dict[str, Any] = {} if axis is None else {"axis": axis}
    if opset < 11 and axis is not None and axis < 0:
        stated = {"axis": 4 + axis}
    check(network(helper.make_node("Softmax", ["x"], ["y"], "it", **stated), opset), tmp_path)


@pytest.mark.parametrize("axes", [[1], [2, 3], [-1], None])
@pytest.mark.parametrize("opset", [11, 13, 17])
@pytest.mark.parametrize("kind", ["ReduceL1", "ReduceLogSum", "ReduceLogSumExp"])
def test_a_reduction_is_over_the_axes_that_it_states(
    kind: str, opset: int, axes: list[int] | None, tmp_path: Path
) -> None:
    stated: dict[str, Any] = {} if axes is None else {"axes": axes}
    for keepdims in (0, 1):
        check(network(helper.make_node(kind, ["x"], ["y"], "it", keepdims=keepdims, **stated), opset), tmp_path)


def test_a_reduction_behind_a_softmax_of_an_old_opset_is_over_its_axes_too(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Softmax", ["x"], ["shares"], "share", axis=1),
        helper.make_node("ReduceL1", ["shares"], ["y"], "it", axes=[1], keepdims=0),
    ]
    check(model_of(nodes, [value("x", SHAPE)], [value("y", None)], None, 12), tmp_path)


PADDINGS: list[dict[str, Any]] = [
    {"auto_pad": "SAME_UPPER"},
    {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
    {"auto_pad": "SAME_LOWER", "strides": [2, 2]},
    {"auto_pad": "SAME_UPPER", "strides": [2, 2], "output_padding": [1, 1]},
    {"auto_pad": "SAME_LOWER", "strides": [2, 3], "dilations": [2, 2]},
    {"auto_pad": "VALID", "strides": [2, 2]},
    {"pads": [1, 0, 0, 1], "strides": [2, 2], "output_padding": [1, 1]},
    {"output_shape": [16, 16], "strides": [2, 2]},
    {"output_shape": [15, 16], "strides": [2, 2], "auto_pad": "SAME_UPPER"},
    {"output_shape": [16, 15], "strides": [2, 2], "auto_pad": "SAME_LOWER"},
]


def transposed(padding: dict[str, Any], taps: int, shape: Sequence[int | str]) -> ModelProto:
    weight = np.random.default_rng(1).normal(0, 1, (3, 6, taps, taps))
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], "it", **padding)
    return network(node, 13, shape, {"w": fp32(weight)})


@pytest.mark.parametrize("taps", [3, 4])
@pytest.mark.parametrize("padding", PADDINGS, ids=str)
def test_a_transposed_convolution_is_as_large_as_its_padding_says(
    padding: dict[str, Any], taps: int, tmp_path: Path
) -> None:
    check(transposed(padding, taps, SHAPE), tmp_path)


def test_a_transposed_convolution_of_open_sizes_is_as_large_as_its_padding_says(tmp_path: Path) -> None:
    check(transposed(PADDINGS[1], 3, OPEN), tmp_path)


def test_what_cannot_be_said_otherwise_is_left_alone() -> None:
    of_open_sizes = transposed(PADDINGS[7], 3, OPEN)
    assert write_operators(of_open_sizes) is of_open_sizes
    growing = transposed({"auto_pad": "SAME_UPPER", "strides": [4, 4]}, 3, SHAPE)
    assert write_operators(growing) is growing


def test_a_graph_without_such_an_operator_keeps_its_opset() -> None:
    for node, opset in (
        (helper.make_node("ReduceMean", ["x"], ["y"], "it", axes=[1]), 13),
        (helper.make_node("Softmax", ["x"], ["y"], "it", axis=-1), 12),
        (helper.make_node("Softmax", ["x"], ["y"], "it", axis=3), 11),
    ):
        model = network(node, opset)
        assert write_operators(model) is model
    assert opset_of(write_operators(network(helper.make_node("ReduceL1", ["x"], ["y"], "it", axes=[1]), 13))) == 18
