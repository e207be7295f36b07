"""Types and shapes are inferred without a copy of the weights, which may hold gigabytes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper

from service.quantization.graphs.graph import Graph
from service.quantization.graphs.inferred_values import inferred_values
from tests.unit.quantization.small_models import model_of, value


def recommender() -> ModelProto:
    """A table of 64,000 numbers that ids look up, and a shape that inference must read."""
    nodes = [
        helper.make_node("Gather", ["table", "x"], ["rows"]),
        helper.make_node("Reshape", ["rows", "to"], ["flat"]),
        helper.make_node("Neg", ["flat"], ["y"]),
    ]
    constants = {"table": np.zeros((1000, 64), np.float16), "to": np.array([-1, 128])}
    return model_of(nodes, [value("x", (2,), TensorProto.INT64)], [value("y", None, TensorProto.FLOAT16)], constants)


def test_what_is_inferred_is_what_the_whole_model_tells() -> None:
    model = recommender()
    whole = onnx.shape_inference.infer_shapes(model).graph
    expected = {entry.name: entry for entry in (*whole.input, *whole.output, *whole.value_info)}
    found = {entry.name: entry for entry in inferred_values(model)}
    assert found == expected
    assert [dim.dim_value for dim in found["flat"].type.tensor_type.shape.dim] == [1, 128]


def test_weights_are_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    handed: list[int] = []
    infer = onnx.shape_inference.infer_shapes

    def noting(model: ModelProto, **options: bool) -> ModelProto:
        handed.append(model.ByteSize())
        return infer(model, **options)

    monkeypatch.setattr(onnx.shape_inference, "infer_shapes", noting)
    model = recommender()
    graph = Graph(model)
    assert [graph.type_name(name) for name in ("table", "rows", "y")] == ["FLOAT16"] * 3
    assert handed[0] < 1000 < model.ByteSize()


def test_a_constant_that_is_listed_as_an_input_too_is_told_once() -> None:
    model = recommender()
    model.graph.input.append(value("table", (1000, 64), TensorProto.FLOAT16))
    assert [entry.name for entry in inferred_values(model)].count("table") == 1
