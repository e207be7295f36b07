"""A Gemm's bias takes many forms in uploads; those that are one number for each channel run in INT8."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper

from service.quantization.graphs.graph import Graph
from service.quantization.placements.onnxruntime import place
from service.quantization.preparation.preparation import LOWEST_OPSET, prepare
from tests.unit.quantization.int8 import run
from tests.unit.quantization.small_models import Array, fp32, model_of, saved, value

ROWS = {"x": np.random.default_rng(1).normal(0, 1, (3, 8)).astype(np.float32)}
DRAW = np.random.default_rng(0)
WEIGHT = DRAW.normal(0, 0.4, (8, 3)).astype(np.float32)
ROW = DRAW.normal(0, 1, (1, 3)).astype(np.float32)


def layer(bias: Array, beta: float = 1.0, width: int = 3, readers: int = 1) -> ModelProto:
    """So many fully connected layers of one weight and bias, beside each other."""
    nodes = [
        helper.make_node("Gemm", ["x", "w", "c"], [f"y{number}"], f"dense{number}", beta=beta)
        for number in range(readers)
    ]
    outputs = [value(f"y{number}", ("n", width)) for number in range(readers)]
    return model_of(nodes, [value("x", ("n", 8))], outputs, {"w": WEIGHT[:, :width], "c": bias})


def prepared(model: ModelProto, folder: Path) -> ModelProto:
    prepare(saved(model, folder / "float.onnx"), folder / "prepared.onnx", LOWEST_OPSET)
    return onnx.load_model(folder / "prepared.onnx")


FORMS = {
    "a row": (ROW, 1.0),
    "a number": (fp32(0.7), 1.0),
    "a vector of one number": (fp32([0.7]), 1.0),
    "a matrix of one number": (fp32([[0.7]]), 2.0),
    "a scaled vector": (ROW[0], 0.5),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_bias_of_one_number_for_each_channel_runs_in_int8_whatever_its_form(tmp_path: Path, form: str) -> None:
    model = layer(*FORMS[form])
    plain = prepared(model, tmp_path)
    assert [operator.name for operator in place(Graph(plain), ()).weighted] == ["dense0"]
    meant, given = (run(one, ROWS, tmp_path)["y0"] for one in (model, plain))
    assert np.allclose(meant, given, rtol=1e-6, atol=1e-6)


def test_a_bias_that_differs_between_rows_stays(tmp_path: Path) -> None:
    for number, bias in enumerate((DRAW.normal(0, 1, (3, 3)), DRAW.normal(0, 1, (3, 1)))):
        folder = tmp_path / str(number)
        folder.mkdir()
        plain = prepared(layer(bias.astype(np.float32)), folder)
        assert not place(Graph(plain), ()).weighted
        assert Graph(plain).constants["c"].dims == list(bias.shape)


def test_a_shared_bias_is_written_for_each_gemm_that_reads_it(tmp_path: Path) -> None:
    model = layer(ROW, 3.0, readers=2)
    plain = prepared(model, tmp_path)
    assert len(place(Graph(plain), ()).weighted) == 2
    meant, given = (run(one, ROWS, tmp_path) for one in (model, plain))
    assert all(np.allclose(meant[name], given[name], rtol=1e-6, atol=1e-6) for name in meant)
