"""The operators that cost most in INT8 stay in floating point, until the budget fits, and never too many of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import NodeProto, TensorProto, helper

from service.domain.recipe import Recipe
from service.quantization.calibration.observation import ObservedModel
from service.quantization.conversion.loss_prediction import predicted_loss
from service.quantization.conversion.mixed_precision import Allowance, Choice, choose_float
from service.quantization.conversion.sensitivity import Sensitivity, Subject, measure, with_quantized
from service.quantization.graphs.graph import Graph
from service.quantization.graphs.runs import connected_runs, operators_around
from service.quantization.measures.noise import noise_share
from service.quantization.measures.simulation import simulated
from service.quantization.placements.onnxruntime import place
from service.quantization.placements.placement import patterns_of, place_measured
from service.quantization.planning.planner import Planned, make_plan
from service.quantization.planning.rules import rules_of
from tests.unit.quantization.small_models import Array, fp32, model_of, saved, value

LAYERS = ("a", "b", "c", "d", "e")
OUTPUTS = np.random.default_rng(1).normal(0, 1, (64, 10)).astype(np.float32)


def chain(**weights: Array) -> Graph:
    """Five 1x1 convolutions of 32 channels with rectifiers between; `weights` replaces some."""
    nodes: list[NodeProto] = []
    source, constants = "x", {}
    random = np.random.default_rng(7)
    for name in LAYERS:
        constants[f"{name}.w"] = random.normal(0, 0.18, (32, 32, 1, 1)).astype(np.float32)
        nodes.append(helper.make_node("Conv", [source, f"{name}.w"], [f"{name}.c"], name))
        nodes.append(helper.make_node("Relu", [f"{name}.c"], [f"{name}.y"], f"{name}.relu"))
        source = f"{name}.y"
    nodes[-1].output[0] = "y"
    constants |= {f"{name}.w": weight for name, weight in weights.items()}
    return Graph(model_of(nodes, [value("x", ("n", 32, 4, 4))], [value("y", None)], constants))


def chosen(
    weights: dict[str, float], allowance: Allowance, whole: float | None = None, outputs: tuple[Array, ...] = (OUTPUTS,)
) -> dict[str, str]:
    noise = dict.fromkeys(LAYERS, 1e-6) | weights
    graph = chain()
    whole = sum(noise.values()) if whole is None else whole
    return choose_float(Choice(graph, place(graph, ()), Sensitivity(noise, {}, whole, outputs)), allowance)


def test_nothing_is_kept_where_the_loss_fits_the_budget() -> None:
    assert chosen({}, Allowance(None, 0.05)) == {}


def test_the_costliest_operator_is_kept_with_its_share_of_the_noise_as_reason() -> None:
    kept = chosen({"c": 0.5}, Allowance("agreement", 0.05))
    assert list(kept) == ["c"]
    assert "leave 3.0 dB, 100.0% of all noise, and it does 20.0% of the multiply-accumulates" in kept["c"]


def test_of_several_outputs_the_one_that_loses_most_is_held_against_the_budget() -> None:
    sure = (np.eye(10, dtype=np.float32) * 50)[np.arange(64) % 10]
    assert chosen({"c": 0.01}, Allowance("agreement", 0.02), outputs=(sure,)) == {}
    assert list(chosen({"c": 0.01}, Allowance("agreement", 0.02), outputs=(sure, OUTPUTS))) == ["c"]


def test_no_less_than_the_asked_share_stays_in_int8() -> None:
    noisy = dict.fromkeys(LAYERS, 0.5)
    for share, most in ((0.8, 1), (0.6, 2), (0.0, 5), (1.0, 0)):
        assert len(chosen(noisy, Allowance(None, 0.001, share))) == most


def test_of_two_equal_operators_the_neighbour_of_a_float_one_is_kept() -> None:
    kept = chosen({"b": 0.5, "c": 0.01, "e": 0.01}, Allowance(None, 1e-4, 0.6))
    assert set(kept) == {"b", "c"}


def test_parts_that_add_up_to_more_than_their_sum_are_judged_by_the_whole() -> None:
    assert chosen({"c": 0.001}, Allowance(None, 0.05)) == {}
    assert list(chosen({"c": 0.001}, Allowance(None, 0.05), whole=0.01)) == ["c"]


def test_what_is_kept_by_measurement_says_so_and_what_the_recipe_keeps_says_that() -> None:
    placement = place_measured(place, chain(), ("b",), {"b": "measured", "c": "measured"})
    reasons = {operator.name: operator.reason for operator in placement.operators}
    assert (reasons["b"], reasons["c"]) == ("kept in floating point by keep_float 'b'", "measured")
    assert [operator.name for operator in placement.weighted] == ["a", "d", "e"]


def test_patterns_match_exactly_the_names_they_are_made_of() -> None:
    for name in ("conv[1]", "a*", "op:Conv", "plain/Conv_1"):
        node = helper.make_node("Conv", ["x", "w"], ["y"], name)
        other = helper.make_node("Conv", ["x", "w"], ["y"], "conv1")
        model = model_of(
            [node], [value("x", ("n", 32, 4, 4))], [value("y", None)], {"w": fp32(np.ones((32, 32, 1, 1)))}
        )
        assert place(Graph(model), patterns_of([name])).weighted == ()
        model.graph.node[0].CopyFrom(other)
        assert len(place(Graph(model), patterns_of([name])).weighted) == 1


def test_runs_follow_the_graph() -> None:
    around = operators_around(chain(), set(LAYERS))
    assert around["x"] == {"a"}
    assert around["b.c"] == around["b.y"] == {"b", "c"}
    assert around["y"] == {"e"}
    runs = connected_runs({"a": {"b"}, "b": {"a", "c"}, "c": {"b"}}, 2)
    assert [sorted(run) for run in runs] == [["a"], ["b"], ["c"], ["a", "b"], ["b", "c"]]


@pytest.mark.parametrize(("metric", "noise", "low", "high"), [
    (None, 0.0, 0, 0), ("top1", 1e-8, 0, 0.01), ("top1", 1.0, 0.3, 0.9), ("top5", 1.0, 0.01, 0.5),
    ("cosine", 1.0, 0.25, 0.35), ("mae", 1.0, 0.75, 0.85), ("mae", 0.01, 0.075, 0.085),
])  # fmt: skip
def test_loss_is_predicted_from_noise(metric: str | None, noise: float, low: float, high: float) -> None:
    assert low <= predicted_loss(metric, OUTPUTS, noise) <= high


def test_the_layer_with_an_outlier_channel_is_found_and_keeping_it_helps(
    tmp_path: Path,
) -> None:
    # One huge weight on a channel that is always zero: per tensor it leaves the others no levels.
    outlier = np.random.default_rng(3).normal(0, 0.18, (32, 32, 1, 1)).astype(np.float32)
    dead = np.random.default_rng(4).normal(0, 0.18, (32, 32, 1, 1)).astype(np.float32)
    dead[0], outlier[:, 0] = -np.abs(dead[0]), 40.0
    graph = chain(b=dead, c=outlier)
    rows = {"x": np.random.default_rng(5).uniform(0, 1, (16, 32, 4, 4)).astype(np.float32)}
    placement, rules = place(graph, ()), rules_of("onnxruntime")
    observed = ObservedModel(saved(graph.model, tmp_path / "m.onnx"), placement.observed, 1)
    ranges = {name: (float(seen.min()), float(seen.max())) for name, seen in observed.run(rows)}
    plan = make_plan(Planned(graph, placement, ranges), Recipe(), rules.grids)
    done: list[float] = []
    subject = Subject(graph, graph, plan, rules.emit(graph.model, plan), 1)
    sensitivity = measure(subject, [rows], done.append)
    assert max(sensitivity.weights, key=lambda name: sensitivity.weights[name]) == "c"
    assert done == sorted(done)
    assert 0 < done[-1] <= 1
    together = measure(subject, [rows], done.append, most=3).weights
    assert together["a"] == together["b"] != together["c"] == together["d"] != together["e"]
    kept = choose_float(Choice(graph, placement, sensitivity), Allowance("mae", 1e-6, 0.75))
    assert list(kept) == ["c"]
    mixed = make_plan(Planned(graph, place_measured(place, graph, (), kept), ranges), Recipe(), rules.grids)
    float_answer = simulated(graph.model, 1).infer(rows)["y"]
    errors = [
        np.abs(simulated(rules.emit(graph.model, each), 1).infer(rows)["y"] - float_answer).mean()
        for each in (plan, mixed)
    ]
    assert errors[1] < errors[0] / 2


def test_activations_are_measured_with_weights_in_floating_point(tmp_path: Path) -> None:
    # Per tensor, as ONNX Runtime would round it between two pairs, the huge weight leaves the others no levels.
    outlier = np.random.default_rng(3).normal(0, 0.18, (32, 32, 1, 1)).astype(np.float32)
    outlier[0] *= 100
    graph, rules = chain(c=outlier), rules_of("onnxruntime")
    rows = {"x": np.random.default_rng(5).uniform(0, 1, (16, 32, 4, 4)).astype(np.float32)}
    placement = place(graph, ())
    observed = ObservedModel(saved(graph.model, tmp_path / "m.onnx"), placement.observed, 1)
    ranges = {name: (float(seen.min()), float(seen.max())) for name, seen in observed.run(rows)}
    plan = make_plan(Planned(graph, placement, ranges), Recipe(), rules.grids)
    subject = Subject(graph, graph, plan, rules.emit(graph.model, plan), 1)
    found = measure(subject, [rows], lambda share: None, most=1)
    expected, rounded = (
        simulated(model, 1).infer(rows)["y"] for model in (graph.model, with_quantized(graph, plan.activations))
    )
    assert sum(found.activations.values()) == pytest.approx(noise_share(expected, rounded), rel=0.01)


def test_scores_that_a_mask_took_out_predict_no_loss_of_their_own() -> None:
    masked = OUTPUTS.copy()
    masked[:, 7] = -np.inf
    assert 0 < predicted_loss("agreement", masked, 0.05) < 1
    assert predicted_loss("agreement", np.full((4, 2), -np.inf), 0.05) == 0


def test_the_scores_are_judged_where_another_output_comes_first(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["scores"], "head"),
        helper.make_node("ArgMax", ["scores"], ["class"], "best", axis=1, keepdims=0),
    ]
    weight = np.random.default_rng(3).normal(0, 1, (6, 5)).astype(np.float32)
    ends = [value("class", ("n",), TensorProto.INT64), value("scores", ("n", 5))]
    graph = Graph(model_of(nodes, [value("x", ("n", 6))], ends, {"w": weight}))
    rules, rows = rules_of("onnxruntime"), np.random.default_rng(4).normal(0, 1, (16, 6)).astype(np.float32)
    plan = make_plan(Planned(graph, rules.place(graph, ()), {"x": (-4, 4), "scores": (-9, 9)}), Recipe(), rules.grids)
    found = measure(Subject(graph, graph, plan, rules.emit(graph.model, plan), 1), [{"x": rows}], lambda share: None)
    assert np.allclose(found.outputs[0], rows @ weight, atol=1e-4)


def test_an_output_without_rows_is_not_judged(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["scores"], "head"),
        helper.make_node("Compress", ["scores", "none"], ["found"], "pick", axis=0),
    ]
    weight = np.random.default_rng(3).normal(0, 1, (6, 5)).astype(np.float32)
    ends = [value("found", ("m", 5)), value("scores", ("n", 5))]
    model = model_of(nodes, [value("x", ("n", 6))], ends, {"w": weight, "none": np.array([False])})
    graph, rules = Graph(model), rules_of("onnxruntime")
    rows = {"x": np.random.default_rng(4).normal(0, 1, (16, 6)).astype(np.float32)}
    plan = make_plan(Planned(graph, rules.place(graph, ()), {"x": (-4, 4), "scores": (-9, 9)}), Recipe(), rules.grids)
    subject = Subject(graph, graph, plan, rules.emit(graph.model, plan), 1)
    assert [values.shape for values in measure(subject, [rows], lambda share: None).outputs] == [(16, 5)]
    del model.graph.output[1]
    alone = replace(subject, graph=Graph(model), tuned=Graph(model), emitted=rules.emit(model, plan))
    nothing = measure(alone, [rows], lambda share: None)
    assert (nothing.whole, predicted_loss(None, nothing.outputs[0], 1.0)) == (0, 0)


def test_an_input_that_is_left_out_makes_nobody_neighbours() -> None:
    graph = chain()
    for node in graph.nodes:
        if node.op_type == "Relu":
            node.input.append("")
    assert "" not in operators_around(graph, set(LAYERS))
