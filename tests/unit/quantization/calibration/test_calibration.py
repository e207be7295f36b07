"""The calibrate stage: one file for every recipe on a graph and its rows, reused, resumed, and checked."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from service.domain.recipe import METHODS, Budget, Calibration, Recipe
from service.errors import StageFailed
from service.quantization.calibration import observation
from service.quantization.calibration.calibrated import Calibrated
from service.quantization.calibration.calibration import calibrate_stage
from service.quantization.preparation.preparation import inspect_stage
from service.quantization.task import PipelineTask
from tests.unit.quantization.small_models import (
    classifier,
    fp32,
    images,
    model_of,
    saved,
    saved_rows,
    value,
)
from tests.waiting import wait_until


@pytest.fixture
def task(tmp_path: Path) -> PipelineTask:
    path = saved(classifier(), tmp_path / "model.onnx")
    rows = saved_rows(tmp_path / "rows.npz", x=images(100, 1))
    other = saved_rows(tmp_path / "other.npz", x=images(40, 2))
    task = PipelineTask(tmp_path / "job", path, Recipe(), Budget(), rows, other, 1)
    inspect_stage(task, lambda fraction: None)
    return task


def calibrate(task: PipelineTask) -> dict[str, Any]:
    return calibrate_stage(task, lambda fraction: None)


def ranges_of(task: PipelineTask) -> Any:
    recipe, seen = task.recipe, seen_in(task)
    return seen.ranges(seen.histograms, recipe.calibration, recipe.scheme == "symmetric")


def with_method(task: PipelineTask, method: str, **more: Any) -> PipelineTask:
    return replace(task, recipe=Recipe(calibration=Calibration(method), **more))


def seen_in(task: PipelineTask) -> Calibrated:
    return Calibrated.load(task.folder / "calibration.npz")


def test_every_float_tensor_is_seen_whatever_the_recipe_keeps_in_float(task: PipelineTask) -> None:
    found = calibrate(with_method(task, "mse", keep_float=("dw", "op:Gemm")))
    assert found["files"] == ["calibration.npz", "calibrate.json"]
    assert (found["rows"], found["on"], found["tensors"], found["reused"]) == (100, "calibration", 9, False)
    seen = seen_in(task)
    assert seen.rows == 100
    for tensor in ("x", "b", "c", "d", "e", "f", "g", "h", "i", "scores"):
        low, high = seen.extremes(tensor)
        assert low < high


@pytest.mark.parametrize("method", METHODS)
def test_another_method_reuses_the_file_and_finds_the_ranges_of_a_fresh_pass(task: PipelineTask, method: str) -> None:
    calibrate(with_method(task, "entropy"))
    wanted = with_method(task, method)
    assert calibrate(wanted)["reused"] is True
    reused = ranges_of(task)
    (task.folder / "calibration.npz").unlink()
    assert calibrate(wanted)["reused"] is False
    assert ranges_of(task) == reused


def test_other_rows_do_not_reuse_it(task: PipelineTask, tmp_path: Path) -> None:
    calibrate(task)
    rows = images(100, 1)
    rows[99, 0, 0, 0] += 1
    other = replace(task, calibration=saved_rows(tmp_path / "changed.npz", x=rows))
    assert calibrate(other)["reused"] is False
    fewer = replace(task, recipe=Recipe(calibration=Calibration(rows=50)))
    assert calibrate(fewer)["reused"] is False
    assert seen_in(task).rows == 50


def test_another_graph_does_not_reuse_it(task: PipelineTask, tmp_path: Path) -> None:
    calibrate(task)
    other = replace(task, model=saved(classifier(seed=4), tmp_path / "other.onnx"))
    inspect_stage(other, lambda fraction: None)
    assert calibrate(other)["reused"] is False


@pytest.mark.parametrize("damage", [lambda content: content[: len(content) // 2], lambda content: b"x" * len(content)])
def test_a_damaged_file_is_noticed_and_made_again(task: PipelineTask, damage: Callable[[bytes], bytes]) -> None:
    calibrate(task)
    fresh = ranges_of(task)
    file = task.folder / "calibration.npz"
    file.write_bytes(damage(file.read_bytes()))
    assert calibrate(task)["reused"] is False
    assert ranges_of(task) == fresh
    assert calibrate(task)["reused"] is True


def test_fp32_needs_none(task: PipelineTask) -> None:
    assert calibrate(replace(task, recipe=Recipe("fp32"))) == {"skipped": True, "files": []}


def test_fp16_calibrates_on_the_judging_rows_where_it_has_no_others(task: PipelineTask) -> None:
    found = calibrate(replace(task, recipe=Recipe("fp16"), calibration=None))
    assert found["files"] == ["calibration.npz", "calibrate.json"]
    assert (found["rows"], found["on"]) == (40, "validation")
    assert seen_in(task).extremes("scores")[1] > 0


def overflowing(folder: Path) -> PipelineTask:
    """y = x W, and z = 1 / x, which is infinite where x is zero."""
    nodes = [
        helper.make_node("Reciprocal", ["x"], ["z"], "reciprocal"),
        helper.make_node("MatMul", ["x", "w"], ["y"], "product"),
    ]
    outputs = [value("y", ["batch", 4]), value("z", ["batch", 4])]
    model = model_of(nodes, [value("x", ["batch", 4])], outputs, {"w": np.eye(4, dtype=np.float32)})
    rows = np.ones((40, 4), np.float32)
    rows[35] = fp32([0, 1, 2, 3])
    path, data = saved(model, folder / "m.onnx"), saved_rows(folder / "r.npz", x=rows)
    task = PipelineTask(folder / "o", path, Recipe(), Budget("mae", 1), data, None, 1)
    inspect_stage(task, lambda fraction: None)
    return task


def test_infinite_values_that_no_weight_multiplies_end_nothing_but_have_no_range(tmp_path: Path) -> None:
    task = overflowing(tmp_path)
    calibrate(task)
    seen = seen_in(task)
    assert seen.extremes("y") == (0, 3)
    with pytest.raises(StageFailed, match="tensor 'z' is NaN or infinite 1 times"):
        seen.extremes("z")


def test_infinite_values_that_a_weight_multiplies_end_the_stage(tmp_path: Path) -> None:
    task = overflowing(tmp_path)
    rows = np.ones((40, 4), np.float32)
    rows[35, 2] = np.inf
    with pytest.raises(StageFailed, match="tensor 'x' is NaN or infinite within rows 32 to 39"):
        calibrate(replace(task, calibration=saved_rows(tmp_path / "bad.npz", x=rows)))


def test_infinite_values_that_only_operators_kept_in_float_multiply_end_nothing(tmp_path: Path) -> None:
    task = overflowing(tmp_path)
    rows = np.ones((40, 4), np.float32)
    rows[35, 2] = np.inf
    kept = replace(task, recipe=Recipe(keep_float=("prod*",)))
    assert calibrate(replace(kept, calibration=saved_rows(tmp_path / "bad.npz", x=rows)))["rows"] == 40


_KILLED = """
import json, sys, time
from service.quantization.calibration import calibration, observation
from service.quantization.task import PipelineTask
calibration.CHECKPOINT_SECONDS = 0.0
observation._MAX_BATCH_ROWS = 2
# Only this child is slow: its parent has to meet it half way.
calibration.calibrate_stage(PipelineTask.from_json(json.loads(sys.argv[1])), lambda fraction: time.sleep(0.02))
"""


def test_a_killed_pass_goes_on_from_its_last_checkpoint(task: PipelineTask, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = task.folder / "calibration.partial.npz"
    child = subprocess.Popen([sys.executable, "-c", _KILLED, json.dumps(task.to_json())])
    try:
        wait_until(lambda: checkpoint.exists() and Calibrated.load(checkpoint).rows >= 10)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    done = Calibrated.load(checkpoint).rows
    assert 0 < done < 100
    # Pairs of rows as in the child, for a runtime's rounding may differ between batch sizes.
    monkeypatch.setattr(observation, "_MAX_BATCH_ROWS", 2)
    progress: list[float] = []
    assert calibrate_stage(task, progress.append)["rows"] == 100
    assert progress[0] == pytest.approx((done + 2) / 100)
    assert not checkpoint.exists()
    resumed = seen_in(task)
    (task.folder / "calibration.npz").unlink()
    calibrate(task)
    for name, histogram in seen_in(task).histograms.items():
        assert np.array_equal(histogram.bins, resumed.histograms[name].bins), name
        assert histogram.minimum == resumed.histograms[name].minimum


def test_a_checkpoint_of_other_rows_is_not_gone_on_from(task: PipelineTask) -> None:
    Calibrated.empty("another", ("x",), {}).save(task.folder / "calibration.partial.npz")
    assert calibrate(task)["tensors"] == 9
