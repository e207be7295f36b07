"""From recipe to an unproven engine with TensorRT as the runtime, on a host without a GPU, on the digits model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto

from service.domain.recipe import BatchProfile, Budget, Calibration, Recipe, Tuning
from service.engines.cuda_device import CudaDevice
from service.errors import InvalidRecipe
from service.quantization import recipes
from service.quantization.builders import tensorrt_builder
from service.quantization.graphs.sparsity import sparse_operators
from service.quantization.pipeline import PipelineTask
from service.quantization.proof import latency
from service.quantization.recipes import available_runtimes, candidate_runtimes, check_recipe
from tests.unit.quantization.pipeline_runs import digits_task, gate_of, report_of

pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
NO_DEVICE = "pycuda cannot be imported; install it"
GPU = CudaDevice("RTX A", "8.6", "13.0", 2**34)


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "MAX_ROUNDS", 12)
    for module in (tensorrt_builder, recipes):
        monkeypatch.setattr(module, "find_device", lambda: None)
        monkeypatch.setattr(module, "why_no_device", lambda: NO_DEVICE)


@pytest.fixture
def task(tmp_path: Path) -> PipelineTask:
    recipe = Recipe(
        runtime="tensorrt", batch=BatchProfile(1, 2, 4), calibration=Calibration(rows=64), tuning=Tuning.none()
    )
    return digits_task(tmp_path, recipe)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
def test_an_engine_of_every_precision_is_built_and_is_unproven(task: PipelineTask, precision: str) -> None:
    task = replace(task, recipe=replace(task.recipe, precision=precision))
    gate = gate_of(task)
    assert (gate["verdict"], gate["variant"]) == ("unproven", f"{precision}-tensorrt")
    assert gate["engine_file"] == "engine.plan"
    assert (task.folder / "engine.plan").stat().st_size == gate["size_bytes"] > 10_000
    certificate = gate["certificate"]
    assert certificate["loss"] is None
    assert certificate["reason"].startswith(f"no NVIDIA device on this host; {NO_DEVICE}")
    assert certificate["fingerprint"]["driver"] == "none"
    assert certificate["fingerprint"]["libraries"]["tensorrt"].startswith("tensorrt_rtx 1.")
    assert "8.6" in certificate["fingerprint"]["built_for"]
    # The CPU does not compute BF16, so it can forecast nothing.
    assert ("within the budget" in certificate["reason"]) is (precision != "bf16")


def test_the_report_says_that_nothing_was_run_and_what_was_built(task: PipelineTask) -> None:
    gate_of(task)
    report = report_of(task)
    assert report["warnings"][0].startswith("this engine was built and has not run, for no NVIDIA device on this host")
    assert report["speed"]["speedup"] is None
    assert report["engine"]["latency"] == []
    assert len(report["reference"]["latency"]) == 3
    assert [leg["leg"] for leg in report["loss_split"]["legs"]] == ["float_graph", "plan"]
    build = report["build"]
    assert build["flavour"] == "tensorrt_rtx"
    assert build["portable"]
    assert build["memory"]["weights_bytes"] > 0
    assert {layer["type"] for layer in build["network"]} >= {"INT8", "HALF"}
    assert build["log"]["layers"]
    weighted = [entry for entry in report["lint"] if entry["operator"] in ("Conv", "Gemm", "MatMul")]
    assert any(entry["executed"] for entry in weighted)
    assert all(entry["executed"] in (None, entry["predicted"]) for entry in weighted), weighted
    page = (task.folder / "report.html").read_text()
    for told in ("not proven", "tensorrt_rtx 1.", "8.0, 8.6, 8.9", "Build it by hand", "compiled in INT8", "simulated"):
        assert told in page, told


@pytest.mark.parametrize(("around", "element"), [("fp32", "FLOAT"), ("auto", "FLOAT16"), ("bf16", "BFLOAT16")])
def test_what_stands_around_int8_has_the_type_that_the_recipe_says(
    task: PipelineTask, around: str, element: str
) -> None:
    task = replace(task, recipe=replace(task.recipe, around=around))
    assert gate_of(task)["verdict"] == "unproven"
    emitted = onnx.load_model(task.folder / "tensorrt" / "converted.onnx")
    kinds = {TensorProto.DataType.Name(tensor.data_type) for tensor in emitted.graph.initializer}
    assert {element, "INT8"} <= kinds
    assert not kinds & ({"FLOAT", "FLOAT16", "BFLOAT16"} - {element})
    planned = {entry["precision"] for entry in report_of(task)["operators"]}
    assert "INT8" in planned


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_pruned_weights_stay_sparse_through_tuning_and_their_loss_is_measured(
    task: PipelineTask, precision: str
) -> None:
    dense = gate_of(replace(task, recipe=replace(task.recipe, precision=precision)))
    tuned = replace(task.recipe, precision=precision, sparsity="2:4", tuning=Tuning(mixed_precision=False))
    gate = gate_of(replace(task, recipe=tuned))
    report = report_of(task)
    assert gate["sha256"] != dense["sha256"]
    emitted = onnx.load_model(task.folder / "tensorrt" / "converted.onnx")
    assert len(sparse_operators(emitted)) >= 3
    assert report["build"]["sparse_operators"] == sparse_operators(emitted)
    assert report["recipe"]["sparsity"] == "2:4"
    assert any(output["sqnr_db"] < 40 for output in report["outputs"])
    page = (task.folder / "report.html").read_text()
    assert "operators with 2:4 sparse weights" in page
    assert "in the plan" in page
    assert "TensorRT-RTX multiplies sparse weights like any others" in page


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (Recipe(weights="gone"), "weights is 'gone'; send one of fixed, refittable, stripped"),
        (Recipe(sparsity="1:2"), "sparsity is '1:2'; send one of none, 2:4"),
        (
            Recipe(weights="stripped"),
            "weights is 'stripped', which runtime 'auto' does not have; leave it out, or send",
        ),
        (Recipe(runtime="openvino", sparsity="2:4"), "sparsity is '2:4', which runtime 'openvino' does not have"),
        (
            Recipe(runtime="tensorrt", weights="refittable"),
            f"weights is 'refittable', which TensorRT builds on the GPU .* here is none: {NO_DEVICE}; leave it out",
        ),
    ],
)
def test_weights_and_sparsity_that_cannot_be_built_are_refused(recipe: Recipe, words: str) -> None:
    with pytest.raises(InvalidRecipe, match=words):
        check_recipe(recipe, Budget(), None, None)


def test_a_forecast_outside_the_budget_is_told_and_stays_unproven(task: PipelineTask) -> None:
    task = replace(task, budget=Budget("mae", 0.0))
    gate = gate_of(task)
    assert gate["verdict"] == "unproven"
    assert "outside the budget of 0, on" in gate["certificate"]["reason"]


def test_auto_does_not_pick_what_cannot_run_here(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "tensorrt" in available_runtimes()
    assert "tensorrt" not in candidate_runtimes(Recipe())
    assert candidate_runtimes(Recipe(runtime="tensorrt")) == ("tensorrt",)
    monkeypatch.setattr(recipes, "find_device", lambda: GPU)
    assert "tensorrt" in candidate_runtimes(Recipe())


def test_bf16_on_tensorrt_needs_nothing_of_the_cpu() -> None:
    assert candidate_runtimes(Recipe(precision="bf16", runtime="tensorrt")) == ("tensorrt",)


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (Recipe(around="int4"), "around is 'int4'; send one of auto, fp32, fp16, bf16"),
        (Recipe(precision="fp16", around="fp16"), "around is 'fp16', the type around INT8, but precision is 'fp16'"),
        (Recipe(around="fp16"), "INT8 of runtime 'auto' has FP32 around it; leave it out, or send runtime tensorrt"),
    ],
)
def test_a_type_around_int8_that_means_nothing_is_refused(recipe: Recipe, words: str) -> None:
    with pytest.raises(InvalidRecipe, match=words):
        check_recipe(recipe, Budget(), None, None)
