"""The emitted graph computes what the plan says, and OpenVINO computes what the emitted graph says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper

from service.domain.recipe import GRANULARITIES, SCHEMES, Calibration, Recipe
from service.engines.openvino_engine import OpenVinoEngine
from service.quantization.measures.simulation import simulated
from tests.unit.quantization.bodies import BODIES, body_model, body_rows
from tests.unit.quantization.int8 import quantize, run
from tests.unit.quantization.small_models import Array, classifier, images, model_of, saved, value

ROWS = {"x": images(64)}
MINMAX = Calibration(method="minmax")


def decibels(reference: Array, given: Array) -> float:
    noise = ((reference.astype(np.float64) - given) ** 2).sum()
    return float(10 * np.log10((reference**2).sum() / max(noise, 1e-20)))


def emitted(model: ModelProto, rows: dict[str, Array], folder: Path, recipe: Recipe | None = None) -> ModelProto:
    return quantize(model, rows, folder, recipe or Recipe(calibration=MINMAX), runtime="openvino")[0]


def infer(model: ModelProto, rows: dict[str, Array], folder: Path) -> dict[str, Array]:
    engine = OpenVinoEngine.load(saved(model, folder / "engine.onnx"), 1)
    answers = engine.infer(rows)
    engine.close()
    return answers


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_a_classifier_stays_close_to_its_float_self(tmp_path: Path, scheme: str, granularity: str) -> None:
    model = emitted(classifier(), ROWS, tmp_path, Recipe(scheme=scheme, granularity=granularity, calibration=MINMAX))
    onnx.checker.check_model(model, full_check=True)
    reference, given = run(classifier(), ROWS, tmp_path)["scores"], infer(model, ROWS, tmp_path)["scores"]
    assert decibels(reference, given) > (25 if granularity == "per_channel" else 20)


@pytest.mark.parametrize("body", BODIES)
def test_the_engine_computes_what_the_graph_says(tmp_path: Path, body: str) -> None:
    rows = {"x": body_rows(16)}
    model = emitted(body_model(body), rows, tmp_path, Recipe(scheme="asymmetric", calibration=MINMAX))
    said, given = simulated(model, 1).infer(rows)["y"], infer(model, rows, tmp_path)["y"]
    assert decibels(said, given) > 40
    assert decibels(run(body_model(body), rows, tmp_path)["y"], given) > 20


def test_a_result_that_is_an_output_and_read_on_is_right_in_both_places(tmp_path: Path) -> None:
    rows, model = {"x": body_rows(16)}, body_model("nothing", ("y", "a"))
    reference, given = run(model, rows, tmp_path), infer(emitted(model, rows, tmp_path), rows, tmp_path)
    for name in ("y", "a"):
        assert decibels(reference[name], given[name]) > 25


@pytest.mark.parametrize("bias", [None, 0.0])
def test_a_convolution_without_a_bias_gets_one_that_changes_nothing(tmp_path: Path, bias: float | None) -> None:
    constants: dict[str, Array] = {"k": np.ones((2, 3, 1, 1), np.float32)}
    if bias is not None:
        constants["b"] = np.full(2, bias, np.float32)
    node = helper.make_node("Conv", ["x", *constants], ["y"], "conv")
    shape = ("n", 3, 8, 8)
    model = emitted(model_of([node], [value("x", shape)], [value("y", None)], constants), ROWS, tmp_path)
    (tensor,) = [tensor for tensor in model.graph.initializer if tensor.name == "conv/bias"]
    assert 0 < onnx.numpy_helper.to_array(tensor).max() < 1e-20


def test_weights_are_int8_within_127_and_biases_stay_float(tmp_path: Path) -> None:
    constants = {
        tensor.name: onnx.numpy_helper.to_array(tensor)
        for tensor in emitted(classifier(), ROWS, tmp_path).graph.initializer
    }
    weights = [values for name, values in constants.items() if name.endswith("/weight_quantized")]
    assert len(weights) == 4
    assert all(values.dtype == np.int8 and abs(values.astype(int)).max() == 127 for values in weights)
    assert not [name for name, values in constants.items() if values.dtype == np.int32]


def test_moving_operators_and_the_models_outputs_are_left_bare(tmp_path: Path) -> None:
    rows = {"x": body_rows(16)}
    names = {node.name for node in emitted(body_model("MaxPool"), rows, tmp_path).graph.node}
    assert "a/quantize" in names
    assert not {"c/quantize", "y/quantize"} & names


def test_kept_operators_keep_their_float_weights(tmp_path: Path) -> None:
    recipe = Recipe(keep_float=("dw", "op:Gemm"), calibration=MINMAX)
    constants = {tensor.name for tensor in emitted(classifier(), ROWS, tmp_path, recipe).graph.initializer}
    assert {"dw.w", "head.w"} <= constants
    assert "pw.w" not in constants


def test_an_emission_leaves_the_float_model_untouched(tmp_path: Path) -> None:
    model = classifier()
    before = model.SerializeToString()
    emitted(model, ROWS, tmp_path)
    assert model.SerializeToString() == before
