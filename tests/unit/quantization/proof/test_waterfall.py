"""Each operator's part in the error is what it adds by itself, and the cause is the one that was built in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper

from service.domain.recipe import Calibration, Recipe
from service.engines.onnxruntime_engine import OnnxRuntimeEngine
from service.quantization.data.rows import Array, Feed, Rows
from service.quantization.emitters.tensorrt import emit_tensorrt, plan_in_half
from service.quantization.graphs.emitted_graph import EmittedGraph
from service.quantization.graphs.graph import Graph
from service.quantization.measures.simulation import simulated
from service.quantization.proof.step_figures import StepFigures
from service.quantization.proof.waterfall import Waterfall, explain, kernels_differ
from tests.unit.quantization.int8 import quantize
from tests.unit.quantization.small_models import classifier, fp32, images, model_of, saved, value


def explained(
    model: ModelProto, rows: Array, folder: Path, recipe: Recipe | None = None, kernels: bool = False
) -> dict[str, dict[str, Any]]:
    emitted, _ = quantize(model, {"x": rows}, folder, recipe or Recipe(calibration=Calibration("minmax")))
    path = saved(emitted, folder / "int8.onnx")
    feed = Feed.of(Rows("validation", {"x": rows}, None), OnnxRuntimeEngine.load(path, 1).inputs)
    found = explain((folder / "prepared.onnx", path), feed, (kernels, False), 1)
    assert set(found["top"]) <= {entry["name"] for entry in found["operators"]}
    assert sum(entry["share"] for entry in found["operators"]) == pytest.approx(1)
    return {entry["name"]: entry for entry in found["operators"]}


def one_layer(weight: Array, bias: Array | None = None) -> ModelProto:
    """y = x W + b, 64 inputs."""
    constants = {"w": weight} | ({} if bias is None else {"b": bias})
    node = helper.make_node("Gemm", ["x", *constants], ["y"], "layer")
    return model_of([node], [value("x", ("n", 64))], [value("y", ("n", weight.shape[1]))], constants)


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


def test_every_quantized_operator_stands_in_the_graphs_order_with_its_own_and_the_gathered_error(
    tmp_path: Path,
) -> None:
    found = explained(classifier(), images(32), tmp_path)
    assert list(found) == ["x", "stem", "stem/relu", "dw", "dw/clip", "pw", "residual", "pool", "head"]
    for entry in found.values():
        assert entry["local_sqnr_db"] >= entry["accumulated_sqnr_db"] - 0.5
        assert entry["local_sqnr_db"] > 30
    assert found["head"]["accumulated_sqnr_db"] < found["x"]["accumulated_sqnr_db"]


@pytest.mark.parametrize(
    ("runtime", "around"), [("onnxruntime", "fp32"), ("openvino", "fp32"), ("tensorrt", "fp32"), ("tensorrt", "fp16")]
)
def test_every_runtimes_graph_is_read(tmp_path: Path, runtime: str, around: str) -> None:
    rows = images(32)
    recipe = Recipe(calibration=Calibration("minmax"))
    emitted, plan = quantize(classifier(), {"x": rows}, tmp_path, recipe, runtime=runtime)
    if around == "fp16":
        graph = Graph.load(tmp_path / "prepared.onnx")
        plan = plan_in_half(plan, graph, (), around)
        emitted = emit_tensorrt(graph.model, plan, around)
    path = saved(emitted, tmp_path / "emitted.onnx")
    feed = Feed.of(Rows("validation", {"x": rows}, None), OnnxRuntimeEngine.load(path, 1).inputs)
    found = {
        entry["name"]: entry
        for entry in explain((tmp_path / "prepared.onnx", path), feed, (False, False), 1)["operators"]
    }
    assert {grids.operator for grids in plan.weights} <= found.keys()
    for entry in found.values():
        assert entry["accumulated_sqnr_db"] is None or entry["accumulated_sqnr_db"] > 15
        assert entry["local_sqnr_db"] is None or entry["local_sqnr_db"] > 25
    assert sum(entry["share"] for entry in found.values()) == pytest.approx(1)


def test_the_local_graph_feeds_every_operator_with_the_float_tensors(tmp_path: Path) -> None:
    rows = {"x": images(4)}
    emitted, _ = quantize(classifier(), rows, tmp_path)
    graph = EmittedGraph(onnx.load_model(tmp_path / "prepared.onnx"), emitted)
    given = simulated(graph.local_model(), 1).infer(rows)
    expected = OnnxRuntimeEngine.load(tmp_path / "prepared.onnx", 1).infer(rows)
    np.testing.assert_allclose(given["scores"], expected["scores"], rtol=1e-4)
    # The residual has no weights: before its grid it is the float operator.
    np.testing.assert_array_equal(given["emitted/g"], given["g"])
    assert np.abs(given["emitted/scores"] - given["scores"]).max() > 0


def test_operators_that_only_move_values_on_the_same_grid_have_no_part(tmp_path: Path) -> None:
    assert "flatten" not in explained(classifier(), images(32), tmp_path)


def test_rounding_of_weights_is_named(tmp_path: Path) -> None:
    # Inputs on the grid and no grid behind: only weights can err.
    rows = np.random.default_rng(1).integers(-128, 128, (16, 64)).astype(np.float32)
    rows[0, :2] = -128, 127
    found = explained(one_layer(normal(64, 8)), rows, tmp_path)
    assert (found["layer"]["cause"], found["x"]["cause"]) == ("weight_rounding", "none")
    assert found["layer"]["share"] == pytest.approx(1)
    assert "dB behind rounded weights" in found["layer"]["evidence"]


def test_one_scale_over_unequal_channels_is_named_an_outlier_channel(tmp_path: Path) -> None:
    recipe = Recipe(granularity="per_tensor", calibration=Calibration("minmax"))
    weight = normal(64, 8) * fp32([40, 1, 1, 1, 1, 1, 1, 1])
    found = explained(one_layer(weight), normal(16, 64, seed=2), tmp_path, recipe)
    assert found["layer"]["cause"] == "outlier_channel"
    assert "one scale for all weights" in found["layer"]["evidence"]


def test_a_bias_that_raises_the_weights_scale_is_named(tmp_path: Path) -> None:
    bias = fp32([0, 0, 0, 3e6, 0, 0, 0, 0])
    found = explained(one_layer(normal(64, 8) * 1e-3, bias), normal(16, 64, seed=2), tmp_path)
    assert found["layer"]["cause"] == "bias_overflow"
    assert "of 1 channels" in found["layer"]["evidence"]


def test_values_outside_a_narrow_range_are_named_clipping(tmp_path: Path) -> None:
    rows = normal(64, 64, seed=3)
    rows[:, ::16] *= 30
    recipe = Recipe(calibration=Calibration("percentile", percentile=95.0))
    found = explained(one_layer(normal(64, 8)), rows, tmp_path, recipe)
    assert found["x"]["cause"] == "clipping"
    assert found["x"]["outside_share"] > 0.02


def test_an_activations_outlier_channel_and_its_spread_are_told_apart(tmp_path: Path) -> None:
    rows = normal(32, 64, seed=4)
    far = explained(one_layer(normal(64, 8)), rows * np.r_[fp32([50]), np.ones(63, np.float32)], tmp_path)
    assert far["x"]["cause"] == "outlier_channel"
    even = explained(one_layer(normal(64, 8)), rows, tmp_path)
    assert even["x"]["cause"] == "range_spread"
    assert "levels of its grid" in even["x"]["evidence"]


def test_this_hosts_kernels_give_what_is_simulated_on_the_same_integers(tmp_path: Path) -> None:
    found = explained(classifier(), images(32), tmp_path, kernels=True)
    for entry in found.values():
        assert entry["kernel_sqnr_db"] is None or entry["kernel_sqnr_db"] > 45
        assert entry["cause"] not in ("saturation", "kernel")


def test_a_kernel_that_errs_more_than_rounding_is_named_by_the_cpu(tmp_path: Path) -> None:
    rows = images(16)
    emitted, _ = quantize(classifier(), {"x": rows}, tmp_path)
    waterfall = Waterfall(onnx.load_model(tmp_path / "prepared.onnx"), emitted, 1)
    feed = Feed.of(Rows("validation", {"x": rows}, None), simulated(emitted, 1).inputs)
    waterfall.observe(feed, 4)
    saturating = fp32(np.ones((4, 8)))
    waterfall.figures["dw/clip"].add_kernel(saturating * 90, saturating)
    for saturates, cause in ((True, "saturation"), (False, "kernel")):
        entry = next(entry for entry in waterfall.result(saturates) if entry["name"] == "dw/clip")
        assert entry["cause"] == cause
        assert entry["evidence"].startswith("the engine's kernel adds")


def test_kernels_are_looked_at_only_where_the_engine_is_not_its_simulation() -> None:
    def split(decibels: float | None, exact: bool = False) -> dict[str, Any]:
        engine = {"leg": "engine", "sqnr_db": decibels, "exact": exact}
        return {"legs": [{"leg": "plan", "sqnr_db": 5.0, "exact": False}, engine]}

    assert kernels_differ(split(20.0))
    assert not kernels_differ(split(70.0))
    assert not kernels_differ(split(None, exact=True))
    assert kernels_differ(split(None))
    assert not kernels_differ(None)


@pytest.mark.parametrize("size", [1e-30, 1e25])
def test_powers_are_told_of_values_that_fp32_cannot_square(size: float) -> None:
    figures = StepFigures(None)
    expected = (normal(4, 8) * size).astype(np.float32)
    figures.add(expected, expected * np.float32(1.01), expected * np.float32(1.01), expected)
    assert figures.to_json()["local_sqnr_db"] == pytest.approx(40, abs=0.1)
