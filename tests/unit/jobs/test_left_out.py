"""A runtime that ends a stage's process costs the job that runtime, where there is another."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from service.domain.limits import StageLimits
from service.domain.recipe import Budget, Recipe
from service.errors import StageCrashed, StageFailed, StageMemoryLimit, StageTimeLimit
from service.jobs.left_out import run_leaving_out
from service.quantization.attempts import attempt
from service.quantization.sandbox.parent import run_in_sandbox
from service.quantization.task import PipelineTask
from tests.unit.quantization.sandbox_tasks import WAYS_OUT

_TRY = "tests.unit.quantization.sandbox_tasks:try_runtimes"
_CRASH = "tests.unit.quantization.sandbox_tasks:crash"
BOTH = ["onnxruntime", "openvino"]


@dataclass
class Stage:
    """Tries runtimes in a real child; `ways` tells how one ends the process, `runs` counts the children."""

    folder: Path
    ways: dict[str, str] = field(default_factory=dict)
    runtime: str = "auto"
    task: str = _TRY
    limits: StageLimits = field(default_factory=StageLimits)
    runs: int = 0

    def run(self) -> dict[str, Any]:
        recipe = Recipe(runtime=self.runtime)
        return run_leaving_out(
            PipelineTask(self.folder, self.folder / "model.onnx", recipe, Budget(), None, None, 1), self._child
        )

    def _child(self, task: PipelineTask) -> dict[str, Any]:
        self.runs += 1
        tried = BOTH if self.runtime == "auto" else [self.runtime]
        arguments = {"task": task.to_json(), "runtimes": tried, "ways": self.ways}
        return run_in_sandbox(self.task, arguments, limits=self.limits)


def test_a_stage_runs_once_where_no_runtime_crashes(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    assert stage.run() == {"onnxruntime": "ran", "openvino": "ran"}
    assert stage.runs == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("crashing", BOTH)
def test_a_stage_runs_again_without_the_runtime_that_crashed_it(tmp_path: Path, crashing: str) -> None:
    stage = Stage(tmp_path, {crashing: "segfault"})
    told = stage.run()
    other = next(runtime for runtime in BOTH if runtime != crashing)
    assert told[other] == "ran"
    assert f"{crashing} is left out" in told[crashing]
    assert "SIGSEGV" in told[crashing]
    assert told[crashing].endswith(f"a job whose recipe names {crashing} alone ends with that")
    assert stage.runs == 2


@pytest.mark.parametrize(
    ("way", "limits"),
    [
        ("memory", StageLimits()),
        ("kill", StageLimits()),
        ("bug", StageLimits()),
        ("hang", StageLimits(time_seconds=3)),
    ],
)
def test_every_way_of_ending_a_stage_leaves_only_its_runtime_out(tmp_path: Path, way: str, limits: StageLimits) -> None:
    assert way in WAYS_OUT
    told = Stage(tmp_path, {"openvino": way}, limits=limits).run()
    assert told["onnxruntime"] == "ran"
    assert "openvino is left out" in told["openvino"]


def test_a_stage_that_was_long_anyway_is_not_blamed_on_the_runtime_that_came_last(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {"onnxruntime": "work", "openvino": "hang"}, limits=StageLimits(time_seconds=4))
    with pytest.raises(StageTimeLimit):
        stage.run()
    assert stage.runs == 1


def test_a_runtime_that_only_refuses_does_not_end_the_stage(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {"openvino": "refuse"})
    assert stage.run() == {"onnxruntime": "ran", "openvino": "it refuses"}
    assert stage.runs == 1


def test_a_stage_whose_every_runtime_crashes_fails_with_how_the_last_one_ended(tmp_path: Path) -> None:
    stage = Stage(tmp_path, dict.fromkeys(BOTH, "segfault"))
    with pytest.raises(StageCrashed, match="SIGSEGV"):
        stage.run()
    assert stage.runs == 2


def test_the_only_engine_that_was_built_is_not_tried_twice(tmp_path: Path) -> None:
    (tmp_path / "build.json").write_text('{"engines": {"openvino": {}}}')
    stage = Stage(tmp_path, {"openvino": "segfault"})
    with pytest.raises(StageCrashed, match="SIGSEGV"):
        stage.run()
    assert stage.runs == 1


@pytest.mark.parametrize(
    ("way", "error"), [("segfault", StageCrashed), ("kill", StageMemoryLimit), ("hang", StageTimeLimit)]
)
def test_a_runtime_that_was_named_fails_the_stage_with_how_it_ended(
    tmp_path: Path, way: str, error: type[StageFailed]
) -> None:
    stage = Stage(tmp_path, {"openvino": way}, runtime="openvino", limits=StageLimits(time_seconds=3))
    with pytest.raises(error):
        stage.run()
    assert stage.runs == 1


def test_a_crash_outside_any_runtime_fails_the_stage_at_once(tmp_path: Path) -> None:
    stage = Stage(tmp_path, task=_CRASH)
    with pytest.raises(StageCrashed, match="SIGSEGV"):
        stage.run()
    assert stage.runs == 1


def test_what_a_killed_worker_was_trying_is_tried_again(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    task = PipelineTask(tmp_path, tmp_path / "model.onnx", Recipe(), Budget(), None, None, 1)
    with pytest.raises(KeyboardInterrupt), attempt(task, "openvino"):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()), "the attempt left no mark"
    assert stage.run() == {"onnxruntime": "ran", "openvino": "ran"}
