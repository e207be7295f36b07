"""What the lint says of an emitted graph is what OpenVINO then runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto, helper

from service.domain.recipe import Calibration, Recipe
from service.quantization.builders.openvino_builder import OpenVinoBuilder
from service.quantization.lint.openvino import predict
from tests.unit.quantization.bodies import BODIES, body_model, body_rows
from tests.unit.quantization.int8 import quantize
from tests.unit.quantization.small_models import Array, classifier, images, model_of, saved, value

MINMAX = Calibration(method="minmax")
KINDS = ("conv", "depthwise", "pool", "clip", "swish", "residual", "concat", "average")


def emitted(model: ModelProto, rows: Array, folder: Path, keep_float: tuple[str, ...] = ()) -> ModelProto:
    recipe = Recipe(scheme="asymmetric", keep_float=keep_float, calibration=MINMAX)
    return quantize(model, {"x": rows}, folder, recipe, runtime="openvino")[0]


def compare(model: ModelProto, folder: Path) -> dict[str, bool]:
    """Whether each operator that the engine still knows by name runs in INT8, once the lint was found right on all."""
    predicted = {entry.name: entry for entry in predict(model)}
    ran = {operator.name: operator for operator in OpenVinoBuilder().executed(saved(model, folder / "e.onnx"), 1)}
    wrong = {
        name: (predicted[name], ran[name])
        for name in predicted.keys() & ran.keys()
        if predicted[name].int8 != ran[name].int8
    }
    assert not wrong
    return {name: operator.int8 for name, operator in ran.items()}


@pytest.mark.parametrize("body", BODIES)
def test_every_prediction_is_what_the_engine_runs(tmp_path: Path, body: str) -> None:
    model = emitted(body_model(body), body_rows(16), tmp_path)
    ran = compare(model, tmp_path)
    assert all(ran.get(name, True) for name in ("first", "second", "last"))


def test_of_a_float_graph_nothing_is_predicted_to_run_in_int8(tmp_path: Path) -> None:
    assert not any(entry.int8 for entry in predict(classifier()))
    assert not any(compare(classifier(), tmp_path).values())


def test_a_classifier_runs_in_int8_throughout_and_the_lint_says_by_which_rule(tmp_path: Path) -> None:
    model = emitted(classifier(), images(32), tmp_path)
    ran = compare(model, tmp_path)
    assert all(ran[name] for name in ("stem", "dw", "pw", "residual", "pool", "head"))
    rules = {entry.name: entry.rule for entry in predict(model)}
    assert rules["pw"] == "its input and its weight are INT8"
    assert rules["residual"] == "added to the sums of 'pw'"
    assert rules["pool"] == "dequantization moves past it"


@pytest.mark.parametrize(
    ("kept", "rule"), [("pw", "its input 'e' is in floating point"), ("dw", "its weight is no INT8 constant")]
)
def test_a_kept_operator_is_predicted_in_floating_point_with_the_reason(tmp_path: Path, kept: str, rule: str) -> None:
    model = emitted(classifier(), images(32), tmp_path, (kept,))
    assert compare(model, tmp_path)[kept] is False
    (found,) = [entry for entry in predict(model) if entry.name == kept]
    assert (found.int8, found.rule) == (False, rule)


@given(st.lists(st.sampled_from(KINDS), min_size=1, max_size=6), st.integers(0, 5))
@settings(max_examples=25, deadline=None, derandomize=True, database=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
def test_random_chains_run_as_predicted(tmp_path: Path, kinds: list[str], seed: int) -> None:
    compare(emitted(chain(kinds, seed), body_rows(8, seed), tmp_path), tmp_path)


def chain(kinds: list[str], seed: int) -> ModelProto:
    """Convolutions with what `kinds` names after each, in order; every convolution has a bias."""
    random = np.random.default_rng(seed)
    nodes: list[NodeProto] = []
    constants: dict[str, Array] = {"zero": np.array(0, np.float32), "six": np.array(6, np.float32)}

    def conv(source: str, result: str, channels: int = 8, group: int = 1) -> str:
        size = 3 if group > 1 else 1
        weights = random.normal(0, 0.4, (8, channels // group, size, size)).astype(np.float32)
        constants[f"{result}.w"], constants[f"{result}.b"] = weights, random.normal(0, 0.2, 8).astype(np.float32)
        inputs = [source, f"{result}.w", f"{result}.b"]
        nodes.append(helper.make_node("Conv", inputs, [result], f"conv_{result}", group=group, pads=[size // 2] * 4))
        return result

    current = conv("x", "t0")
    for index, kind in enumerate(kinds, 1):
        current = _append(kind, current, f"t{index}", nodes, conv)
    conv(current, "y")
    return model_of(nodes, [value("x", ("n", 8, 8, 8))], [value("y", None)], constants)


def _append(kind: str, source: str, result: str, nodes: list[NodeProto], conv: Any) -> str:
    node = helper.make_node
    if kind == "conv":
        return str(conv(source, result))
    if kind == "depthwise":
        return str(conv(source, result, 8, 8))
    if kind == "pool":
        nodes.append(node("MaxPool", [source], [result], result, kernel_shape=[3, 3], pads=[1] * 4))
    elif kind == "average":
        nodes.append(node("AveragePool", [source], [result], result, kernel_shape=[3, 3], pads=[1] * 4))
    elif kind == "clip":
        nodes.append(node("Clip", [source, "zero", "six"], [result], result))
    elif kind == "swish":
        nodes.append(node("Sigmoid", [source], [f"{result}.s"], f"{result}.gate"))
        nodes.append(node("Mul", [source, f"{result}.s"], [result], result))
    elif kind == "residual":
        branch = conv(conv(source, f"{result}.p"), f"{result}.q")
        nodes.append(node("Add", [branch, source], [result], result))
    else:
        nodes.append(node("Concat", [source, conv(source, f"{result}.c")], [f"{result}.j"], f"{result}.join", axis=1))
        return str(conv(f"{result}.j", result, 16))
    return result
