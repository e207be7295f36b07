"""A runtime that ends a stage's process costs the job that runtime, where there is another."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from service.domain.limits import StageLimits
from service.domain.recipe import Budget, Recipe
from service.errors import StageCrashed
from service.jobs.left_out import run_leaving_out
from service.quantization.sandbox.parent import run_in_sandbox
from service.quantization.task import PipelineTask

_TRY = "tests.unit.quantization.sandbox_tasks:try_runtimes"
_FAIL = "tests.unit.quantization.sandbox_tasks:crash"
BOTH = ["onnxruntime", "openvino"]


def ran(folder: Path, crashing: list[str], runtime: str = "auto", stage: str = _TRY) -> dict[str, Any]:
    task = PipelineTask(folder, folder / "model.onnx", Recipe(runtime=runtime), Budget(), None, None, 1)
    tried = BOTH if runtime == "auto" else [runtime]
    arguments = {"task": task.to_json(), "runtimes": tried, "crashing": crashing}
    return run_leaving_out(task, partial(run_in_sandbox, stage, arguments, limits=StageLimits()))


def test_a_stage_runs_once_where_no_runtime_crashes(tmp_path: Path) -> None:
    assert ran(tmp_path, []) == {"onnxruntime": "ran", "openvino": "ran"}


@pytest.mark.parametrize("crashing", BOTH)
def test_a_stage_runs_again_without_the_runtime_that_crashed_it(tmp_path: Path, crashing: str) -> None:
    told = ran(tmp_path, [crashing])
    other = next(runtime for runtime in BOTH if runtime != crashing)
    assert told[other] == "ran"
    assert f"the engine for {crashing} ended the process that ran it" in told[crashing]


def test_a_runtime_that_was_left_out_is_not_tried_by_later_stages(tmp_path: Path) -> None:
    ran(tmp_path, ["openvino"])
    assert ran(tmp_path, ["openvino"])["onnxruntime"] == "ran"


def test_a_stage_whose_every_runtime_crashes_tells_so_of_each(tmp_path: Path) -> None:
    assert all("ended the process" in told for told in ran(tmp_path, BOTH).values())


def test_a_runtime_that_was_named_fails_the_stage_with_how_it_ended(tmp_path: Path) -> None:
    with pytest.raises(StageCrashed, match="SIGSEGV"):
        ran(tmp_path, ["openvino"], runtime="openvino")


def test_a_crash_outside_any_runtime_fails_the_stage_at_once(tmp_path: Path) -> None:
    with pytest.raises(StageCrashed, match="SIGSEGV"):
        ran(tmp_path, [], stage=_FAIL)
