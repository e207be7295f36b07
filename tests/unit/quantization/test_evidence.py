"""What a certificate says of the rows that it rests on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from service.quantization.pipeline import PipelineTask
from service.quantization.proof import latency
from tests.unit.quantization.pipeline_runs import classifier_task, report_of, run_all


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PipelineTask:
    monkeypatch.setattr(latency, "MAX_ROUNDS", 12)
    return classifier_task(tmp_path)


def test_without_a_validation_set_the_calibration_rows_judge_and_the_report_says_so(task: PipelineTask) -> None:
    gate = run_all(replace(task, validation=None))["gate"]
    assert gate["certificate"]["reason"].endswith("on 64 calibration rows")
    assert gate["certificate"]["independent"] is False
    report = report_of(task)
    assert report["validation"]["on"] == "calibration"
    assert any("measured on the calibration rows, which proves less" in warning for warning in report["warnings"])


def test_half_without_a_calibration_set_measures_its_ranges_on_the_rows_that_judge(task: PipelineTask) -> None:
    half = replace(task, recipe=replace(task.recipe, precision="fp16"))
    assert run_all(half)["gate"]["certificate"]["independent"] is True
    gate = run_all(replace(half, calibration=None))["gate"]
    assert gate["certificate"]["independent"] is False
    assert any("ranges were measured on the validation rows too" in warning for warning in report_of(task)["warnings"])


def test_validation_rows_that_calibration_saw_are_warned_of(task: PipelineTask) -> None:
    gate = run_all(replace(task, calibration=task.validation))["gate"]
    assert gate["certificate"]["independent"] is False
    assert any("200 validation rows are calibration rows too" in warning for warning in report_of(task)["warnings"])
