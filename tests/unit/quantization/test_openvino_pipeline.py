"""From recipe to verdict with OpenVINO as the runtime, alone and beside ONNX Runtime, on the shipped digits model."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from service.domain.recipe import BatchProfile, Budget, Calibration, Recipe
from service.engines.openvino_engine import OpenVinoEngine
from service.errors import InvalidRecipe, OctavoError, StageFailed
from service.quantization import recipes
from service.quantization.pipeline import STAGES, PipelineTask, run_stage
from service.quantization.proof import latency
from service.quantization.recipes import available_runtimes, candidate_runtimes, check_recipe
from tests.unit.quantization.pipeline_runs import DIGITS, digits_task, gate_of, report_of
from tests.unit.quantization.small_models import model_of, saved, saved_rows, value


@pytest.fixture(autouse=True)
def short_timings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "MAX_ROUNDS", 12)


@pytest.fixture
def task(tmp_path: Path) -> PipelineTask:
    recipe = Recipe(runtime="openvino", batch=BatchProfile(1, 2, 4), calibration=Calibration(rows=64))
    return digits_task(tmp_path, recipe)


def test_an_int8_engine_of_the_digits_passes_and_runs_its_layers_in_int8(task: PipelineTask) -> None:
    gate = gate_of(task)
    assert (gate["verdict"], gate["variant"]) == ("passed", "int8-openvino")
    engine = OpenVinoEngine.load(task.folder / gate["engine_file"], 1)
    assert engine.outputs[0].name == "logits"
    weighted = [entry for entry in report_of(task)["operators"] if entry["operator"] in ("Conv", "Gemm")]
    assert weighted
    assert all(entry["precision"] == "INT8" and entry["runs_int8"] for entry in weighted)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_float_precisions_are_built_too(task: PipelineTask, precision: str) -> None:
    gate = gate_of(replace(task, recipe=replace(task.recipe, precision=precision)))
    assert (gate["verdict"], gate["variant"]) == ("passed", f"{precision}-openvino")
    assert not any(entry["runs_int8"] for entry in report_of(task)["operators"])


@pytest.mark.skipif(not candidate_runtimes(Recipe(precision="bf16")), reason="this CPU does not compute in BF16")
def test_bf16_is_built_where_the_cpu_computes_it(task: PipelineTask) -> None:
    gate = gate_of(replace(task, recipe=replace(task.recipe, precision="bf16")))
    assert (gate["verdict"], gate["variant"]) == ("passed", "bf16-openvino")
    precisions = {entry["precision"] for entry in report_of(task)["operators"]}
    assert "BF16" in precisions
    assert precisions <= {"BF16", "FP32"}


def test_auto_tries_every_runtime_and_takes_the_fastest_that_passes(task: PipelineTask) -> None:
    gate = gate_of(replace(task, recipe=replace(task.recipe, runtime="auto")))
    candidates = {entry["runtime"]: entry["verdict"] for entry in report_of(task)["candidates"]}
    assert {"onnxruntime", "openvino"} <= candidates.keys()
    assert set(candidates.values()) == {"passed"}
    assert gate["runtime"] in candidates
    assert (task.folder / gate["engine_file"]).read_bytes() == (
        task.folder / gate["runtime"] / gate["engine_file"]
    ).read_bytes()


def of_doubles(task: PipelineTask, runtime: str) -> PipelineTask:
    """The digits model with an input of a type that OpenVINO's CPU does not take, and rows of that type."""
    folder = task.folder.parent
    model = onnx.load(DIGITS / "digits.onnx")
    name = model.graph.input[0].name
    model.graph.input[0].name = "wide"
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    model.graph.node.insert(0, helper.make_node("Cast", ["wide"], [name], to=TensorProto.FLOAT))
    onnx.save_model(model, folder / "wide.onnx")
    rows = {}
    for kind in ("calibration", "validation"):
        with np.load(DIGITS / f"{kind}.npz") as archive:
            arrays = {("wide" if key == name else key): archive[key] for key in archive.files}
        rows[kind] = saved_rows(folder / f"wide-{kind}.npz", **arrays | {"wide": arrays["wide"].astype(np.float64)})
    recipe = replace(task.recipe, runtime=runtime)
    made = replace(task, model=folder / "wide.onnx", recipe=recipe)
    return replace(made, calibration=rows["calibration"], validation=rows["validation"])


def test_auto_does_without_a_runtime_that_refuses_the_graph_and_says_why(task: PipelineTask) -> None:
    wide = of_doubles(task, "auto")
    assert gate_of(wide)["runtime"] == "onnxruntime"
    candidates = {entry["runtime"]: entry for entry in report_of(wide)["candidates"]}
    assert candidates["onnxruntime"]["verdict"] == "passed"
    assert candidates["openvino"]["verdict"] == "refused"
    assert "OpenVINO" in candidates["openvino"]["reason"]


@pytest.mark.parametrize("stage", ["build", "validate"])
def test_auto_does_without_a_runtime_that_ended_the_process_of_a_stage_and_says_so(
    task: PipelineTask, stage: str
) -> None:
    both = replace(task, recipe=replace(task.recipe, runtime="auto"))
    for each in STAGES:
        given = replace(both, left_out={"openvino": "it crashed with SIGSEGV"}) if each == stage else both
        summary = run_stage({"stage": each, "task": given.to_json()}, lambda fraction: None)
    assert (summary["verdict"], summary["runtime"]) == ("passed", "onnxruntime")
    candidates = {entry["runtime"]: entry for entry in report_of(both)["candidates"]}
    assert candidates["openvino"]["verdict"] == "refused"
    assert "it crashed with SIGSEGV" in candidates["openvino"]["reason"]


@pytest.mark.parametrize(("channels", "group"), [(32, 2), (16, 16)], ids=["AMX answers noise", "VNNI never ends"])
def test_kernels_that_are_wrong_in_int8_run_in_float_beside_int8(task: PipelineTask, channels: int, group: int) -> None:
    folder, random = task.folder.parent, np.random.default_rng(5)
    nodes = [
        helper.make_node("Conv", ["x", "v"], ["h"], "short"),
        helper.make_node("Conv", ["h", "w"], ["y"], "long", group=group, pads=[8, 8]),
    ]
    shapes = {"v": (channels, 32, 1), "w": (channels, channels // group, 16)}
    weights = {name: random.normal(0, 0.1, shape) for name, shape in shapes.items()}
    constants = {name: weight.astype(np.float32) for name, weight in weights.items()}
    model = model_of(nodes, [value("x", ["n", 32, 40])], [value("y", ["n", channels, 41])], constants)
    rows = [random.normal(0, 1, (64, 32, 40)).astype(np.float32) for _ in "cv"]
    data = [saved_rows(folder / f"{kind}.npz", x=made) for kind, made in zip("cv", rows, strict=True)]
    long = replace(task, model=saved(model, folder / "long.onnx"), calibration=data[0], validation=data[1])
    assert gate_of(replace(long, budget=Budget("cosine", 0.01)))["verdict"] == "passed"
    assert {entry["name"]: entry["precision"] for entry in report_of(long)["operators"]} == {
        "short": "INT8",
        "long": "FP32",
    }


def test_what_reads_the_largest_values_of_a_map_answers_right(task: PipelineTask) -> None:
    folder, random = task.folder.parent, np.random.default_rng(6)
    nodes = [
        helper.make_node("Conv", ["x", "v"], ["h"], "conv"),
        helper.make_node("ReduceMax", ["h"], ["m"], "largest", axes=[2], keepdims=0),
        helper.make_node("MatMul", ["m", "w"], ["y"], "scores"),
    ]
    shapes = {"v": (32, 16, 1), "w": (32, 8)}
    constants = {name: random.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}
    model = model_of(nodes, [value("x", ["n", 16, 40])], [value("y", ["n", 8])], constants)
    rows = [random.normal(0, 1, (64, 16, 40)).astype(np.float32) for _ in "cv"]
    data = [saved_rows(folder / f"{kind}.npz", x=made) for kind, made in zip("cv", rows, strict=True)]
    pooled = replace(task, model=saved(model, folder / "m.onnx"), calibration=data[0], validation=data[1])
    assert gate_of(replace(pooled, budget=Budget("cosine", 0.001)))["verdict"] == "passed"


def of_vectors(task: PipelineTask, runtime: str) -> PipelineTask:
    """A model without a batch axis, of whose [16] outputs OpenVINO's INT8 kernels make [1, 16]."""
    folder, random = task.folder.parent, np.random.default_rng(3)
    ends = (("MatMul", ["x", "w"], "h"), ("Relu", ["h"], "r"), ("MatMul", ["r", "w"], "y"))
    nodes = [helper.make_node(kind, inputs, [made], made) for kind, inputs, made in ends]
    weight = random.normal(0, 1, (16, 16)).astype(np.float32)
    path = saved(model_of(nodes, [value("x", [16])], [value("y", [16])], {"w": weight}), folder / "vectors.onnx")
    data = [saved_rows(folder / f"{kind}.npz", x=random.normal(0, 1, (64, 16)).astype(np.float32)) for kind in "cv"]
    budget = Budget("cosine", 0.05)
    recipe = replace(task.recipe, runtime=runtime)
    return replace(task, model=path, recipe=recipe, budget=budget, calibration=data[0], validation=data[1])


def test_auto_does_without_a_runtime_whose_engine_cannot_be_compared_and_says_why(task: PipelineTask) -> None:
    vectors = of_vectors(task, "auto")
    gate = gate_of(vectors)
    assert (gate["verdict"], gate["runtime"]) == ("passed", "onnxruntime")
    candidates = {entry["runtime"]: entry for entry in report_of(vectors)["candidates"]}
    assert candidates["openvino"]["verdict"] == "refused"
    assert "output 'y' has shape [16] from the reference but [1, 16]" in candidates["openvino"]["reason"]


def test_a_job_ends_where_no_engine_can_be_compared(task: PipelineTask) -> None:
    with pytest.raises(StageFailed, match="output 'y' has shape"):
        gate_of(of_vectors(task, "openvino"))


def test_a_runtime_that_was_named_and_refuses_the_graph_fails_the_job(task: PipelineTask) -> None:
    with pytest.raises(OctavoError, match="OpenVINO"):
        gate_of(of_doubles(task, "openvino"))


def test_a_host_without_openvino_says_how_to_install_it(task: PipelineTask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes, "find_spec", lambda name: None if name == "openvino" else find_spec(name))
    assert "openvino" not in available_runtimes()
    with pytest.raises(InvalidRecipe, match=r"runtime is 'openvino'.*not installed.*pip install 'octavo\[openvino\]'"):
        check_recipe(task.recipe, task.budget, None, None)
