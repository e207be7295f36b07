"""A detector's scores survive beside its boxes, with no exclude list."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, helper

from service.domain.recipe import Recipe
from service.quantization.calibration.observation import ObservedModel
from service.quantization.graphs.graph import Graph
from service.quantization.placements.onnxruntime import place
from service.quantization.placements.placement import place_measured
from service.quantization.placements.spread import LARGEST_SPREAD, joined_parts, spread_reasons
from service.quantization.planning.planner import Planned, make_plan
from service.quantization.planning.rules import rules_of
from tests.unit.quantization.int8 import run
from tests.unit.quantization.small_models import Array, fp32, model_of, saved, value


def head(reader: str | None = None) -> ModelProto:
    """Boxes and scores of 16 places in one Concat, whose result is the output or is read by a layer in INT8."""
    random = np.random.default_rng(5)
    constants: dict[str, Array] = {
        "boxes.w": random.normal(0, 1, (4, 3, 1, 1)).astype(np.float32),
        "scores.w": random.normal(0, 1, (2, 3, 1, 1)).astype(np.float32),
        "size": fp32(640),
        "mix": random.normal(0, 1, (6, 6, 1, 1)).astype(np.float32) * fp32([1e-3] * 4 + [1, 1]).reshape(1, 6, 1, 1),
    }
    nodes = [
        helper.make_node("Conv", ["x", "boxes.w"], ["a"], "boxes"),
        helper.make_node("Sigmoid", ["a"], ["b"], "inside"),
        helper.make_node("Mul", ["b", "size"], ["c"], "scaled"),
        helper.make_node("Conv", ["x", "scores.w"], ["d"], "scores"),
        helper.make_node("Sigmoid", ["d"], ["e"], "certain"),
        helper.make_node("Concat", ["c", "e"], ["f"], "join", axis=1),
    ]
    if reader == "Conv":
        nodes.append(helper.make_node("Conv", ["f", "mix"], ["y"], "reader"))
    elif reader == "Transpose":
        nodes.append(helper.make_node("Transpose", ["f"], ["g"], "turn", perm=[0, 1, 3, 2]))
        nodes.append(helper.make_node("Conv", ["g", "mix"], ["y"], "reader"))
    else:
        nodes[-1].output[0] = "y"
    return model_of(nodes, [value("x", ("n", 3, 4, 4))], [value("y", None)], constants)


RANGES = {"c": (0.0, 640.0), "e": (0.0, 1.0)}


@pytest.mark.parametrize("reader", [None, "Conv", "Transpose"])
def test_boxes_and_scores_share_no_grid(reader: str | None) -> None:
    graph = Graph(head(reader))
    assert joined_parts(graph) == ("c", "e")
    reasons = spread_reasons(graph, RANGES)
    placement = place_measured(place, graph, (), reasons)
    assert not {"f", "g", "y"} & placement.grids.keys()
    by_name = {operator.name: operator for operator in placement.operators}
    assert by_name["join"].precision == "FP32"
    assert "'c' spans 640 and 'e' 1, 640 times less" in by_name["join"].reason
    assert by_name["boxes"].precision == by_name["scores"].precision == "INT8"
    if reader is not None:
        assert by_name["reader"].precision == "FP32"
        assert "reads 'join' in floating point" in by_name["reader"].reason


def test_parts_of_like_ranges_are_joined_in_int8() -> None:
    graph = Graph(head("Conv"))
    assert spread_reasons(graph, {"c": (0.0, LARGEST_SPREAD), "e": (0.0, 1.0)}) == {}
    assert spread_reasons(graph, {"c": (0.0, LARGEST_SPREAD * 1.01), "e": (0.0, 1.0)}) != {}


def test_a_part_that_is_always_zero_or_has_no_range_forces_nothing() -> None:
    graph = Graph(head("Conv"))
    assert spread_reasons(graph, {"c": (0.0, 640.0), "e": (0.0, 0.0)}) == {}
    assert spread_reasons(graph, {"c": (0.0, 640.0)}) == {}


@pytest.mark.parametrize("reader", [None, "Conv"])
def test_scores_of_the_engine_survive_beside_boxes(tmp_path: Path, reader: str | None) -> None:
    model = head(reader)
    graph, rules = Graph(model), rules_of("onnxruntime")
    rows = {"x": np.random.default_rng(6).normal(0, 1, (32, 3, 4, 4)).astype(np.float32)}
    tensors = (*place(graph, ()).observed, *joined_parts(graph))
    seen = ObservedModel(saved(model, tmp_path / "m.onnx"), tuple(dict.fromkeys(tensors)), 1).run(rows)
    ranges = {name: (min(0.0, float(values.min())), float(values.max())) for name, values in seen}
    expected = run(model, rows, tmp_path)["y"][:, 4:]
    errors = []
    for reasons in ({}, spread_reasons(graph, ranges)):
        plan = make_plan(Planned(graph, place_measured(place, graph, (), reasons), ranges), Recipe(), rules.grids)
        errors.append(np.abs(run(rules.emit(model, plan), rows, tmp_path)["y"][:, 4:] - expected).max())
    assert errors[1] < 0.05
    assert reader is None or errors[0] > 0.4
