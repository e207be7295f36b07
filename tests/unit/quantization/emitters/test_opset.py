"""Graphs are raised to the opset that their new types need, with names kept and constants as they were."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from service.errors import StageFailed
from service.quantization.emitters.opset import opset_of, raised
from tests.unit.quantization.int8 import run
from tests.unit.quantization.small_models import classifier, images, model_of, value

node = helper.make_node


@pytest.mark.parametrize("opset", [19, 22])
def test_a_raised_graph_computes_the_same_under_the_same_names(tmp_path: Path, opset: int) -> None:
    model = classifier(opset=13)
    higher = raised(model, opset)
    onnx.checker.check_model(higher, full_check=True)
    assert (opset_of(model), opset_of(higher)) == (13, opset)
    assert [each.name for each in higher.graph.node] == [each.name for each in model.graph.node]
    rows = {"x": images(4)}
    assert np.array_equal(run(model, rows, tmp_path)["scores"], run(higher, rows, tmp_path)["scores"])


def test_attributes_that_became_inputs_are_constants(tmp_path: Path) -> None:
    mean = node("ReduceMean", ["x"], ["y"], "mean", axes=[1], keepdims=0)
    higher = raised(model_of([mean], [value("x", ("n", 3))], [value("y", ("n",))], None, 13), 19)
    assert [each.op_type for each in higher.graph.node] == ["ReduceMean"]
    assert len(higher.graph.initializer) == 1
    assert run(higher, {"x": np.ones((2, 3), np.float32)}, tmp_path)["y"].tolist() == [1, 1]


def test_a_graph_that_is_high_enough_is_only_copied() -> None:
    model = classifier(opset=17)
    higher = raised(model, 13)
    assert higher.graph == model.graph
    assert higher is not model


def test_what_the_converter_refuses_is_refused_in_its_words() -> None:
    model = model_of([node("Scan", ["x"], ["y"], "scan")], [value("x", ("n", 2))], [value("y", None)], None, 8)
    with pytest.raises(StageFailed, match="cannot be raised to opset 19"):
        raised(model, 19)
