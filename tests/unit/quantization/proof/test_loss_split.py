"""The legs' losses add up to the engine's, and each is charged to what caused it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest

from service.domain.recipe import Budget, Recipe
from service.domain.tensor import TensorSpec
from service.engines.engine import Array
from service.engines.onnxruntime_engine import OnnxRuntimeEngine
from service.quantization.data.rows import Feed, Rows
from service.quantization.measures.simulation import simulated
from service.quantization.proof.loss_split import _decibels_or_more, split_loss
from service.quantization.task import PipelineTask
from tests.unit.quantization.int8 import quantize
from tests.unit.quantization.small_models import classifier, images, saved

RUNTIME = "onnxruntime"


class Shifted:
    """Another engine's answers with its scores turned by one class: what a broken kernel may give."""

    def __init__(self, inner: OnnxRuntimeEngine) -> None:
        self._inner = inner

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self._inner.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self._inner.outputs

    def infer(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        return {name: values[:, [1, 2, 3, 0]] for name, values in self._inner.infer(inputs, outputs).items()}

    def close(self) -> None:
        return None


@pytest.fixture
def task(tmp_path: Path) -> PipelineTask:
    emitted, _ = quantize(classifier(), {"x": images(64)}, tmp_path)
    (tmp_path / RUNTIME).mkdir()
    saved(emitted, tmp_path / RUNTIME / "converted.onnx")
    return PipelineTask(tmp_path, tmp_path / "float.onnx", Recipe(), Budget("mae", 1), None, None, 1)


def split(task: PipelineTask, broken: bool = False, rows: int = 40) -> dict[str, Any]:
    reference = OnnxRuntimeEngine.load(task.model, 1)
    loaded = OnnxRuntimeEngine.load(task.folder / RUNTIME / "converted.onnx", 1)
    feed = Feed.of(Rows("validation", {"x": images(rows, 7)}, None), reference.inputs)
    found = split_loss(task, RUNTIME, (reference, Shifted(loaded) if broken else loaded), feed, ["scores"])
    assert found is not None
    return found


def test_the_legs_add_up_to_the_whole_loss(task: PipelineTask) -> None:
    found = split(task)
    legs = {leg["leg"]: leg for leg in found["legs"]}
    assert list(legs) == ["float_graph", "plan", "engine"]
    assert sum(leg["loss"] for leg in legs.values()) == pytest.approx(found["total_loss"])
    assert found["total_loss"] == pytest.approx(legs["engine"]["value"])
    assert legs["float_graph"]["loss"] < 1e-5
    assert legs["plan"]["loss"] > 100 * abs(legs["float_graph"]["loss"])
    assert abs(legs["engine"]["loss"]) < legs["plan"]["loss"] / 4
    assert legs["plan"]["sqnr_db"] < 60


def test_what_the_kernels_spoil_is_the_engines_leg(task: PipelineTask) -> None:
    sound, broken = ({leg["leg"]: leg for leg in split(task, broken=broken)["legs"]} for broken in (False, True))
    assert broken["plan"] == sound["plan"]
    assert broken["engine"]["loss"] > 10 * broken["plan"]["loss"]
    assert broken["engine"]["sqnr_db"] < 10


def test_the_metric_is_the_budgets_or_the_best_that_can_be_told(task: PipelineTask) -> None:
    found = split(replace(task, budget=Budget()))
    assert found["metric"] == "agreement"
    assert found["legs"][0]["value"] == 1


def test_the_cost_is_bounded(task: PipelineTask) -> None:
    assert split(task, rows=300)["rows"] == 128


def test_a_graph_that_cannot_be_simulated_leaves_its_leg_out_and_says_so(task: PipelineTask) -> None:
    reference = OnnxRuntimeEngine.load(task.model, 1)
    feed = Feed.of(Rows("validation", {"x": images(8)}, None), reference.inputs)
    path = task.folder / RUNTIME / "converted.onnx"
    model = onnx.load_model(path)
    model.graph.node[-1].domain = "nowhere"
    saved(model, path)
    found = split_loss(task, RUNTIME, (reference, reference), feed, ["scores"])
    assert found is not None
    assert [leg["leg"] for leg in found["legs"]] == ["float_graph", "engine"]
    assert found["note"].startswith("the emitted graph cannot be simulated on this host: ")


def test_a_float_engine_has_no_plan_to_split_by(task: PipelineTask) -> None:
    reference = simulated(classifier(), 1)
    feed = Feed.of(Rows("validation", {"x": images(8)}, None), reference.inputs)
    fp32 = replace(task, recipe=Recipe(precision="fp32"))
    assert split_loss(fp32, RUNTIME, (reference, reference), feed, ["scores"]) is None


def test_noise_on_outputs_that_are_all_zero_is_the_worst_of_all() -> None:
    noise = {"sqnr_db": None, "max": 0.5, "engine_not_finite": 0}
    assert _decibels_or_more(noise) < _decibels_or_more({"sqnr_db": -90.0, "max": 1.0, "engine_not_finite": 0})
    assert _decibels_or_more({"sqnr_db": None, "max": 0.0, "engine_not_finite": 0}) > 1e9
    assert _decibels_or_more({"sqnr_db": None, "max": 0.0, "engine_not_finite": 7}) < -1e9


def test_a_loss_that_no_leg_tells_is_not_zero(task: PipelineTask) -> None:
    reference = OnnxRuntimeEngine.load(task.model, 1)
    rows = images(40, 7)
    labels = (reference.infer({"x": rows})["scores"].argmax(axis=1) + 1) % 4
    feed = Feed.of(Rows("validation", {"x": rows}, labels), reference.inputs)
    found = split_loss(replace(task, budget=Budget("top1", 1)), RUNTIME, (reference, None), feed, ["scores"])
    assert found is not None
    assert found["total_loss"] is None
