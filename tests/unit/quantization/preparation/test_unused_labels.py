"""Labels that no output of a model can be held against are told of before anything is built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, helper

from service.domain.recipe import Budget, Recipe
from service.quantization.preparation.preparation import inspect_stage
from service.quantization.task import PipelineTask
from tests.unit.quantization.small_models import fp32, model_of, saved, saved_rows, value

_RANDOM = np.random.default_rng(2)
ROWS = fp32(_RANDOM.normal(0, 1, (8, 6)))


def odds(classes: int) -> ModelProto:
    nodes = [helper.make_node("Gemm", ["x", "w"], ["z"], "head"), helper.make_node("Sigmoid", ["z"], ["y"], "odds")]
    weight = {"w": fp32(_RANDOM.normal(0, 1, (6, classes)))}
    return model_of(nodes, [value("x", ("n", 6))], [value("y", ("n", classes))], weight)


def warnings_of(model: ModelProto, folder: Path, budget: Budget, **labels: Any) -> list[str]:
    rows = saved_rows(folder / "rows.npz", x=ROWS, **labels)
    task = PipelineTask(folder / "out", saved(model, folder / "model.onnx"), Recipe(), budget, rows, rows, 1)
    found: list[str] = inspect_stage(task, lambda fraction: None)["warnings"]
    return found


def test_labels_of_a_model_of_one_probability_a_row_are_warned_of_as_unused(tmp_path: Path) -> None:
    (warning,) = warnings_of(odds(1), tmp_path, Budget(), labels=np.zeros(8, np.int64))
    assert warning.startswith("the validation set has labels, but no output of the model is a vector of class scores")
    assert "cosine judges" in warning


@pytest.mark.parametrize(("classes", "metric"), [(2, None), (1, "mae")])
def test_labels_that_are_used_or_that_the_budget_leaves_out_are_not_warned_of(
    tmp_path: Path, classes: int, metric: str | None
) -> None:
    assert warnings_of(odds(classes), tmp_path, Budget(metric, 0.01), labels=np.zeros(8, np.int64)) == []


def test_rows_without_labels_are_not_warned_of(tmp_path: Path) -> None:
    assert warnings_of(odds(1), tmp_path, Budget()) == []
