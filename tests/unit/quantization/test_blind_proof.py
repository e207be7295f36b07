"""What cannot be told is no proof: outputs of one number a row, models that answer with NaN, an output unseen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, helper, numpy_helper

from service.domain.recipe import BatchProfile, Budget, Recipe, Tuning
from service.quantization.pipeline import STAGES, PipelineTask, run_stage
from service.quantization.proof import latency
from tests.unit.quantization.small_models import model_of, saved, saved_rows, value

RANDOM = np.random.default_rng(4)


@pytest.fixture(autouse=True)
def short_timings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "MAX_ROUNDS", 12)


def judged(model: ModelProto, calibration: Any, validation: Any, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The gate's findings and the report."""
    files = [saved_rows(folder / f"{name}.npz", x=rows) for name, rows in (("c", calibration), ("v", validation))]
    recipe = Recipe(runtime="onnxruntime", batch=BatchProfile(1, 2, 4), tuning=Tuning.none())
    task = PipelineTask(folder / "job", saved(model, folder / "m.onnx"), recipe, Budget(), files[0], files[1], 1)
    found = [run_stage({"stage": stage, "task": task.to_json()}, lambda fraction: None) for stage in STAGES]
    return found[-1], json.loads((task.folder / "report.json").read_text())


def layers(classes: int, last: str) -> ModelProto:
    """y = last(Sigmoid(x w) v), FP32 [batch, 8] to [batch, classes]."""
    constants = {
        "w": RANDOM.normal(0, 1, (8, 8)).astype(np.float32),
        "v": np.abs(RANDOM.normal(0, 2, (8, classes))).astype(np.float32),
    }
    ends = (("MatMul", ["x", "w"], "a"), ("Sigmoid", ["a"], "b"), ("MatMul", ["b", "v"], "c"), (last, ["c"], "y"))
    nodes = [helper.make_node(kind, inputs, [made], made) for kind, inputs, made in ends]
    return model_of(nodes, [value("x", ["batch", 8])], [value("y", ["batch", classes])], constants)


def test_an_engine_of_one_number_a_row_that_always_gives_the_same_is_rejected(tmp_path: Path) -> None:
    # Calibrated on zeros alone, every input becomes zero.
    rows = RANDOM.normal(0, 1, (60, 8)).astype(np.float32)
    gate, _ = judged(layers(1, "Identity"), np.zeros_like(rows), rows, tmp_path)
    assert gate["verdict"] == "rejected"
    assert "outside the budget" in gate["certificate"]["reason"]


def test_an_engine_beside_a_model_that_gives_nan_alone_is_rejected(tmp_path: Path) -> None:
    rows = RANDOM.normal(0, 1, (40, 8)).astype(np.float32)
    model = layers(3, "Log")
    model.graph.initializer[1].raw_data = (-np.ones((8, 3), np.float32)).tobytes()
    gate, report = judged(model, rows, rows[::-1] * np.float32(0.9), tmp_path)
    assert gate["verdict"] == "rejected"
    assert "output 'y' of the reference is NaN or infinite everywhere" in gate["certificate"]["reason"]
    assert any("NaN or infinite" in warning for warning in report["warnings"])


def test_an_engine_that_ruins_the_second_of_two_heads_is_rejected(tmp_path: Path) -> None:
    # Columns that the second head alone reads are a 2000th of the others: they round to zero.
    weights = {name: np.zeros((8, 4), np.float32) for name in ("w", "v")}
    weights["w"][:4], weights["v"][4:] = RANDOM.normal(0, 1, (2, 4, 4))
    nodes = [helper.make_node("MatMul", ["x", name], [f"{name}_scores"], name) for name in weights]
    ends = [value(f"{name}_scores", ["batch", 4]) for name in weights]
    rows = RANDOM.normal(0, 1, (60, 8)).astype(np.float32)
    rows[:, :4] *= 2000
    gate, report = judged(model_of(nodes, [value("x", ["batch", 8])], ends, weights), rows, rows[::-1], tmp_path)
    assert gate["verdict"] == "rejected"
    assert gate["certificate"]["reason"].startswith("agreement of output 'v_scores' went from 1.0000 to 0.")
    assert "agreement of v_scores" in (tmp_path / "job/report.html").read_text()
    assert report["metrics"]["agreement"]["output"] == "v_scores"


def test_rows_that_are_nan_are_not_counted_as_proof(tmp_path: Path) -> None:
    # Log of a sum of the input itself: NaN where the row is negative.
    model = layers(3, "Identity")
    model.graph.node[-1].output[0] = "d"
    for node in (
        helper.make_node("ReduceSum", ["x", "axis"], ["sum"], "sum"),
        helper.make_node("Log", ["sum"], ["log"], "log"),
        helper.make_node("Add", ["d", "log"], ["y"], "add"),
    ):
        model.graph.node.append(node)
    model.graph.initializer.append(numpy_helper.from_array(np.array([1]), "axis"))
    rows = np.abs(RANDOM.normal(0, 1, (40, 8))).astype(np.float32)
    few, most = rows * np.float32(0.9), rows * np.float32(0.9)
    few[30:] *= -1
    most[1:] *= -1
    gate, _ = judged(model, rows, few, tmp_path)
    assert gate["verdict"] == "passed"
    assert gate["certificate"]["reason"].endswith("on 30 of 40 validation rows")
    gate, _ = judged(model, rows, most, tmp_path)
    assert gate["verdict"] == "rejected"
    assert "holds no finite value in 39 of 40 validation rows" in gate["certificate"]["reason"]
