"""A model with branches goes through the whole pipeline in INT8, each stage in a process of its own as jobs run it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import helper

from service.domain.limits import StageLimits
from service.domain.recipe import BatchProfile, Budget, Calibration, Recipe
from service.quantization.pipeline import STAGES, PipelineTask
from service.quantization.sandbox.parent import run_in_sandbox
from tests.unit.quantization.small_models import images, model_of, read_in_a_branch, saved, saved_rows, value


def test_a_branch_that_reads_a_pooled_tensor_aborts_no_stage(tmp_path: Path) -> None:
    kernel = np.random.default_rng(0).normal(0, 0.2, (8, 3, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["h"], "conv", pads=[1] * 4),
        helper.make_node("MaxPool", ["h"], ["p"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
    ]
    model = read_in_a_branch(model_of(nodes, [value("x", ("n", 3, 8, 8))], [], {"k": kernel}), "p")
    rows = saved_rows(tmp_path / "rows.npz", x=images(32))
    path = saved(model, tmp_path / "upload.onnx")
    recipe = Recipe(runtime="onnxruntime", calibration=Calibration(rows=32), batch=BatchProfile(1, 1, 1))
    task = PipelineTask(tmp_path / "job", path, recipe, Budget("mae", 1), rows, rows, 1)
    for stage in STAGES:
        arguments = {"stage": stage, "task": task.to_json()}
        told = run_in_sandbox("service.quantization.pipeline:run_stage", arguments, limits=StageLimits())
    assert told["variant"] == "int8-onnxruntime"
