"""A model that was uploaded with Q/DQ nodes comes out of the whole pipeline as it was trained."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from service.domain.recipe import BatchProfile, Budget, Calibration, Recipe
from service.quantization.pipeline import STAGES, PipelineTask, run_stage
from service.quantization.proof import latency
from tests.unit.quantization.int8 import quantize
from tests.unit.quantization.small_models import fp32, images, model_of, saved, saved_rows, value


def test_a_quantized_upload_is_built_again_with_its_very_grids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "MAX_ROUNDS", 4)
    random = np.random.default_rng(0)
    kernels = {"k": (8, 3, 3, 3), "l": (4, 8, 3, 3)}
    constants = {name: random.normal(0, 0.2, shape).astype(np.float32) for name, shape in kernels.items()}
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["h"], "first", pads=[1] * 4),
        helper.make_node("Relu", ["h"], ["r"], "relu"),
        helper.make_node("Conv", ["r", "l"], ["y"], "second", pads=[1] * 4),
    ]
    model = model_of(nodes, [value("x", ("n", 3, 8, 8))], [value("y", ("n", 4, 8, 8))], constants)
    trained = Recipe(calibration=Calibration(method="minmax"))
    upload, _ = quantize(model, {"x": images(32, 1)}, tmp_path, trained)
    # Another method and other rows than those that the upload's grids were found by.
    rows = saved_rows(tmp_path / "rows.npz", x=images(32, 2))
    recipe = Recipe(runtime="onnxruntime", calibration=Calibration(method="mse", rows=32), batch=BatchProfile(1, 2, 4))
    path = saved(upload, tmp_path / "upload.onnx")
    task = PipelineTask(tmp_path / "job", path, recipe, Budget("mae", 1e-6), rows, rows, 1)
    for stage in STAGES:
        summary = run_stage({"stage": stage, "task": task.to_json()}, lambda fraction: None)
    assert summary["verdict"] == "passed"


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_grid_that_was_trained_behind_a_pooling_is_that_of_both_its_sides(tmp_path: Path, runtime: str) -> None:
    random = np.random.default_rng(0)
    step = np.float32(1.5 / 255)
    constants = {
        "k": random.normal(0, 0.2, (8, 3, 3, 3)).astype(np.float32),
        "l": random.normal(0, 0.2, (4, 8, 3, 3)).astype(np.float32),
        "step": fp32(step),
        "zero": np.array(0, np.uint8),
    }
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["h"], "first", pads=[1] * 4),
        helper.make_node("Relu", ["h"], ["r"], "relu"),
        helper.make_node("MaxPool", ["r"], ["p"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("QuantizeLinear", ["p", "step", "zero"], ["q"], "q"),
        helper.make_node("DequantizeLinear", ["q", "step", "zero"], ["d"], "d"),
        helper.make_node("Conv", ["d", "l"], ["y"], "second", pads=[1] * 4),
    ]
    model = model_of(nodes, [value("x", ("n", 3, 8, 8))], [value("y", ("n", 4, 4, 4))], constants)
    rows = saved_rows(tmp_path / "rows.npz", x=images(32, 2))
    path = saved(model, tmp_path / "upload.onnx")
    task = PipelineTask(tmp_path / "job", path, Recipe(runtime=runtime), Budget("mae", 1), rows, rows, 1)
    for stage in STAGES[: STAGES.index("convert") + 1]:
        run_stage({"stage": stage, "task": task.to_json()}, lambda fraction: None)
    plan = json.loads((tmp_path / "job" / runtime / "plan.json").read_text())
    scales = {grid["tensor"]: grid["scales"] for grid in plan["activations"]}
    assert scales["r"] == scales["p"] == [pytest.approx(step, rel=1e-6)]
