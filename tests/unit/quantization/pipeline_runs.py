"""The pipeline's stages run in process, and the shipped digits model as what they work on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from service.domain.recipe import BatchProfile, Budget, Calibration, Recipe
from service.quantization.pipeline import STAGES, PipelineTask, run_stage
from tests.unit.quantization.int8 import run
from tests.unit.quantization.small_models import classifier, images, saved, saved_rows

DIGITS = Path(__file__).parents[3] / "models" / "digits"
BATCH = BatchProfile(1, 2, 4)


def classifier_task(folder: Path) -> PipelineTask:
    """INT8 of the small classifier, whose own float decisions are the labels, in `folder`/job."""
    path = saved(classifier(), folder / "model.onnx")
    rows = {name: images(count, seed) for name, count, seed in (("calibration", 64, 1), ("validation", 200, 2))}
    files = {}
    for name, values in rows.items():
        labels = run(classifier(), {"x": values}, folder)["scores"].argmax(axis=1)
        files[name] = saved_rows(folder / f"{name}.npz", x=values, labels=labels)
    recipe = Recipe(runtime="onnxruntime", batch=BATCH, calibration=Calibration(rows=64))
    return PipelineTask(
        folder / "job", path, recipe, Budget(max_loss=0.05), files["calibration"], files["validation"], 1
    )


def digits_task(folder: Path, recipe: Recipe) -> PipelineTask:
    """The digits model and its rows, a budget of 1 % and one thread, in `folder`/job."""
    calibration, validation = (digits_rows(name, folder) for name in ("calibration", "validation"))
    return PipelineTask(
        folder / "job", DIGITS / "digits.onnx", recipe, Budget(max_loss=0.01), calibration, validation, 1
    )


def digits_rows(name: str, folder: Path) -> Path:
    """The shipped rows as the registry keeps them: not compressed."""
    with np.load(DIGITS / f"{name}.npz") as archive:
        return saved_rows(folder / f"{name}.npz", **archive)


def run_one(task: PipelineTask, stage: str) -> dict[str, Any]:
    return run_stage({"stage": stage, "task": task.to_json()}, lambda fraction: None)


def run_all(task: PipelineTask) -> dict[str, dict[str, Any]]:
    """What each stage says, by its name."""
    return {stage: run_one(task, stage) for stage in STAGES}


def gate_of(task: PipelineTask) -> dict[str, Any]:
    """What the last stage says, once all have run."""
    return run_all(task)["gate"]


def report_of(task: PipelineTask) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((task.folder / "report.json").read_text())
    return report
