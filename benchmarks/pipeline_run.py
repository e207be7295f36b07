"""One build as a job's worker makes it: each stage in a sandboxed child process of its own, on files in one folder."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.dataset_rows import take_rows
from benchmarks.errors import CannotMeasure
from benchmarks.mac_share import count_macs, int8_share
from benchmarks.stage_memory import StageMemory
from service.domain.limits import StageLimits
from service.domain.recipe import Budget, Recipe
from service.errors import OctavoError
from service.quantization.pipeline import STAGES, PipelineTask
from service.quantization.sandbox.parent import run_in_sandbox

_RUN_STAGE = "service.quantization.pipeline:run_stage"
_RUN_STAGE_FOR_CPU = "benchmarks.stage_for_cpu:run_stage"


@dataclass(frozen=True)
class Case:
    """What is built, on the first rows of `data`'s calibration.npz and validation.npz."""

    name: str
    model: Path
    data: Path
    budget: Budget
    calibration_rows: int
    validation_rows: int
    threads: int

    def prepare(self, folder: Path) -> None:
        """Writes the rows that are used, as an upload would leave them, to calibration.npz and validation.npz."""
        for split, rows in (("calibration", self.calibration_rows), ("validation", self.validation_rows)):
            take_rows(self.data / f"{split}.npz", rows, folder / f"{split}.npz")


@dataclass(frozen=True)
class Build:
    """What the stages left in `folder`, how long each took and the most memory that its process held."""

    folder: Path
    summaries: dict[str, dict[str, Any]]
    seconds: dict[str, float]
    peak_bytes: dict[str, int]

    @property
    def engine(self) -> Path:
        return self.folder / str(self.summaries["gate"]["engine_file"])

    @property
    def verdict(self) -> str:
        return str(self.summaries["gate"]["verdict"])

    def metric(self, name: str) -> dict[str, Any]:
        """Of the report: value of the reference and of the engine, and the loss."""
        found: dict[str, Any] = json.loads((self.folder / "report.json").read_text())["metrics"][name]
        return found

    def int8_share(self, runtime: str) -> float:
        """The share of multiply-accumulates that the built engine runs in INT8."""
        built = json.loads((self.folder / "build.json").read_text())["engines"][runtime]
        names = {operator["name"] for operator in built["executed"] if operator["int8"]}
        return int8_share(count_macs(self.folder / "prepared.onnx"), names)


def run_pipeline(
    case: Case, recipe: Recipe, folder: Path, stages: Sequence[str] = STAGES, cpu_flags: Sequence[str] | None = None
) -> Build:
    """Runs the stages on the rows that `case.prepare` left beside `folder`, for this CPU or for one with `cpu_flags`.

    Raises CannotMeasure where one fails.
    """
    task = PipelineTask(
        folder=folder,
        model=case.model.absolute(),
        recipe=recipe,
        budget=case.budget,
        calibration=folder.parent / "calibration.npz",
        validation=folder.parent / "validation.npz",
        threads=case.threads,
    )
    folder.mkdir(exist_ok=True)
    started_by = _RUN_STAGE if cpu_flags is None else _RUN_STAGE_FOR_CPU
    build = Build(folder, {}, {}, {})
    for stage in stages:
        started = time.monotonic()
        arguments = {"stage": stage, "task": task.to_json(), "cpu_flags": cpu_flags}
        try:
            with StageMemory(os.getpid()) as memory:
                build.summaries[stage] = run_in_sandbox(started_by, arguments, limits=StageLimits())
        except OctavoError as error:
            raise CannotMeasure(f"stage {stage} of {case.name} failed: {error}") from error
        build.seconds[stage] = time.monotonic() - started
        build.peak_bytes[stage] = max(memory.children.values(), default=0)
    return build
