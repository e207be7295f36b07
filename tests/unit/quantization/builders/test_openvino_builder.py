"""An engine is proven to load, and what it runs is read from the compiled model itself."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from service.domain.recipe import BatchProfile
from service.errors import EngineFailed
from service.quantization.builders.builder import BuildOptions, ExecutedOperator, builder_for
from service.quantization.builders.openvino_builder import OpenVinoBuilder
from service.quantization.emitters.half import emit_half
from tests.unit.quantization.bodies import body_model, body_rows
from tests.unit.quantization.int8 import quantize
from tests.unit.quantization.small_models import classifier, images, linear_regressor, model_of, saved, value

ROWS = {"x": images(16)}


def executed(path: Path) -> dict[str, ExecutedOperator]:
    return {operator.name: operator for operator in OpenVinoBuilder().executed(path, 1)}


def test_the_engine_is_the_converted_graph_and_answers(tmp_path: Path) -> None:
    converted = saved(classifier(), tmp_path / "converted.onnx")
    builder = builder_for("openvino")
    assert isinstance(builder, OpenVinoBuilder)
    builder.build(converted, tmp_path / "engine.onnx", BuildOptions(1, BatchProfile()))
    assert (tmp_path / "engine.onnx").read_bytes() == converted.read_bytes()
    assert builder.load(tmp_path / "engine.onnx", 1).infer(ROWS)["scores"].shape == (16, 4)


def test_an_empty_input_that_is_written_out_is_none(tmp_path: Path) -> None:
    gemm = helper.make_node("Gemm", ["x", "w", ""], ["y"], "gemm")
    weights = {"w": np.eye(3, dtype=np.float32)}
    model = model_of([gemm], [value("x", ("n", 3))], [value("y", ("n", 3))], weights, 13)
    converted = saved(model, tmp_path / "converted.onnx")
    OpenVinoBuilder().build(converted, tmp_path / "engine.onnx", BuildOptions(1, BatchProfile()))
    rows = {"x": np.ones((2, 3), np.float32)}
    assert OpenVinoBuilder().load(tmp_path / "engine.onnx", 1).infer(rows)["y"].tolist() == [[1, 1, 1]] * 2


def test_a_model_that_states_no_opset_is_refused_in_openvinos_words(tmp_path: Path) -> None:
    model = linear_regressor()
    del model.opset_import[0]
    converted = saved(model, tmp_path / "converted.onnx")
    with pytest.raises(EngineFailed, match=r"No conversion rule found for operations: ai\.onnx\.ml\.LinearRegressor"):
        OpenVinoBuilder().build(converted, tmp_path / "engine.onnx", BuildOptions(1, BatchProfile()))


def test_a_loop_keeps_the_condition_that_it_does_not_have(tmp_path: Path) -> None:
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Neg", ["x"], ["scanned"])],
        "body",
        [value("step", (), TensorProto.INT64), value("go", (), TensorProto.BOOL)],
        [value("on", (), TensorProto.BOOL), value("scanned", None)],
    )
    loop = helper.make_node("Loop", ["times", ""], ["y"], "loop", body=body)
    model = model_of([loop], [value("x", (2, 3))], [value("y", None)], {"times": np.array(3, np.int64)}, 13)
    converted = saved(model, tmp_path / "converted.onnx")
    OpenVinoBuilder().build(converted, tmp_path / "engine.onnx", BuildOptions(1, BatchProfile()))
    rows = {"x": np.ones((2, 3), np.float32)}
    assert OpenVinoBuilder().load(tmp_path / "engine.onnx", 1).infer(rows)["y"].shape == (3, 2, 3)


def test_a_graph_that_does_not_load_makes_no_engine(tmp_path: Path) -> None:
    (tmp_path / "converted.onnx").write_bytes(b"no model")
    with pytest.raises(EngineFailed, match="OpenVINO cannot load"):
        OpenVinoBuilder().build(tmp_path / "converted.onnx", tmp_path / "engine.onnx", BuildOptions(1, BatchProfile()))
    assert os.listdir(tmp_path) == ["converted.onnx"]


def test_a_float_engine_runs_nothing_in_int8_and_an_int8_one_nearly_everything(tmp_path: Path) -> None:
    plain = executed(saved(classifier(), tmp_path / "float.onnx"))
    assert not any(operator.int8 for operator in plain.values())
    assert {"dw", "pw", "head"} <= plain.keys()
    emitted, _ = quantize(classifier(), ROWS, tmp_path, runtime="openvino")
    small = executed(saved(emitted, tmp_path / "int8.onnx"))
    assert {operator.name for operator in small.values() if not operator.int8} == {"x/quantize"}
    assert (small["residual"].operator, small["head"].operator) == ("Convolution", "FullyConnected")
    assert sorted(os.listdir(tmp_path)) == ["float.onnx", "int8.onnx", "prepared.onnx"]


def test_operators_that_make_an_output_and_those_that_are_split_keep_their_names(tmp_path: Path) -> None:
    emitted, _ = quantize(body_model("two MatMul"), {"x": body_rows(8)}, tmp_path, runtime="openvino")
    ran = executed(saved(emitted, tmp_path / "int8.onnx"))
    assert ran["first"] == ExecutedOperator("first", "FullyConnected", True)
    assert ran["last"] == ExecutedOperator("last", "FullyConnected", True)
    assert not ran["it"].int8


def test_a_half_graph_is_held_in_half_and_computed_in_single_precision(tmp_path: Path) -> None:
    halved = saved(emit_half(classifier(), ()), tmp_path / "half.onnx")
    assert not any(operator.int8 for operator in executed(halved).values())
    reference, given = (
        OpenVinoBuilder().load(path, 1).infer(ROWS)["scores"]
        for path in (saved(classifier(), tmp_path / "float.onnx"), halved)
    )
    assert given.dtype == np.float32
    assert np.allclose(reference, given, atol=0.05)


def test_threads_do_not_change_an_int8_answer(tmp_path: Path) -> None:
    emitted, _ = quantize(classifier(), ROWS, tmp_path, runtime="openvino")
    engine = saved(emitted, tmp_path / "engine.onnx")
    one, two = (OpenVinoBuilder().load(engine, threads).infer(ROWS)["scores"] for threads in (1, 2))
    assert np.allclose(one, two, atol=1e-6)
