"""The float graph is simplified without changing what it computes, and hopeless tasks end here."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper

from service.domain.recipe import Budget, Recipe
from service.errors import InvalidDataset, InvalidRecipe, StageFailed, StorageFull
from service.quantization.graphs.graph import Graph
from service.quantization.placements.placement import float_reason
from service.quantization.preparation.preparation import (
    LOWEST_OPSET,
    PREPARED,
    Preparation,
    graph_digest,
    inspect_stage,
    prepare,
)
from service.quantization.preparation.quantized_upload import is_quantized
from service.quantization.task import PipelineTask
from tests.unit.quantization.int8 import quantize, run
from tests.unit.quantization.small_models import (
    classifier,
    images,
    linear_regressor,
    model_of,
    relu_model,
    saved,
    saved_rows,
    value,
)

ROWS = {"x": images(8)}


def prepared(model: ModelProto, folder: Path, lowest_opset: int = 0) -> ModelProto:
    prepare(saved(model, folder / "float.onnx"), folder / "prepared.onnx", lowest_opset)
    return onnx.load_model(folder / "prepared.onnx")


def task_for(
    folder: Path, model: ModelProto, recipe: Recipe | None = None, budget: Budget | None = None
) -> PipelineTask:
    rows = saved_rows(folder / "rows.npz", x=ROWS["x"], labels=np.zeros(8, np.int64))
    path = saved(model, folder / "model.onnx")
    return PipelineTask(folder / "out", path, recipe or Recipe(), budget or Budget(), rows, rows, 1)


def inspect(task: PipelineTask) -> dict[str, object]:
    return inspect_stage(task, lambda fraction: None)


def test_norms_are_folded_and_results_stay(tmp_path: Path) -> None:
    simple = prepared(classifier(), tmp_path)
    assert "BatchNormalization" not in {node.op_type for node in simple.graph.node}
    assert {entry.domain for entry in simple.opset_import} == {""}
    reference, given = (run(model, ROWS, tmp_path)["scores"] for model in (classifier(), simple))
    assert np.allclose(reference, given, rtol=1e-3, atol=1e-4)


def test_norms_stay_where_the_preparation_says_so(tmp_path: Path) -> None:
    prepare(saved(classifier(), tmp_path / "m.onnx"), tmp_path / "p.onnx", LOWEST_OPSET, Preparation(fold_norms=False))
    kept = onnx.load_model(tmp_path / "p.onnx")
    assert [node.name for node in kept.graph.node if node.op_type == "BatchNormalization"] == ["bn"]
    reference, given = (run(model, ROWS, tmp_path)["scores"] for model in (classifier(), kept))
    assert np.allclose(reference, given, rtol=1e-3, atol=1e-4)


def test_rewrites_see_the_simplified_graph_with_named_nodes_in_their_order(tmp_path: Path) -> None:
    seen: list[list[str]] = []

    def first(model: ModelProto) -> None:
        seen.append([node.op_type for node in model.graph.node])
        model.graph.node[0].name = "renamed"

    def second(model: ModelProto) -> None:
        seen.append([node.name for node in model.graph.node])

    source = saved(classifier(), tmp_path / "m.onnx")
    prepare(source, tmp_path / "p.onnx", LOWEST_OPSET, Preparation(rewrites=(first, second)))
    assert "BatchNormalization" not in seen[0]
    assert seen[1][0] == onnx.load_model(tmp_path / "p.onnx").graph.node[0].name == "renamed"


def test_the_graphs_digest_is_one_for_the_same_graph_and_another_for_any_change(tmp_path: Path) -> None:
    model = prepared(classifier(), tmp_path)
    digest = graph_digest(model)
    assert graph_digest(prepared(classifier(), tmp_path)) == digest
    moved = ModelProto.FromString(model.SerializeToString())
    moved.graph.initializer.append(moved.graph.initializer.pop(0))
    assert graph_digest(moved) == digest
    assert inspect(task_for(tmp_path, classifier()))["graph_digest"] == graph_digest(
        onnx.load_model(tmp_path / "out" / "prepared.onnx")
    )
    for other in (classifier(seed=4), classifier(batch=2)):
        assert graph_digest(prepared(other, tmp_path)) != digest


def test_a_full_disk_is_told_as_such_with_the_need_and_the_free_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=7))
    with pytest.raises(StorageFull, match=r"bytes are needed in .* and 7 are free; free disk space"):
        prepared(classifier(), tmp_path)


def test_names_of_nodes_stay_and_nameless_ones_get_their_own(tmp_path: Path) -> None:
    model = relu_model()
    model.graph.node[0].name = ""
    model.graph.node[0].output[0] = "t"
    model.graph.node.append(helper.make_node("Neg", ["t"], ["u"], "Sigmoid_2"))
    model.graph.node.append(helper.make_node("Sigmoid", ["u"], ["y"]))
    names = [node.name for node in prepared(model, tmp_path).graph.node]
    assert names[:2] == ["Relu_0", "Sigmoid_2"]
    assert len(set(names)) == 3


def test_a_model_that_states_no_opset_is_prepared_as_it_is(tmp_path: Path) -> None:
    model = linear_regressor()
    del model.opset_import[0]
    assert [node.name for node in prepared(model, tmp_path, LOWEST_OPSET).graph.node] == ["linear"]
    rows = saved_rows(tmp_path / "columns.npz", x=np.ones((4, 4), np.float32))
    with pytest.raises(
        InvalidRecipe, match=r"it has no Conv, Gemm or MatMul .*; serve it as it was uploaded, for nothing"
    ):
        inspect(replace(task_for(tmp_path, model), calibration=rows, validation=rows))


@pytest.mark.parametrize("opset", [8, 9, 10, 11, 12])
def test_a_model_of_an_old_opset_is_brought_to_one_that_int8_needs(tmp_path: Path, opset: int) -> None:
    old = classifier(opset=opset)
    emitted, plan = quantize(old, ROWS, tmp_path)
    assert emitted.opset_import[0].version == LOWEST_OPSET
    assert {operator.precision for operator in plan.operators} == {"INT8"}
    reference, given = (run(model, ROWS, tmp_path)["scores"] for model in (old, emitted))
    assert np.abs(reference - given).max() < np.abs(reference).max() * 0.1


def test_constants_listed_as_inputs_are_folded_like_others(tmp_path: Path) -> None:
    model = classifier()
    for tensor in model.graph.initializer:
        model.graph.input.append(value(tensor.name, list(tensor.dims)))
    simple = prepared(model, tmp_path)
    assert [entry.name for entry in simple.graph.input] == ["x"]
    assert "BatchNormalization" not in {node.op_type for node in simple.graph.node}


def test_a_model_that_cannot_be_simplified_fails_with_the_runtimes_words(tmp_path: Path) -> None:
    model = relu_model()
    model.graph.node[0].op_type = "Unknown"
    with pytest.raises(StageFailed, match=r"cannot be simplified: .*Unknown"):
        prepared(model, tmp_path)


def test_the_stage_tells_how_much_is_quantizable_and_which_patterns_match_nothing(tmp_path: Path) -> None:
    found = inspect(task_for(tmp_path, classifier(), Recipe(keep_float=("dw", "typo*", "op:LSTM"))))
    assert found["quantizable"] == 3
    assert found["files"] == ["prepared.onnx", "inspect.json"]
    warnings = found["warnings"]
    assert isinstance(warnings, list)
    assert [warning.split(";")[0] for warning in warnings] == [
        "keep_float 'typo*' matches no node",
        "keep_float 'op:LSTM' matches no node",
    ]


def test_int8_of_a_model_with_nothing_to_quantize_is_refused(tmp_path: Path) -> None:
    model = relu_model(("batch", 3, 8, 8))
    with pytest.raises(InvalidRecipe, match="it has no Conv, Gemm or MatMul with constant weights; ask for fp16"):
        inspect(task_for(tmp_path, model, budget=Budget("mae", 1)))


def test_int8_with_everything_kept_in_float_is_refused_with_an_example(tmp_path: Path) -> None:
    with pytest.raises(InvalidRecipe, match=r"for example Conv 'stem': kept in floating point by keep_float '\*'"):
        inspect(task_for(tmp_path, classifier(), Recipe(keep_float=("*",))))


def test_int8_of_a_quantized_model_starts_from_the_float_graph_that_it_means(tmp_path: Path) -> None:
    emitted, _ = quantize(classifier(), ROWS, tmp_path)
    task = task_for(tmp_path, emitted)
    as_uploaded = inspect(task)["quantizable"]
    assert (
        as_uploaded
        == inspect(replace(task, model=saved(classifier(), tmp_path / "plain.onnx"), folder=tmp_path / "f"))[
            "quantizable"
        ]
    )
    assert not is_quantized(onnx.load_model(task.folder / PREPARED))


def test_a_model_of_integer_operators_is_refused_with_the_next_step(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"], "squeeze"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], "back"),
    ]
    model = model_of(nodes, [value("x", ("batch", 3, 8, 8))], [value("y", ("batch", 3, 8, 8))])
    with pytest.raises(InvalidRecipe, match=r"'squeeze' is DynamicQuantizeLinear, an integer operator; export"):
        inspect(task_for(tmp_path, model, budget=Budget("mae", 1)))


def test_data_that_does_not_feed_the_model_is_refused_before_any_work(tmp_path: Path) -> None:
    task = task_for(tmp_path, classifier())
    other = saved_rows(tmp_path / "other.npz", x=np.zeros((4, 5), np.float32))
    with pytest.raises(InvalidDataset, match="the validation set has shape"):
        inspect(replace(task, validation=other))
    with pytest.raises(InvalidDataset, match="the calibration set has shape"):
        inspect(replace(task, calibration=other))


def test_labels_beyond_the_models_classes_are_refused(tmp_path: Path) -> None:
    task = task_for(tmp_path, classifier())
    labelled = saved_rows(tmp_path / "labelled.npz", x=ROWS["x"], labels=np.full(8, 4))
    with pytest.raises(InvalidDataset, match="the labels run to 4 but the model scores 4 classes"):
        inspect(replace(task, validation=labelled))


def test_a_metric_that_the_model_or_the_rows_cannot_give_is_refused(tmp_path: Path) -> None:
    conv = helper.make_node("Conv", ["x", "k"], ["y"], "conv")
    kernel = {"k": np.ones((2, 3, 1, 1), np.float32)}
    maps = model_of([conv], [value("x", ("batch", 3, 8, 8))], [value("y", ("batch", 2, 8, 8))], kernel)
    with pytest.raises(InvalidRecipe, match="'top1' but no output of the model is a vector of class scores"):
        inspect(task_for(tmp_path, maps, budget=Budget("top1")))
    task = task_for(tmp_path, classifier(), budget=Budget("top1"))
    with pytest.raises(InvalidRecipe, match="'top1' but the rows have no labels; send agreement"):
        inspect(replace(task, validation=saved_rows(tmp_path / "bare.npz", x=ROWS["x"])))


def test_a_ranking_of_outputs_that_are_always_sorted_is_refused_before_any_work(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Flatten", ["x"], ["f"], "flat"),
        helper.make_node("Gemm", ["f", "w"], ["z"], "head"),
        helper.make_node("TopK", ["z", "k"], ["best", "classes"], "top"),
    ]
    weight = np.random.default_rng(2).normal(0, 1, (192, 9)).astype(np.float32)
    ends = [value("best", ("n", 5)), value("classes", ("n", 5), TensorProto.INT64)]
    top = model_of(nodes, [value("x", ("n", 3, 8, 8))], ends, {"w": weight, "k": np.array([5])})
    with pytest.raises(InvalidRecipe, match="'agreement' but no output of the model is a vector of class scores"):
        inspect(task_for(tmp_path, top, budget=Budget("agreement")))
    inspect(task_for(tmp_path, top))


def test_a_task_without_the_data_it_needs_is_refused(tmp_path: Path) -> None:
    task = task_for(tmp_path, classifier())
    with pytest.raises(InvalidRecipe, match="no calibration set is named"):
        inspect(replace(task, calibration=None))
    with pytest.raises(InvalidRecipe, match="nothing can be proven"):
        inspect(replace(task, calibration=None, validation=None, recipe=Recipe(precision="fp16")))


def test_no_name_that_is_made_up_is_one_that_another_node_has_or_gets(tmp_path: Path) -> None:
    weights = {name: np.eye(3, dtype=np.float32) for name in "abc"}
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["u"]),
        helper.make_node("MatMul", ["u", "b"], ["v"], "MatMul_0"),
        helper.make_node("MatMul", ["v", "c"], ["y"]),
    ]
    model = model_of(nodes, [value("x", ("n", 3))], [value("y", ("n", 3))], weights)
    names = [node.name for node in prepared(model, tmp_path).graph.node]
    assert len(set(names)) == 3


def test_the_weights_of_an_fp16_upload_are_constants_in_fp32(tmp_path: Path) -> None:
    half = np.random.default_rng(0).normal(0, 0.3, (4, 3, 3, 3)).astype(np.float16)
    conv = helper.make_node("Conv", ["x", "w"], ["y"], "conv", pads=[1] * 4)
    sixteen = TensorProto.FLOAT16
    ends = value("x", ("n", 3, 8, 8), sixteen), value("y", ("n", 4, 8, 8), sixteen)
    simple = Graph(prepared(model_of([conv], [ends[0]], [ends[1]], {"w": half}), tmp_path))
    kept = next(node for node in simple.nodes if node.name == "conv")
    assert float_reason(kept, simple) is None
    stored = simple.constant(kept.input[1])
    assert stored is not None
    assert np.array_equal(stored, half.astype(np.float32))
