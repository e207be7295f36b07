"""The stages in order on a small real model, in process and in the sandbox, and what the gate says at the end."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from service.domain.engine import Certificate
from service.domain.limits import MIB, StageLimits
from service.domain.recipe import Budget, Recipe
from service.engines.fingerprint import engine_fingerprint, host_fingerprint
from service.engines.onnxruntime_engine import OnnxRuntimeEngine
from service.quantization.pipeline import STAGES, PipelineTask
from service.quantization.planning.saturation import saturates
from service.quantization.proof import latency
from service.quantization.sandbox.parent import run_in_sandbox
from tests.unit.quantization.int8 import quantize
from tests.unit.quantization.pipeline_runs import classifier_task, report_of, run_all, run_one
from tests.unit.quantization.small_models import (
    classifier,
    images,
    model_of,
    saved,
    saved_rows,
    value,
)


@pytest.fixture(autouse=True)
def short_timings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "MAX_ROUNDS", 12)


@pytest.fixture
def task(tmp_path: Path) -> PipelineTask:
    """INT8 of the small classifier, whose own float decisions are the labels."""
    return classifier_task(tmp_path)


def test_an_int8_engine_within_the_budget_passes_with_a_certificate_for_this_host(task: PipelineTask) -> None:
    gate = run_all(task)["gate"]
    assert gate["verdict"] == "passed"
    certificate = Certificate.from_json(gate["certificate"])
    assert certificate.metric == "top1"
    assert certificate.fingerprint == engine_fingerprint("onnxruntime")
    assert certificate.loss is not None
    assert certificate.loss <= 0.05
    assert certificate.independent is True
    assert (gate["variant"], gate["runtime"], gate["precision"]) == ("int8-onnxruntime", "onnxruntime", "int8")
    assert gate["batch_max"] == 4
    engine_path = task.folder / gate["engine_file"]
    assert engine_path.stat().st_size == gate["size_bytes"]
    engine = OnnxRuntimeEngine.load(engine_path, 1)
    assert engine.infer({"x": images(3)})["scores"].shape == (3, 4)


def test_the_report_holds_every_figure_of_both_sides(task: PipelineTask) -> None:
    run_all(task)
    report = report_of(task)
    assert [taken["batch"] for taken in report["engine"]["latency"]] == [1, 2, 4]
    for side in ("reference", "engine"):
        assert set(report[side]["accuracy"]) == {"top1", "top5", "f1"}
        assert report[side]["disk_bytes"] > 0
        assert report[side]["latency"][0]["p99_seconds"] >= report[side]["latency"][0]["p50_seconds"] > 0
    assert set(report["metrics"]) == {"top1", "top5", "f1", "agreement", "top5_agreement", "mae", "cosine"}
    assert report["metrics"]["top1"]["reference"] == 1
    output = report["outputs"][0]
    assert output["name"] == "scores"
    assert 0 < output["mean_absolute_error"] <= output["p99"] <= output["max"]
    assert output["sqnr_db"] > 20
    assert sum(output["histogram"]["counts"]) == 800
    assert sum(entry["rows"] for entry in report["classes"]) == 200
    assert report["validation"] == {"rows": 200, "on": "validation", "labels": True}
    assert report["host"] == engine_fingerprint("onnxruntime").to_json()
    by_name = {entry["name"]: entry for entry in report["operators"]}
    assert (by_name["stem"]["precision"], by_name["stem"]["runs_as"]) == ("INT8", "QLinearConv")
    assert "int8-onnxruntime" in (task.folder / "report.html").read_text()


def test_the_report_explains_the_loss_and_binds_the_certificate(task: PipelineTask) -> None:
    run_all(task)
    report = report_of(task)
    legs = {leg["leg"]: leg["loss"] for leg in report["loss_split"]["legs"]}
    assert list(legs) == ["float_graph", "plan", "engine"]
    assert {check["held"] for check in report["consistency"]} == {True}
    assert {"stem", "dw", "pw", "head"} <= {entry["name"] for entry in report["waterfall"]["operators"]}
    assert sum(entry["share"] for entry in report["waterfall"]["operators"]) == pytest.approx(1)
    assert report["tails"]["worst_class"]["rows"] > 0
    assert report["int8_mac_share"] == 1
    assert [entry["name"] for entry in report["lint"] if entry["executed"] not in (None, entry["predicted"])] == []
    assert report["headline"]["loss"] == report["certificate"]["loss"]
    for key, path in (("model_sha256", task.model), ("plan_sha256", task.folder / "onnxruntime" / "plan.json")):
        assert report["certificate"][key] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_what_tuning_did_is_in_the_report_and_scaled_tensors_are_not_compared(task: PipelineTask) -> None:
    for stage in STAGES[:-2]:
        run_one(task, stage)
    step = {"step": "equalization", "enabled": True, "kept": True, "sqnr_db_before": 9.0, "sqnr_db_after": 11.5,
            "seconds": 1.0, "note": ""}  # fmt: skip
    task.write("onnxruntime/tuning.json", [step])
    (task.folder / "onnxruntime/equalized.onnx").unlink(missing_ok=True)
    for stage in STAGES[-2:]:
        run_one(task, stage)
    report = report_of(task)
    assert report["tuning"] == [step]
    assert report["waterfall"]["operators"] == []
    assert any("waterfall: no operator's part can be told: channels were equalized" in w for w in report["warnings"])


def test_an_engine_outside_the_budget_is_rejected_with_numbers(task: PipelineTask) -> None:
    strict = replace(task, budget=Budget("mae", 1e-9))
    gate = run_all(strict)["gate"]
    assert gate["verdict"] == "rejected"
    assert gate["certificate"]["reason"].startswith("mae is 0.")
    assert "outside the budget of 1e-09, on 200 validation rows" in gate["certificate"]["reason"]
    assert (task.folder / gate["engine_file"]).exists()


@pytest.mark.parametrize(("precision", "largest_error"), [("fp32", 0.0), ("fp16", 0.05)])
def test_float_precisions_are_measured_alike_and_only_the_halved_calibrate(
    task: PipelineTask, precision: str, largest_error: float
) -> None:
    recipe = replace(task.recipe, precision=precision)
    done = run_all(replace(task, recipe=recipe, calibration=None))
    skipped = {"skipped": True, "files": []}
    assert done["calibrate"] == skipped if precision == "fp32" else done["calibrate"]["on"] == "validation"
    assert done["gate"]["variant"] == f"{precision}-onnxruntime"
    assert done["gate"]["verdict"] == "passed"
    assert report_of(task)["outputs"][0]["max"] <= largest_error
    assert {entry["precision"] for entry in report_of(task)["operators"]} <= {precision.upper(), "FP32"}


def test_the_same_stages_run_in_the_sandbox(task: PipelineTask) -> None:
    limits = StageLimits(60, 2048 * MIB)
    for stage in STAGES:
        arguments = {"stage": stage, "task": task.to_json()}
        summary = run_in_sandbox("service.quantization.pipeline:run_stage", arguments, limits=limits)
        for name in summary["files"]:
            assert (task.folder / name).is_file(), name
    assert summary["verdict"] == "passed"


def untimed(path: Path) -> bytes:
    """A file's content without the seconds that something took."""
    return re.sub(rb'"seconds": [0-9.e-]+', b"", path.read_bytes())


@pytest.mark.parametrize("stage", ["inspect", "calibrate", "convert", "build"])
def test_a_stage_that_was_killed_gives_the_same_files_when_run_again(task: PipelineTask, stage: str) -> None:
    for earlier in STAGES[: STAGES.index(stage)]:
        run_one(task, earlier)
    files = run_one(task, stage)["files"]
    before = {name: untimed(task.folder / name) for name in files}
    for name in files:
        path = task.folder / name
        path.with_name(f".{path.name}.partial").write_bytes(b"half a file")
        path.write_bytes(b"a stale one")
    assert run_one(task, stage)["files"] == files
    assert {name: untimed(task.folder / name) for name in files} == before
    assert not [name for _, _, names in os.walk(task.folder) for name in names if name.endswith(".partial")]


def test_a_later_stage_needs_no_files_but_those_that_earlier_ones_named(task: PipelineTask, tmp_path: Path) -> None:
    named: dict[str, bytes] = {}
    for position, stage in enumerate(STAGES):
        fresh = replace(task, folder=tmp_path / f"moved{position}")
        for name, content in named.items():
            (fresh.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (fresh.folder / name).write_bytes(content)
        summary = run_one(fresh, stage)
        named |= {name: (fresh.folder / name).read_bytes() for name in summary["files"]}
    assert summary["verdict"] == "passed"


def test_rows_without_labels_are_judged_by_agreement(task: PipelineTask, tmp_path: Path) -> None:
    bare = saved_rows(tmp_path / "bare.npz", x=images(50, 5))
    gate = run_all(replace(task, validation=bare))["gate"]
    assert gate["certificate"]["metric"] == "agreement"
    assert report_of(task)["classes"] == []


@pytest.mark.parametrize("batch", [1, 4])
def test_a_fixed_batch_is_built_and_measured_at_its_own_size(task: PipelineTask, tmp_path: Path, batch: int) -> None:
    fixed = saved(classifier(batch=batch), tmp_path / "fixed.onnx")
    gate = run_all(replace(task, model=fixed))["gate"]
    assert gate["batch_max"] == 1
    report = report_of(task)
    for side in ("reference", "engine"):
        assert [taken["batch"] for taken in report[side]["latency"]] == [batch]
    assert report["headline"]["batch"] == batch
    assert gate["verdict"] == "passed"


def test_a_model_without_class_scores_is_judged_by_cosine(task: PipelineTask, tmp_path: Path) -> None:
    kernel = np.random.default_rng(0).normal(0, 1, (2, 3, 3, 3)).astype(np.float32)
    conv = helper.make_node("Conv", ["x", "k"], ["y"], "conv", pads=[1] * 4)
    maps = model_of([conv], [value("x", ("n", 3, 8, 8))], [value("y", ("n", 2, 8, 8))], {"k": kernel})
    gate = run_all(replace(task, model=saved(maps, tmp_path / "maps.onnx")))["gate"]
    assert gate["certificate"]["metric"] == "cosine"
    assert gate["verdict"] == "passed"


def test_unmatched_keep_float_patterns_reach_the_report(task: PipelineTask) -> None:
    run_all(replace(task, recipe=replace(task.recipe, keep_float=("dw", "typo"))))
    report = report_of(task)
    assert any("keep_float 'typo' matches no node" in warning for warning in report["warnings"])
    dw = next(entry for entry in report["operators"] if entry["name"] == "dw")
    assert (dw["precision"], dw["runs_int8"]) == ("FP32", False)


def test_a_task_survives_the_way_through_json(task: PipelineTask) -> None:
    assert PipelineTask.from_json(json.loads(json.dumps(task.to_json()))) == task


def test_naming_the_stages_loads_no_runtime() -> None:
    code = (
        "import sys; from service.quantization.pipeline import STAGES, PipelineTask;"
        "print([m for m in ('onnx', 'onnxruntime', 'cv2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_model_uploaded_in_fp16_can_be_built(task: PipelineTask, tmp_path: Path, precision: str) -> None:
    random = np.random.default_rng(0)
    kernels = {name: random.normal(0, 0.2, (4, 4, 3, 3)).astype(np.float16) for name in ("k", "l")}
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["h"], "first", pads=[1] * 4),
        helper.make_node("Relu", ["h"], ["r"], "relu"),
        helper.make_node("Conv", ["r", "l"], ["y"], "second", pads=[1] * 4),
    ]
    shape, sixteen = ("n", 4, 8, 8), TensorProto.FLOAT16
    model = model_of(nodes, [value("x", shape, sixteen)], [value("y", shape, sixteen)], kernels)
    rows = saved_rows(tmp_path / "half.npz", x=random.normal(0, 1, (32, *shape[1:])).astype(np.float16))
    recipe = replace(task.recipe, precision=precision)
    half = replace(task, model=saved(model, tmp_path / "half.onnx"), recipe=recipe, calibration=rows, validation=rows)
    assert run_all(half)["gate"]["verdict"] == "passed"


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_model_that_was_trained_with_pairs_is_built_on_its_own_grids_for_any_runtime(
    task: PipelineTask, tmp_path: Path, runtime: str
) -> None:
    trained, plan = quantize(classifier(), {"x": images(64, 1)}, tmp_path, Recipe(scheme="asymmetric"))
    upload = saved(trained, tmp_path / "trained.onnx")
    summaries = run_all(replace(task, model=upload, recipe=replace(task.recipe, runtime=runtime)))
    assert summaries["gate"]["verdict"] == "passed", summaries["gate"]
    built = json.loads((task.folder / runtime / "plan.json").read_text())
    scales = {entry["operator"]: entry["weight"]["scales"] for entry in built["weights"]}
    as_uploaded = {entry.operator: list(entry.weight.scales) for entry in plan.weights}
    # A CPU without VNNI may bound some weights instead.
    if not saturates(host_fingerprint().flags):
        assert {name: scales[name] for name in as_uploaded} == as_uploaded


def test_rows_that_fill_no_fixed_batch_are_counted_nowhere_and_warned_of(task: PipelineTask, tmp_path: Path) -> None:
    path = saved(classifier(batch=3), tmp_path / "fixed.onnx")
    run_all(replace(task, model=path))
    report = report_of(task)
    assert report["validation"]["rows"] == 198
    assert report["certificate"]["reason"].endswith("on 198 validation rows")
    assert report["loss_split"]["rows"] % 3 == report["waterfall"]["rows"] % 3 == 0
    assert any("the last 2 of 200 rows are left out of every figure" in warning for warning in report["warnings"])
