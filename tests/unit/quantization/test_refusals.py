"""What cannot be quantized ends in an error that names the value and the next step, at the first stage to know."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import GraphProto, TensorProto, helper

from service.domain.limits import MIB, StageLimits
from service.domain.recipe import Budget, Recipe
from service.errors import EngineFailed, InvalidRecipe, InvalidRequest, OctavoError, StageFailed
from service.quantization.pipeline import STAGES, PipelineTask, run_stage
from service.quantization.proof import latency
from service.quantization.sandbox.parent import run_in_sandbox
from tests.unit.quantization.small_models import (
    Array,
    classifier,
    fp32,
    images,
    model_of,
    relu_model,
    saved,
    saved_rows,
    value,
)


@pytest.fixture(autouse=True)
def short_timings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "MAX_ROUNDS", 12)


@pytest.fixture
def task(tmp_path: Path) -> PipelineTask:
    rows = saved_rows(tmp_path / "rows.npz", x=images(16))
    model = saved(classifier(), tmp_path / "model.onnx")
    return PipelineTask(tmp_path / "job", model, Recipe(), Budget("mae", 1.0), rows, rows, 1)


def refusal(task: PipelineTask) -> tuple[str, OctavoError]:
    """The stage that refuses, and its error."""
    for stage in STAGES:
        try:
            run_stage({"stage": stage, "task": task.to_json()}, lambda fraction: None)
        except OctavoError as error:
            return stage, error
    raise AssertionError("no stage refused the task")


def test_int8_without_a_calibration_set(task: PipelineTask) -> None:
    stage, error = refusal(replace(task, calibration=None))
    assert (stage, type(error)) == ("inspect", InvalidRecipe)
    assert "precision is 'int8' but no calibration set is named; name one" in str(error)


def test_a_model_with_nothing_to_quantize(task: PipelineTask, tmp_path: Path) -> None:
    plain = saved(relu_model(("batch", 3, 8, 8)), tmp_path / "plain.onnx")
    stage, error = refusal(replace(task, model=plain))
    assert (stage, type(error)) == ("inspect", InvalidRecipe)
    assert "nothing in the model can run in INT8" in str(error)
    assert "ask for fp16" in str(error)


def test_a_model_that_means_something_else_at_a_newer_opset(
    task: PipelineTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.quantization.emitters.opset.put_right", lambda model, old, opset: None)
    upsample = helper.make_node("Upsample", ["x", "s"], ["u"], "upsample", mode="linear")
    conv = helper.make_node("Conv", ["u", "k"], ["y"], "conv")
    constants = {"s": np.array([1, 1, 2, 2], np.float32), "k": np.ones((4, 3, 1, 1), np.float32)}
    shape = ("batch", 3, 8, 8)
    old = model_of([upsample, conv], [value("x", shape)], [value("y", None)], constants, 9)
    stage, error = refusal(replace(task, model=saved(old, tmp_path / "old.onnx")))
    assert (stage, type(error)) == ("inspect", StageFailed)
    assert "output 'y' is another one once the model is raised to the opset that INT8 needs" in str(error)


def test_a_model_whose_weights_are_all_in_branches(task: PipelineTask, tmp_path: Path) -> None:
    def branch(name: str) -> GraphProto:
        conv = helper.make_node("Conv", ["x", "k"], [name], name)
        return helper.make_graph([conv], name, [], [value(name, ("n", 2, 8, 8))])

    nodes = [
        helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        helper.make_node("Cast", ["most"], ["bright"], to=TensorProto.BOOL),
        helper.make_node("If", ["bright"], ["y"], then_branch=branch("then"), else_branch=branch("otherwise")),
    ]
    constants = {"k": np.ones((2, 3, 1, 1), np.float32)}
    model = model_of(nodes, [value("x", ("n", 3, 8, 8))], [value("y", ("n", 2, 8, 8))], constants)
    stage, error = refusal(replace(task, model=saved(model, tmp_path / "if.onnx")))
    assert (stage, type(error)) == ("inspect", InvalidRecipe)
    assert "its 2 Conv, Gemm and MatMul stand inside an If, Loop or Scan" in str(error)
    assert "export the branch that you need as a model of its own, or ask for fp16" in str(error)


def test_rows_that_are_not_finite(task: PipelineTask, tmp_path: Path) -> None:
    rows = images(16)
    rows[9, 0, 0, 0] = np.nan
    stage, error = refusal(replace(task, calibration=saved_rows(tmp_path / "nan.npz", x=rows)))
    assert (stage, type(error)) == ("calibrate", StageFailed)
    assert "tensor 'x' is NaN or infinite within rows 0 to 15 of the calibration" in str(error)
    assert "remove" in str(error)


def test_finite_rows_that_the_model_makes_infinite(task: PipelineTask, tmp_path: Path) -> None:
    constants: dict[str, Array] = {"huge": fp32(3e38), "w": np.eye(4, dtype=np.float32)}
    nodes = [
        helper.make_node("Mul", ["x", "huge"], ["beyond"], "grow"),
        helper.make_node("MatMul", ["beyond", "w"], ["y"], "product"),
    ]
    model = model_of(nodes, [value("x", ("n", 4))], [value("y", ("n", 4))], constants)
    rows = saved_rows(tmp_path / "two.npz", x=np.full((8, 4), 2, np.float32))
    growing = replace(task, model=saved(model, tmp_path / "grow.onnx"), calibration=rows, validation=rows)
    stage, error = refusal(growing)
    assert (stage, type(error)) == ("calibrate", StageFailed)
    assert "tensor 'beyond' is NaN or infinite" in str(error)


def test_a_refusal_inside_a_stage_comes_out_of_the_sandbox_as_itself(task: PipelineTask) -> None:
    recipe = replace(task.recipe, keep_float=("*",))
    arguments = {"stage": "inspect", "task": replace(task, recipe=recipe).to_json()}
    with pytest.raises(InvalidRecipe, match="nothing in the model can run in INT8"):
        run_in_sandbox("service.quantization.pipeline:run_stage", arguments, limits=StageLimits(60, 2048 * MIB))


def test_an_engine_that_cannot_run_its_batches(task: PipelineTask, tmp_path: Path) -> None:
    reshape = helper.make_node("Reshape", ["x", "shape"], ["y"], "stuck")
    shape = {"shape": np.array([1, 192], np.int64)}
    model = model_of([reshape], [value("x", ("n", 3, 8, 8))], [value("y", ("n", 192))], shape)
    recipe = Recipe(precision="fp32", runtime="onnxruntime")
    stage, error = refusal(replace(task, model=saved(model, tmp_path / "m.onnx"), recipe=recipe))
    assert (stage, type(error)) == ("build", EngineFailed)
    assert "ONNX Runtime failed on this batch" in str(error)


def test_an_unknown_stage(task: PipelineTask) -> None:
    with pytest.raises(InvalidRequest, match="stage is 'publish'; send one of inspect, calibrate"):
        run_stage({"stage": "publish", "task": task.to_json()}, lambda fraction: None)


def test_a_mask_of_infinities_that_no_integer_operator_reads_does_not_stop_a_build(
    task: PipelineTask, tmp_path: Path
) -> None:
    random = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["h"], "first"),
        helper.make_node("Greater", ["h", "zero"], ["positive"], "sign"),
        helper.make_node("Where", ["positive", "h", "least"], ["masked"], "mask"),
        helper.make_node("Concat", ["h", "masked"], ["both"], "join", axis=1),
        helper.make_node("Max", ["both", "zero"], ["finite"], "floor"),
        helper.make_node("Conv", ["finite", "l"], ["y"], "second"),
    ]
    constants = {"k": fp32(random.normal(0, 0.4, (4, 3, 1, 1))), "l": fp32(random.normal(0, 0.4, (4, 8, 1, 1)))}
    constants |= {"zero": fp32(0), "least": fp32(-np.inf)}
    model = model_of(nodes, [value("x", ("n", 3, 8, 8))], [value("y", ("n", 4, 8, 8))], constants)
    masked = replace(task, model=saved(model, tmp_path / "masked.onnx"), budget=Budget("cosine", 0.05))
    done: dict[str, Any] = {}
    for stage in STAGES:
        done = run_stage({"stage": stage, "task": masked.to_json()}, lambda fraction: None)
    assert done["verdict"] == "passed"
