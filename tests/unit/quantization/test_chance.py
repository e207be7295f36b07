"""Where an engine is rejected for what its graph draws by chance, the report says so, and only there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from service.domain.recipe import Budget, Calibration, Recipe
from service.engines.onnxruntime_engine import OnnxRuntimeEngine
from service.quantization.data.rows import Feed, Rows
from service.quantization.graphs.chance import drawing_operators
from service.quantization.preparation.preparation import INSPECTED
from service.quantization.proof import latency
from service.quantization.proof.chance import chance_as_cause, measure_chance
from service.quantization.task import PipelineTask
from tests.unit.quantization.pipeline_runs import BATCH, report_of, run_all
from tests.unit.quantization.small_models import fp32, model_of, saved, saved_rows, value

LIKE = [helper.make_node("RandomNormalLike", ["h"], ["n"], "noise")]
ALONE = [helper.make_node("RandomUniform", [], ["n"], "noise", shape=[8], low=-3.0, high=3.0)]
COIN = [helper.make_node("Sigmoid", ["h"], ["p"], "chances"), helper.make_node("Bernoulli", ["p"], ["n"], "noise")]
FAINT = [helper.make_node("RandomNormalLike", ["h"], ["n"], "noise", scale=1e-3)]


@pytest.fixture(autouse=True)
def short_timings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "MAX_ROUNDS", 12)


def task_of(drawn: list[NodeProto], folder: Path, runtime: str = "onnxruntime") -> PipelineTask:
    """INT8 of y = (x @ w + n) @ v, where n is drawn by the given nodes, with a budget of 1 % of the cosine."""
    random = np.random.default_rng(0)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "first"),
        *drawn,
        helper.make_node("Mul", ["h", "h"], ["square"], "square"),
        helper.make_node("Add", ["square", "n"], ["g"], "add"),
        helper.make_node("MatMul", ["g", "v"], ["y"], "second"),
    ]
    constants = {"w": fp32(random.normal(0, 0.4, (8, 8))), "v": fp32(random.normal(0, 0.4, (8, 4)))}
    model = model_of(nodes, [value("x", ("n", 8))], [value("y", ("n", 4))], constants)
    calibration, validation = (
        saved_rows(folder / f"{name}.npz", x=fp32(random.normal(0, 1, (64, 8)))) for name in ("seen", "unseen")
    )
    recipe = Recipe(runtime=runtime, batch=BATCH, calibration=Calibration(rows=64))
    path = saved(model, folder / "model.onnx")
    return PipelineTask(folder / "job", path, recipe, Budget("cosine", 0.01), calibration, validation, 1)


def report(task: PipelineTask) -> dict[str, Any]:
    run_all(task)
    return report_of(task)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(
    ("drawn", "named"),
    [(LIKE, "RandomNormalLike 'noise'"), (ALONE, "RandomUniform 'noise'"), (COIN, "Bernoulli 'noise'")],
)
def test_a_draw_that_costs_more_than_the_budget_is_named_as_the_cause(
    tmp_path: Path, drawn: list[NodeProto], named: str, runtime: str
) -> None:
    pytest.importorskip(runtime)
    found = report(task_of(drawn, tmp_path, runtime))
    assert found["verdict"] == "rejected"
    reason = found["certificate"]["reason"]
    assert f"outside the budget of 0.01, on 64 validation rows; {named} draws by chance, so the float model" in reason
    assert reason.endswith("beside itself too: export it without what draws, or with what is drawn as an input")


def test_a_half_precision_engine_is_told_the_same(tmp_path: Path) -> None:
    task = task_of(LIKE, tmp_path)
    reason = report(replace(task, recipe=replace(task.recipe, precision="fp16")))["certificate"]["reason"]
    assert "RandomNormalLike 'noise' draws by chance" in reason


def test_a_draw_that_is_too_faint_to_be_the_cause_is_not_named(tmp_path: Path) -> None:
    task = replace(task_of(FAINT, tmp_path), budget=Budget("cosine", 1e-5))
    found = report(task)
    assert found["verdict"] == "rejected"
    assert "chance" not in found["certificate"]["reason"]


def test_an_operator_that_reads_a_draw_is_not_said_to_have_a_bad_kernel(tmp_path: Path) -> None:
    operators = {entry["name"]: entry for entry in report(task_of(LIKE, tmp_path))["waterfall"]["operators"]}
    assert operators["add"]["cause"] == "chance"
    assert operators["add"]["evidence"] == "RandomNormalLike 'noise' draws its input anew in each run"
    assert not {"chance", "kernel"} & {operators[name]["cause"] for name in ("x", "first", "square", "second")}


def test_what_is_drawn_of_nothing_is_no_constant(tmp_path: Path) -> None:
    operators = report(task_of(ALONE, tmp_path))["waterfall"]["operators"]
    assert all(entry["local_sqnr_db"] is None or entry["local_sqnr_db"] > 20 for entry in operators)


def test_only_what_draws_is_found_in_subgraphs_too() -> None:
    inner = helper.make_graph([helper.make_node("RandomNormal", [], ["d"], "deep", shape=[1])], "g", [], [])
    nodes = [
        helper.make_node("Dropout", ["x", "ratio", "training"], ["a"], "trained"),
        helper.make_node("Dropout", ["x", "ratio", ""], ["b"], "passing"),
        helper.make_node("Dropout", ["x"], ["c"], "bare"),
        helper.make_node("If", ["yes"], ["d"], "branch", then_branch=inner, else_branch=inner),
        helper.make_node("Multinomial", ["x"], ["e"]),
    ]
    model = model_of(nodes, [value("x", ("n", 8))], [value("e", ("n", 1))])
    assert drawing_operators(model) == ["Dropout 'trained'", "Multinomial", "RandomNormal 'deep'"]


def test_several_that_draw_are_named_up_to_three() -> None:
    chance = {"operators": ["A", "B", "C", "D", "E"], "metrics": {"mae": {"loss": 2.0}}}
    assert chance_as_cause(chance, "mae", 1.0).startswith("; A, B, C and 2 more draw by chance, so the float model")
    assert chance_as_cause(chance, "mae", 2.0) == ""
    assert chance_as_cause(chance, "top1", 0.0) == ""
    assert chance_as_cause(None, "mae", 0.0) == ""


def test_a_draw_that_changes_the_size_of_an_output_is_no_failure(tmp_path: Path) -> None:
    task = task_of(LIKE, tmp_path)
    model = onnx.load_model(task.model)
    model.graph.node.append(helper.make_node("NonZero", ["kept"], ["places"], "places"))
    model.graph.node.insert(5, helper.make_node("Relu", ["n"], ["kept"], "kept"))
    model.graph.output.append(value("places", (2, "found"), TensorProto.INT64))
    saved(model, task.model)
    task.folder.mkdir()
    task.write(INSPECTED, {"drawing": ["RandomNormalLike 'noise'"]})
    feed = Feed.of(Rows.open(tmp_path / "unseen.npz", "validation"), OnnxRuntimeEngine.load(task.model, 1).inputs)
    assert measure_chance(task, feed) == {"operators": ["RandomNormalLike 'noise'"], "metrics": {}}


def test_a_dropout_that_a_constant_tells_not_to_train_draws_nothing() -> None:
    for stored in (True, False):
        for trains in (True, False):
            told = np.array(trains)
            nodes = [helper.make_node("Dropout", ["x", "", "told"], ["y"], "dropout")]
            if not stored:
                nodes.insert(0, helper.make_node("Constant", [], ["told"], value=numpy_helper.from_array(told)))
            model = model_of(nodes, [value("x", ("n", 8))], [value("y", ("n", 8))], {"told": told} if stored else {})
            assert drawing_operators(model) == (["Dropout 'dropout'"] if trains else [])
