"""The int8 path in one call, for tests of its parts: prepare, observe, plan, emit."""

from __future__ import annotations

from pathlib import Path

from onnx import ModelProto

from service.domain.plan import QuantizationPlan
from service.domain.recipe import Recipe
from service.engines.onnxruntime_engine import OnnxRuntimeEngine
from service.quantization.calibration.observation import ObservedModel, observe
from service.quantization.calibration.ranges import find_range
from service.quantization.data.rows import Array, Feed, Rows
from service.quantization.graphs.graph import Graph
from service.quantization.planning.planner import Planned, make_plan
from service.quantization.planning.rules import rules_of
from service.quantization.preparation.preparation import LOWEST_OPSET, prepare
from tests.unit.quantization.small_models import saved


def quantize(
    model: ModelProto,
    rows: dict[str, Array],
    folder: Path,
    recipe: Recipe | None = None,
    reduce_range: bool = False,
    runtime: str = "onnxruntime",
) -> tuple[ModelProto, QuantizationPlan]:
    """The emitted model and its plan, calibrated on all of `rows`."""
    recipe, rules = recipe or Recipe(), rules_of(runtime)
    source = saved(model, folder / "float.onnx")
    prepare(source, folder / "prepared.onnx", LOWEST_OPSET)
    graph = Graph.load(folder / "prepared.onnx")
    placement = rules.place(graph, recipe.keep_float)
    feed = Feed.of(Rows("calibration", rows, None), OnnxRuntimeEngine.load(source, 1).inputs)
    observed = ObservedModel(folder / "prepared.onnx", placement.observed, 1)
    histograms = observe(observed, feed, 10_000, lambda fraction: None)
    symmetric = rules.grids.mirrored(recipe.scheme)
    ranges = {name: find_range(seen, recipe.calibration, symmetric) for name, seen in histograms.items()}
    cpu_flags = ("avx2",) if reduce_range else None
    plan = make_plan(Planned(graph, placement, ranges, cpu_flags), recipe, rules.grids)
    return rules.emit(graph.model, plan), plan


def run(model: ModelProto, rows: dict[str, Array], folder: Path) -> dict[str, Array]:
    """All outputs of one model on one batch."""
    return OnnxRuntimeEngine.load(saved(model, folder / "run.onnx"), 1).infer(rows)
