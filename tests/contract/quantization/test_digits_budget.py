"""Every way to quantize stays within 1 % on the shipped digits model, on CPUs with and without dot products."""

from __future__ import annotations

from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import onnx
import pytest

from service.domain.recipe import GRANULARITIES, METHODS, SCHEMES, Calibration, Recipe
from service.engines.onnxruntime_engine import OnnxRuntimeEngine
from service.quantization.calibration.observation import ObservedModel, observe
from service.quantization.calibration.ranges import find_range
from service.quantization.data.rows import Array, Feed, Rows
from service.quantization.emitters.onnxruntime import emit_onnxruntime
from service.quantization.graphs.graph import Graph
from service.quantization.measures.histogram import Histogram
from service.quantization.placements.onnxruntime import place
from service.quantization.placements.placement import Placement
from service.quantization.planning.planner import Planned, make_plan
from service.quantization.planning.rules import rules_of
from service.quantization.preparation.preparation import LOWEST_OPSET, prepare

DIGITS = Path(__file__).parents[3] / "models" / "digits"
MAX_LOSS = 0.01


def rows(name: str) -> tuple[Array, Array]:
    with np.load(DIGITS / f"{name}.npz") as archive:
        return archive["input"], archive["labels"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("digits") / "prepared.onnx"
    prepare(DIGITS / "digits.onnx", path, LOWEST_OPSET)
    return path


@cache
def calibrated(prepared: Path) -> tuple[Graph, Placement, dict[str, Histogram]]:
    """One pass over the rows serves every method."""
    graph = Graph.load(prepared)
    placement = place(graph, ())
    inputs = OnnxRuntimeEngine.load(prepared, 1).inputs
    feed = Feed.of(Rows("calibration", {"input": rows("calibration")[0]}, None), inputs)
    return graph, placement, observe(ObservedModel(prepared, placement.observed, 1), feed, 256, lambda fraction: None)


def accuracy(path: Path) -> float:
    images, labels = rows("validation")
    logits = OnnxRuntimeEngine.load(path, 1).infer({"input": images})["logits"]
    return float((logits.argmax(axis=1) == labels).mean())


@pytest.mark.parametrize("reduce_range", [False, True])
@pytest.mark.parametrize(("scheme", "granularity", "method"), list(product(SCHEMES, GRANULARITIES, METHODS)))
def test_every_recipe_loses_at_most_one_percent(
    prepared: Path, scheme: str, granularity: str, method: str, reduce_range: bool
) -> None:
    recipe = Recipe(scheme=scheme, granularity=granularity, calibration=Calibration(method=method))
    graph, placement, histograms = calibrated(prepared)
    ranges = {name: find_range(seen, recipe.calibration, scheme == "symmetric") for name, seen in histograms.items()}
    engine = prepared.with_name(f"{scheme}-{granularity}-{method}-{reduce_range}.onnx")
    cpu_flags = ("avx2",) if reduce_range else None
    plan = make_plan(Planned(graph, placement, ranges, cpu_flags), recipe, rules_of("onnxruntime").grids)
    onnx.save_model(emit_onnxruntime(graph.model, plan), engine)
    assert 1 - accuracy(engine) / accuracy(DIGITS / "digits.onnx") <= MAX_LOSS
