"""What the saturation benchmark does before and after the emulator runs."""

from __future__ import annotations

import json
import platform
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks.emulator import emulator
from benchmarks.errors import CannotMeasure
from benchmarks.options import DIGITS
from benchmarks.pipeline_run import Case, run_pipeline
from benchmarks.saturation import judge
from benchmarks.seven_bits import write_seven_bits
from benchmarks.stage_for_cpu import run_stage
from service.domain.recipe import Budget, Calibration, Recipe, Tuning
from service.engines.fingerprint import host_fingerprint
from service.errors import InvalidRequest

RECIPE = Recipe(runtime="onnxruntime", calibration=Calibration(rows=32), tuning=Tuning.none())
STAGES = ("inspect", "calibrate", "convert")
REDUCED = "larger ones could leave the 16 bits"


@pytest.fixture
def case(tmp_path: Path) -> Case:
    digits = Case("digits", DIGITS / "digits.onnx", DIGITS, Budget(), 32, 32, 1)
    digits.prepare(tmp_path)
    return digits


def reduced(folder: Path) -> int:
    plan = json.loads((folder / "onnxruntime" / "plan.json").read_text())
    return sum(REDUCED in operator["reason"] for operator in plan["operators"])


def largest_integer(folder: Path) -> int:
    """Of all INT8 constants of the converted graph."""
    graph = onnx.load_model(folder / "onnxruntime" / "converted.onnx").graph
    weights = [onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer if tensor.data_type == 3]
    return max(int(np.abs(weight.astype(np.int32)).max(initial=0)) for weight in weights)


def test_a_plan_is_made_for_the_cpu_whose_flags_are_handed_in(case: Case, tmp_path: Path) -> None:
    run_pipeline(case, RECIPE, tmp_path / "avx2", STAGES, ("avx2",))
    run_pipeline(case, RECIPE, tmp_path / "vnni", STAGES, ("avx2", "avx512_vnni"))
    assert reduced(tmp_path / "avx2") > 0
    assert reduced(tmp_path / "vnni") == 0


def test_seven_bits_reach_every_weight_and_nothing_else(case: Case, tmp_path: Path) -> None:
    eight = run_pipeline(case, RECIPE, tmp_path / "eight", STAGES, ("avx512_vnni",))
    write_seven_bits(eight.folder, tmp_path / "seven", "onnxruntime")
    assert largest_integer(eight.folder) == 127
    assert largest_integer(tmp_path / "seven") == 64
    plans = [json.loads((tmp_path / name / "onnxruntime" / "plan.json").read_text()) for name in ("eight", "seven")]
    assert plans[0]["activations"] == plans[1]["activations"]


def test_the_flags_that_were_handed_in_are_gone_after_a_stage_that_failed() -> None:
    before = host_fingerprint()
    with pytest.raises(InvalidRequest):
        run_stage({"stage": "unknown", "cpu_flags": ["avx2"]}, lambda share: None)
    assert host_fingerprint() == before


def test_the_difference_is_the_largest_between_the_two_cpus() -> None:
    reference = np.array([[3.0, 1.0], [0.0, 2.0]], np.float32)
    saturated = reference + np.array([[0, 0], [2.5, 0]], np.float32)
    found = judge(0.9, reference, (reference, saturated))
    assert (found.agreement, found.emulated_agreement, found.difference) == (1.0, 0.5, 2.5)


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_without_an_emulator_the_next_step_is_told(monkeypatch: pytest.MonkeyPatch, machine: str) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    wanted = "apt-get install qemu-user" if machine == "x86_64" else "x86_64 Python"
    with pytest.raises(CannotMeasure, match=wanted):
        emulator()
