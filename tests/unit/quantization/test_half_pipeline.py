"""FP16 through all stages: where numbers outgrow it, what calibration measured keeps operators in FP32."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, helper

from service.domain.recipe import BatchProfile, Budget, Recipe
from service.quantization.pipeline import STAGES, PipelineTask, run_stage
from service.quantization.proof import latency
from tests.unit.quantization.small_models import Array, fp32, linear_regressor, model_of, saved, saved_rows, value


@pytest.fixture(autouse=True)
def short_timings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "MAX_ROUNDS", 12)


def normalising() -> ModelProto:
    """Scores of x / |x|, with the squares of x summed one by one."""
    nodes = [
        helper.make_node("Mul", ["x", "x"], ["squares"], "square"),
        helper.make_node("ReduceSum", ["squares", "last"], ["sum"], "sum"),
        helper.make_node("Sqrt", ["sum"], ["length"], "root"),
        helper.make_node("Div", ["x", "length"], ["y"], "divide"),
        helper.make_node("MatMul", ["y", "w"], ["scores"], "head"),
    ]
    weights = np.random.default_rng(0).normal(0, 1, (8, 4)).astype(np.float32)
    shapes = [value("x", ("n", 8))], [value("scores", ("n", 4))]
    return model_of(nodes, *shapes, {"last": np.array([-1]), "w": weights})


def reported(model: ModelProto, rows: Array, folder: Path) -> dict[str, Any]:
    """The report of an FP16 engine that passed."""
    task = PipelineTask(
        folder / "job",
        saved(model, folder / "model.onnx"),
        Recipe(precision="fp16", runtime="onnxruntime", batch=BatchProfile(1, 2, 4)),
        Budget(max_loss=0.05),
        None,
        saved_rows(folder / "rows.npz", x=fp32(rows)),
        1,
    )
    done: dict[str, Any] = {}
    for stage in STAGES:
        done = run_stage({"stage": stage, "task": task.to_json()}, lambda fraction: None)
    assert done["verdict"] == "passed"
    report: dict[str, Any] = json.loads((task.folder / "report.json").read_text())
    return report


@pytest.mark.parametrize(("largest", "kept"), [(900, {"square", "sum", "root"}), (20, set())])
def test_a_sum_of_squares_stays_in_fp32_only_where_it_outgrows_fp16(
    tmp_path: Path, largest: float, kept: set[str]
) -> None:
    report = reported(normalising(), np.random.default_rng(1).uniform(1, largest, (64, 8)), tmp_path)
    by_name = {entry["name"]: entry for entry in report["operators"]}
    assert {name for name in ("square", "sum", "root", "head") if by_name[name]["precision"] == "FP32"} == kept
    assert by_name["head"]["precision"] == "FP16"
    for name in kept:
        assert "FP16" in by_name[name]["reason"]
    assert not [warning for warning in report["warnings"] if "no operator" in warning]


def test_an_engine_without_any_operator_in_fp16_says_that_it_is_the_upload_once_more(tmp_path: Path) -> None:
    report = reported(linear_regressor(), np.random.default_rng(1).normal(0, 1, (64, 4)), tmp_path)
    assert [operator["precision"] for operator in report["operators"]] == ["FP32"]
    assert (
        "no operator of this engine computes in FP16: it is the upload once more, for example LinearRegressor 'linear' "
        "in FP32: ONNX does not define LinearRegressor in FP16; keep serving the reference"
    ) in report["warnings"]
