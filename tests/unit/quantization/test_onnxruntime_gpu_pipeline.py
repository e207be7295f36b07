"""From recipe to an unproven engine for ONNX Runtime's GPU providers, on a host without a GPU, on the digits model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto

from service.domain.recipe import BatchProfile, Budget, Calibration, Recipe, Tuning
from service.engines.cuda_device import CudaDevice
from service.errors import InvalidRecipe
from service.quantization import recipes
from service.quantization.builders import onnxruntime_gpu_builder
from service.quantization.pipeline import PipelineTask
from service.quantization.proof import latency
from service.quantization.recipes import candidate_runtimes, check_recipe
from tests.unit.quantization.pipeline_runs import digits_task, gate_of, report_of

NO_DEVICE = "pycuda cannot be imported; install it"
ON_GPU = ("onnxruntime-cuda", "onnxruntime-tensorrt")


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "MAX_ROUNDS", 12)
    for module in (onnxruntime_gpu_builder, recipes):
        monkeypatch.setattr(module, "find_device", lambda: None)
    monkeypatch.setattr(onnxruntime_gpu_builder, "why_no_device", lambda: NO_DEVICE)


@pytest.fixture
def task(tmp_path: Path) -> PipelineTask:
    recipe = Recipe(batch=BatchProfile(1, 2, 4), calibration=Calibration(rows=64), tuning=Tuning.none())
    return digits_task(tmp_path, recipe)


def gate_of_recipe(task: PipelineTask, **recipe: Any) -> dict[str, Any]:
    return gate_of(replace(task, recipe=replace(task.recipe, **recipe)))


def constant_types(task: PipelineTask) -> set[str]:
    emitted = onnx.load_model(task.folder / "engine.onnx")
    return {TensorProto.DataType.Name(tensor.data_type) for tensor in emitted.graph.initializer}


@pytest.mark.parametrize("runtime", ON_GPU)
@pytest.mark.parametrize(
    ("precision", "types"), [("fp32", {"FLOAT"}), ("fp16", {"FLOAT16"}), ("int8", {"FLOAT16", "INT8"})]
)
def test_an_engine_of_every_precision_is_emitted_and_is_unproven(
    task: PipelineTask, runtime: str, precision: str, types: set[str]
) -> None:
    gate = gate_of_recipe(task, runtime=runtime, precision=precision)
    assert (gate["verdict"], gate["variant"]) == ("unproven", f"{precision}-{runtime}")
    # The engine is the emitted graph itself, so none is kept beside it.
    assert (gate["engine_file"], gate["emitted_file"]) == ("engine.onnx", None)
    certificate = gate["certificate"]
    assert certificate["loss"] is None
    assert certificate["reason"].startswith(f"no NVIDIA device on this host; {NO_DEVICE}. Simulated")
    assert "within the budget" in certificate["reason"]
    assert certificate["fingerprint"]["driver"] == "none"
    assert types <= constant_types(task)
    # No bias in integers: the CUDA provider has no kernel that would read it.
    assert "INT32" not in constant_types(task)


def test_the_report_says_that_cuda_computes_int8_graphs_in_floating_point(task: PipelineTask) -> None:
    gate_of_recipe(task, runtime="onnxruntime-cuda")
    report = report_of(task)
    assert any("planned in INT8 run in floating point" in warning for warning in report["warnings"])
    assert (report["int8_operators"], report["int8_mac_share"]) == (0, 0)
    assert report["lint"]
    assert not any(entry["predicted"] or entry["executed"] for entry in report["lint"])
    assert report["speed"]["speedup"] is None
    assert "no integer kernel behind Q/DQ pairs" in json.dumps(report["lint"])
    # Each operator's part is told, with FP16 around it.
    assert report["waterfall"]["operators"]


def test_what_stands_around_int8_may_be_fp32(task: PipelineTask) -> None:
    gate_of_recipe(task, runtime="onnxruntime-cuda", around="fp32")
    assert constant_types(task) == {"FLOAT", "INT8"}


def test_auto_leaves_them_to_who_names_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes, "find_device", lambda: CudaDevice("RTX A", "8.6", "13.0", 2**34))
    assert not set(ON_GPU) & set(candidate_runtimes(Recipe()))
    assert [candidate_runtimes(Recipe(runtime=runtime)) for runtime in ON_GPU] == [(runtime,) for runtime in ON_GPU]


@pytest.mark.parametrize("runtime", ON_GPU)
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"precision": "bf16"},
            "does not build on this host: only runtimes openvino and tensorrt do; send one of fp16",
        ),
        ({"around": "bf16"}, "around is 'bf16', for which runtime 'onnxruntime-[a-z]+' has no Q/DQ kernels; send fp16"),
    ],
)
def test_bf16_is_refused_with_the_next_step(runtime: str, changes: dict[str, str], words: str) -> None:
    with pytest.raises(InvalidRecipe, match=words):
        check_recipe(Recipe(runtime=runtime, **changes), Budget(), None, None)  # type: ignore[arg-type]
