"""The pipeline's stages by name, run one at a time: inspect, calibrate, convert, build, validate, gate.

Each stage reads what earlier ones left in the task's folder and writes its own files whole or not at all, so a stage
that was killed is simply run again. Stages are imported when run: whoever only names them stays light.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from service.errors import InvalidRequest
from service.quantization.recipes import available_runtimes
from service.quantization.task import PipelineTask, Progress

__all__ = ["STAGES", "PipelineTask", "available_runtimes", "run_stage"]

STAGES = ("inspect", "calibrate", "convert", "build", "validate", "gate")
_MODULES = {
    "inspect": "preparation.preparation",
    "calibrate": "calibration.calibration",
    "convert": "conversion.conversion",
    "build": "builders.building",
    "validate": "proof.validation",
    "gate": "proof.gate",
}

StageFunction = Callable[[PipelineTask, Progress], dict[str, Any]]


def run_stage(arguments: dict[str, Any], report_progress: Progress) -> dict[str, Any]:
    """Runs `arguments["stage"]` on `arguments["task"]` (a PipelineTask as JSON), for the sandbox.

    Returns a small summary with `files`, the names written in the folder, and `skipped` where nothing was to do; the
    gate's holds the verdict. Raises any InvalidInput, EngineFailed or StageFailed.
    """
    stage = arguments["stage"]
    if stage not in _MODULES:
        raise InvalidRequest(f"stage is {stage!r}; send one of {', '.join(STAGES)}")
    task = PipelineTask.from_json(arguments["task"])
    module = import_module(f"service.quantization.{_MODULES[stage]}")
    function: StageFunction = getattr(module, f"{stage}_stage")
    return function(task, report_progress)
