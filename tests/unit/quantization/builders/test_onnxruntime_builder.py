"""An engine is proven to load, and what it runs is read from the runtime itself."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from service.domain.recipe import BatchProfile
from service.errors import EngineFailed, InvalidRecipe
from service.quantization.builders.builder import BuildOptions, builder_for
from service.quantization.builders.onnxruntime_builder import OnnxRuntimeBuilder
from tests.unit.quantization.int8 import quantize
from tests.unit.quantization.small_models import classifier, images, saved

ROWS = {"x": images(16)}


def test_the_engine_is_the_converted_graph_and_answers(tmp_path: Path) -> None:
    converted = saved(classifier(), tmp_path / "converted.onnx")
    builder = OnnxRuntimeBuilder()
    builder.build(converted, tmp_path / "engine.onnx", BuildOptions(1, BatchProfile()))
    assert (tmp_path / "engine.onnx").read_bytes() == converted.read_bytes()
    assert builder.load(tmp_path / "engine.onnx", 1).infer(ROWS)["scores"].shape == (16, 4)


def test_a_graph_that_does_not_load_makes_no_engine(tmp_path: Path) -> None:
    (tmp_path / "converted.onnx").write_bytes(b"no model")
    with pytest.raises(EngineFailed, match="ONNX Runtime cannot load"):
        OnnxRuntimeBuilder().build(
            tmp_path / "converted.onnx", tmp_path / "engine.onnx", BuildOptions(1, BatchProfile())
        )
    assert os.listdir(tmp_path) == ["converted.onnx"]


def test_a_float_engine_runs_nothing_in_int8_and_an_int8_one_nearly_everything(tmp_path: Path) -> None:
    plain = OnnxRuntimeBuilder().executed(saved(classifier(), tmp_path / "float.onnx"), 1)
    assert not any(operator.int8 for operator in plain)
    assert [operator.operator for operator in plain].count("Conv") == 3
    assert {"stem", "dw", "pw", "head"} <= {operator.name for operator in plain}
    emitted, _ = quantize(classifier(), ROWS, tmp_path)
    small = OnnxRuntimeBuilder().executed(saved(emitted, tmp_path / "int8.onnx"), 1)
    assert {operator.name for operator in small if not operator.int8} == {"x/quantize"}
    assert sorted(os.listdir(tmp_path)) == ["float.onnx", "int8.onnx", "prepared.onnx"]


def test_a_runtime_without_a_builder_is_refused() -> None:
    assert isinstance(builder_for("onnxruntime"), OnnxRuntimeBuilder)
    with pytest.raises(InvalidRecipe, match="runtime 'tvm' has no builder; send one of onnxruntime"):
        builder_for("tvm")


def test_threads_do_not_change_the_answer(tmp_path: Path) -> None:
    emitted, _ = quantize(classifier(), ROWS, tmp_path)
    engine = saved(emitted, tmp_path / "engine.onnx")
    one, two = (OnnxRuntimeBuilder().load(engine, threads).infer(ROWS)["scores"] for threads in (1, 2))
    assert np.array_equal(one, two)
