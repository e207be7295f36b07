"""Counts of multiply-accumulates, by hand and by the counter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchmarks.mac_share import count_macs, int8_names, int8_share
from service.quantization.builders.builder import ExecutedOperator


def constant(name: str, *shape: int) -> TensorProto:
    return numpy_helper.from_array(np.ones(shape, np.float32), name)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Depthwise and pointwise convolutions of [batch, 4, 8, 8], then a Gemm of 6 x 64 to 5 and a MatMul of 5 to 3."""
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], name="depthwise", group=4, pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Conv", ["a", "w2"], ["b"], name="pointwise"),
        helper.make_node("Flatten", ["b"], ["c"], name="flatten"),
        helper.make_node("Gemm", ["c", "w3"], ["d"], name="gemm", transB=1),
        helper.make_node("MatMul", ["d", "w4"], ["y"], name="matmul"),
    ]
    weights = [constant("w1", 4, 1, 3, 3), constant("w2", 6, 4, 1, 1), constant("w3", 5, 96), constant("w4", 5, 3)]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4, 8, 8])
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])
    graph = helper.make_graph(nodes, "small", [given], [made], weights)
    path = tmp_path / "model.onnx"
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def test_each_element_of_a_result_costs_one_channel_of_weights(model: Path) -> None:
    assert count_macs(model) == {
        "depthwise": 4 * 4 * 4 * 9,
        "pointwise": 6 * 4 * 4 * 4,
        "gemm": 5 * 96,
        "matmul": 3 * 5,
    }


def test_the_share_counts_operators_that_run_in_int8_and_no_others(model: Path) -> None:
    executed = [ExecutedOperator("depthwise", "FusedConv", False), ExecutedOperator("pointwise", "QLinearConv", True)]
    assert int8_share(count_macs(model), int8_names(executed)) == pytest.approx(384 / (576 + 384 + 480 + 15))
