"""The report's own figures: speed, warnings, and prediction beside execution."""

from __future__ import annotations

from typing import Any

import pytest

from service.quantization.graphs.graph import Graph
from service.quantization.lint.fusion_table import beside, mismatch_warnings, unfused
from service.quantization.lint.prediction import Predicted
from service.quantization.report.report import int8_mac_share, speed_of, unjudged_warnings
from tests.unit.quantization.small_models import classifier, relu_model


def latency(reference: float, engine: float) -> dict[str, list[dict[str, Any]]]:
    return {
        side: [{"batch": batch, "p50_seconds": seconds * batch} for batch in (1, 8, 32)]
        for side, seconds in (("reference", reference), ("engine", engine))
    }


def test_speed_is_told_at_the_batch_nearest_to_the_optimal_one() -> None:
    speed = speed_of(latency(0.002, 0.001), 6)
    assert (speed["batch"], speed["speedup"], speed["faster"]) == (8, 2.0, True)
    assert [entry["batch"] for entry in speed["by_batch"]] == [1, 8, 32]
    assert not speed_of(latency(0.001, 0.001), 8)["faster"]


def test_prediction_and_execution_stand_side_by_side() -> None:
    predicted = [
        Predicted("a", "Conv", True, "r1"),
        Predicted("b", "Conv", True, "r1"),
        Predicted("c", "Relu", True, "r2"),
        Predicted("d", "Conv", False, "r3"),
    ]
    executed = [
        {"name": "a", "operator": "QLinearConv", "int8": True},
        {"name": "b", "operator": "Conv", "int8": False},
        {"name": "d", "operator": "QLinearConv", "int8": True},
    ]
    table = beside(predicted, executed)
    assert [entry["executed"] for entry in table] == [True, False, None, True]
    assert unfused(table) == ["b"]
    assert mismatch_warnings(table) == [
        "1 operators run in floating point though the lint expected INT8, for example 'b'",
        "1 operators run in INT8 though the lint expected floating point, for example 'd'",
    ]
    assert mismatch_warnings(table[:1]) == []


def test_the_share_of_multiply_accumulates_counts_what_runs_in_int8() -> None:
    def entry(name: str, runs: bool | None) -> dict[str, Any]:
        return {"name": name, "precision": "INT8", "runs_int8": runs}

    graph = Graph(classifier())
    # 8 x 8 positions: stem 27 x 8, depthwise 9 x 8, pointwise 8 x 8; head 8 x 4.
    total = 64 * (216 + 72 + 64) + 32
    assert int8_mac_share(graph, [entry("stem", True), entry("dw", None)]) == pytest.approx(64 * 288 / total)
    assert int8_mac_share(graph, [entry("stem", False)]) == 0
    assert int8_mac_share(Graph(relu_model()), []) is None


def test_a_float_output_that_the_metric_does_not_judge_is_warned_of_where_it_is_far_off() -> None:
    def output(name: str, cosine: float, **more: Any) -> dict[str, Any]:
        return {"name": name, "cosine": cosine, "compared": 40, "float": True} | more

    outputs = [output("logits", 0.2), output("map", 0.949), output("sound", 0.951), output("class", 0.1, float=False)]
    measured = {"outputs": [*outputs, output("untold", 0.0, compared=0)], "ranked": ["logits"]}
    (warning,) = unjudged_warnings(measured, "top1")
    assert warning.startswith("output 'map' is not judged by top1")
    assert "their cosine is 0.949, below 0.95" in warning
    assert unjudged_warnings(measured, "cosine") == []
