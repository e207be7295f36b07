"""A channel is found along the axis that the operator multiplies it by, whatever the tensor's rank."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, helper

from service.domain.recipe import Budget, Calibration, Recipe
from service.quantization.graphs.graph import Graph
from service.quantization.pipeline import run_stage
from service.quantization.task import PipelineTask
from service.quantization.tuning.channels import channel_power
from service.quantization.tuning.equalization import streams
from tests.unit.quantization.small_models import Array, model_of, relu_model, saved, saved_rows, value


def weights(*shape: int) -> Array:
    return np.random.default_rng(sum(shape)).normal(0, 0.3, shape).astype(np.float32)


def two_layers(operator: str, shape: tuple[int, ...], first: Array, second: Array) -> ModelProto:
    nodes = [
        helper.make_node(operator, ["x", "first.w"], ["h"], "first"),
        helper.make_node("Relu", ["h"], ["r"], "relu"),
        helper.make_node(operator, ["r", "second.w"], ["y"], "second"),
    ]
    constants = {"first.w": first, "second.w": second}
    return model_of(nodes, [value("x", ("n", *shape))], [value("y", None)], constants)


MODELS = {
    "convolutions along one axis": ("Conv", (3, 20), weights(8, 3, 3), weights(4, 8, 1)),
    "products of four axes": ("MatMul", (3, 5, 16), weights(16, 32), weights(32, 16)),
    "products of three axes": ("MatMul", (5, 16), weights(16, 32), weights(32, 16)),
    "convolutions along three axes": ("Conv", (3, 4, 4, 4), weights(8, 3, 3, 3, 3), weights(4, 8, 1, 1, 1)),
}


@pytest.mark.parametrize("name", MODELS)
def test_operators_of_any_rank_are_tuned(tmp_path: Path, name: str) -> None:
    operator, shape, first, second = MODELS[name]
    path = saved(two_layers(operator, shape, first, second), tmp_path / "model.onnx")
    rows = saved_rows(tmp_path / "rows.npz", x=np.random.default_rng(1).normal(0, 1, (32, *shape)).astype(np.float32))
    recipe = Recipe(runtime="onnxruntime", calibration=Calibration(rows=32))
    task = PipelineTask(tmp_path / "job", path, recipe, Budget("cosine", 0.1), rows, rows, 1)
    for stage in ("inspect", "calibrate", "convert"):
        run_stage({"stage": stage, "task": task.to_json()}, lambda fraction: None)
    steps = {entry["step"]: entry for entry in task.read("onnxruntime/tuning.json")}
    assert {"equalization", "weight_clipping"} <= steps.keys()


def test_the_power_of_channels_is_along_the_axis_asked_for() -> None:
    values = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    found = channel_power(relu_model(("n", 3, 4)), [("y", 1), ("y", -1)], lambda: [{"x": values}], 1)
    assert np.allclose(found["y", 1], (values**2).mean(axis=(0, 2)))
    assert np.allclose(found["y", -1], (values**2).mean(axis=(0, 1)))


def test_channels_along_different_axes_are_not_scaled_together() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["h"], "conv"),
        helper.make_node("MatMul", ["h", "m"], ["y"], "product"),
    ]
    constants = {"k": weights(6, 3, 1, 1), "m": weights(6, 5)}
    mixed = model_of(nodes, [value("x", ("n", 3, 6, 6))], [value("y", None)], constants)
    assert streams(Graph(mixed)) == []
