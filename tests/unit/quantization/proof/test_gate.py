"""The verdict follows from the numbers, and among several engines the right one wins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from service.domain.recipe import Budget, Recipe
from service.quantization.proof.gate import Judgement, judge, pick
from service.quantization.task import PipelineTask


def task(metric: str | None = "top1", max_loss: float = 0.01, min_speedup: float | None = None) -> PipelineTask:
    return PipelineTask(Path("f"), Path("m"), Recipe(), Budget(metric, max_loss, min_speedup), None, None, 1)


def found(loss: float | None, engine_not_finite: int = 0) -> dict[str, Any]:
    engine = None if loss is None else 0.98 * (1 - loss)
    timings = [{"batch": batch, "rows_per_second": batch * 10.0, "p50_seconds": 0.1} for batch in (1, 8, 32)]
    slower = [timing | {"p50_seconds": 0.12 if timing["batch"] == 8 else 0.01} for timing in timings]
    rows = {"rows": 512, "rows_left_out": 0}
    output = {"name": "scores", "engine_not_finite": engine_not_finite, "reference_not_finite": 0, "compared": 5120}
    candidate = {
        "scores": "scores",
        "ranked": ["scores"],
        "metrics": {
            "top1": {"reference": 0.98, "engine": engine, "loss": loss, **rows},
            "mae": {"engine": 0.5, "loss": 0.5, **rows},
        },
        "latency": {"engine": timings, "reference": slower},
        "outputs": [output | rows],
        "consistency": [{"name": "row_order", "held": True, "detail": ""}, {"name": "zero_rows", "held": None}],
    }
    return {"labels": True, "rows": 512, "validated_on": "validation", "candidates": {"onnxruntime": candidate}}


@pytest.mark.parametrize(
    ("loss", "passed"), [(-0.02, True), (0.0, True), (0.01, True), (0.01 + 1e-12, True), (0.0101, False), (1.0, False)]
)
def test_a_loss_up_to_the_budget_passes(loss: float, passed: bool) -> None:
    assert judge(task(), found(loss), "onnxruntime").passed is passed


def test_the_reason_holds_the_numbers() -> None:
    reason = judge(task(), found(0.05), "onnxruntime").reason
    assert reason == (
        "top1 went from 0.9800 to 0.9310, a loss of 0.050000, outside the budget of 0.01, on 512 validation rows"
    )
    assert judge(task("mae", 0.7), found(0.0), "onnxruntime").reason == (
        "mae is 0.5, within the budget of 0.7, on 512 validation rows"
    )


def test_of_several_outputs_the_reason_names_the_judged_one() -> None:
    seen = found(0.05)
    candidate = seen["candidates"]["onnxruntime"]
    candidate["outputs"].append(candidate["outputs"][0] | {"name": "embedding"})
    for figures in candidate["metrics"].values():
        figures["output"] = "scores"
    reason = judge(task(), seen, "onnxruntime").reason
    assert reason.startswith("top1 of output 'scores' went from 0.9800 to 0.9310")
    assert judge(task("mae", 0.7), seen, "onnxruntime").reason.startswith("mae of output 'scores' is 0.5, within")


def test_an_engine_that_gives_nan_is_rejected_whatever_its_accuracy() -> None:
    judgement = judge(task(), found(0.0, engine_not_finite=3), "onnxruntime")
    assert not judgement.passed
    assert judgement.reason.startswith("output 'scores' of the engine is NaN or infinite in 3 places")


def test_a_reference_that_is_nowhere_finite_proves_nothing() -> None:
    seen = found(0.0)
    seen["candidates"]["onnxruntime"]["outputs"][0] |= {"reference_not_finite": 5120, "compared": 0}
    judgement = judge(task("mae"), seen, "onnxruntime")
    assert not judgement.passed
    assert judgement.reason.startswith("output 'scores' of the reference is NaN or infinite everywhere on 512")


@pytest.mark.parametrize(("left_out", "passed"), [(1, True), (256, True), (257, False), (511, False)])
def test_only_the_rows_that_were_judged_are_stated_and_they_are_half_of_all_at_least(
    left_out: int, passed: bool
) -> None:
    seen = found(0.0)
    counts = {"rows": 512 - left_out, "rows_left_out": left_out}
    candidate = seen["candidates"]["onnxruntime"]
    candidate["outputs"][0] |= counts
    candidate["metrics"]["top1"] |= counts
    judgement = judge(task(), seen, "onnxruntime")
    assert judgement.passed is passed
    if passed:
        assert judgement.reason.endswith(f", on {512 - left_out} of 512 validation rows")
    else:
        assert f"holds no finite value in {left_out} of 512 validation rows" in judgement.reason


def test_a_reference_that_gives_no_values_proves_nothing() -> None:
    seen = found(0.0)
    seen["candidates"]["onnxruntime"]["outputs"][0]["compared"] = 0
    judgement = judge(task(), seen, "onnxruntime")
    assert not judgement.passed
    assert judgement.reason.startswith("the reference gives no value on 512 validation rows")


def test_an_output_that_the_metric_does_not_judge_may_hold_few_numbers() -> None:
    seen = found(0.0)
    outputs = seen["candidates"]["onnxruntime"]["outputs"]
    outputs.append(outputs[0] | {"name": "depth", "rows": 1, "rows_left_out": 511})
    seen["candidates"]["onnxruntime"]["metrics"]["top1"]["output"] = "scores"
    seen["candidates"]["onnxruntime"]["metrics"]["mae"]["output"] = "scores"
    assert judge(task(), seen, "onnxruntime").passed
    assert not judge(task("mae", 0.7), seen, "onnxruntime").passed


def test_an_engine_that_breaks_a_promise_is_rejected_whatever_its_accuracy() -> None:
    seen = found(0.0)
    broken = {"name": "identical_rows", "held": False, "detail": "answers to identical rows differ by 0.9"}
    seen["candidates"]["onnxruntime"]["consistency"].append(broken)
    judgement = judge(task(), seen, "onnxruntime")
    assert not judgement.passed
    assert judgement.reason == (
        "the engine does not agree with itself (identical_rows): answers to identical rows differ by 0.9"
    )


def test_a_reference_that_is_never_right_proves_nothing() -> None:
    judgement = judge(task(), found(None), "onnxruntime")
    assert not judgement.passed
    assert "right on no row on 512 validation rows" in judgement.reason
    assert "check the order of the labels" in judgement.reason


def test_speed_is_judged_at_the_optimal_batch() -> None:
    assert judge(task(), found(0.0), "onnxruntime").seconds_per_row == 1 / 80


@pytest.mark.parametrize(("asked", "passed"), [(None, True), (0.5, True), (1.2, True), (1.21, False)])
def test_an_engine_slower_than_the_budget_asks_is_rejected(asked: float | None, passed: bool) -> None:
    judgement = judge(task(min_speedup=asked), found(0.0), "onnxruntime")
    assert judgement.passed is passed
    told = "; but at batch 8 it has 1.200 times the reference's speed, below budget.min_speedup of 1.21"
    assert judgement.reason.endswith(told) is not passed


def test_an_engine_outside_the_accuracy_budget_is_told_so_first() -> None:
    assert judge(task(min_speedup=9), found(0.05), "onnxruntime").reason.endswith("0.01, on 512 validation rows")


def test_the_fastest_inside_the_budget_wins_else_the_one_that_loses_least() -> None:
    slow, fast = Judgement("a", "passed", 0.0, "", 2.0), Judgement("b", "passed", 0.005, "", 1.0)
    bad, worse = Judgement("c", "rejected", 0.02, "", 0.1), Judgement("d", "rejected", None, "", 0.05)
    assert pick([slow, bad, fast, worse]) is fast
    assert pick([worse, bad]) is bad
