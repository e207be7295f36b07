"""Hard networks through the whole pipeline by the default recipe: swish and gates keep accuracy, scores survive."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from models.detector.make import draw_scenes, make_detector, split_output
from service.domain.recipe import BatchProfile, Budget, Recipe
from service.engines.onnxruntime_engine import OnnxRuntimeEngine
from service.quantization.builders.builder import builder_for
from service.quantization.pipeline import STAGES, PipelineTask, available_runtimes, run_stage

MODELS = Path(__file__).parents[3] / "models"
RUNTIMES = [runtime for runtime in available_runtimes() if runtime in ("onnxruntime", "openvino")]
ONE_ROW = BatchProfile(1, 1, 1)
THRESHOLD = 0.25


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("detector") / "detector.onnx"
    onnx.save_model(make_detector(), path)
    return path


def built(folder: Path, model: Path, runtime: str, budget: Budget) -> tuple[dict[str, Any], Path]:
    """The gate's summary and the engine, from the calibration.npz and validation.npz in `folder`."""
    recipe = Recipe(runtime=runtime, batch=ONE_ROW)
    task = PipelineTask(
        folder=folder / "build",
        model=model,
        recipe=recipe,
        budget=budget,
        calibration=folder / "calibration.npz",
        validation=folder / "validation.npz",
        threads=1,
    )
    summary: dict[str, Any] = {}
    for stage in STAGES:
        summary = run_stage({"stage": stage, "task": task.to_json()}, lambda fraction: None)
    return summary, task.folder / summary["engine_file"]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_depthwise_layers_swish_and_gates_in_full_int8_lose_at_most_one_percent(tmp_path: Path, runtime: str) -> None:
    for split in ("calibration", "validation"):
        with np.load(MODELS / "digits" / f"{split}.npz") as arrays:
            np.savez(tmp_path / f"{split}.npz", input=arrays["input"], labels=arrays["labels"])
    model = MODELS / "digits_swish" / "digits_swish.onnx"
    summary, _ = built(tmp_path, model, runtime, Budget("top1", 0.01))
    report = json.loads((tmp_path / "build" / "report.json").read_text())
    weighted = [entry for entry in report["operators"] if entry["operator"] in ("Conv", "Gemm")]
    assert [entry["name"] for entry in weighted if entry["precision"] != "INT8" or entry["runs_int8"] is False] == []
    assert summary["verdict"] == "passed", summary["certificate"]["reason"]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_scores_survive_beside_boxes_of_hundreds_in_one_concat(tmp_path: Path, detector: Path, runtime: str) -> None:
    scenes = draw_scenes(2, 40).images
    np.savez(tmp_path / "calibration.npz", input=draw_scenes(1, 24).images)
    np.savez(tmp_path / "validation.npz", input=scenes)
    _, file = built(tmp_path, detector, runtime, Budget("cosine", 0.01))
    reference = OnnxRuntimeEngine.load(detector, 1).infer({"input": scenes})["detections"]
    given = builder_for(runtime).load(file, 1).infer({"input": scenes})["detections"]
    (boxes, scores), (given_boxes, given_scores) = split_output(reference), split_output(given)
    found = scores >= THRESHOLD
    assert found.sum() > 200
    assert np.abs(given_scores - scores)[found].mean() < 0.05
    assert (given_scores >= THRESHOLD)[found].mean() > 0.9
    assert np.abs(given_boxes - boxes).mean() < 5
