"""Quantizers take a Relu out where the integers behind it clip at zero; reading such an upload brings it back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from service.errors import InvalidRecipe
from service.quantization.measures.simulation import simulated
from service.quantization.preparation.quantized_upload import read_quantized
from tests.unit.quantization.small_models import Array, fp32, model_of, value

node = helper.make_node
ROWS = np.random.default_rng(0).normal(size=(64, 16)).astype(np.float32)


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self) -> None:
        self._rows: Iterator[Array] = iter(ROWS)

    def get_next(self) -> dict[str, Array] | None:
        row = next(self._rows, None)
        return None if row is None else {"x": row[None]}


def perceptron() -> ModelProto:
    """Its second layer reads what a Relu gives; a normalization between keeps a plan from clipping there by chance."""
    random = np.random.default_rng(1)
    constants: dict[str, Array] = {
        "w": random.normal(size=(16, 24)).astype(np.float32),
        "v": random.normal(size=(24, 8)).astype(np.float32),
    }
    nodes = [
        node("MatMul", ["x", "w"], ["a"], "first"),
        node("Relu", ["a"], ["b"], "relu"),
        node("LpNormalization", ["b"], ["c"], "norm", axis=1),
        node("MatMul", ["c", "v"], ["y"], "second"),
    ]
    return model_of(nodes, [value("x", ("n", 16))], [value("y", ("n", 8))], constants)


def test_a_relu_that_onnx_runtimes_quantizer_took_out_is_in_the_float_graph(tmp_path: Path) -> None:
    source, destination = tmp_path / "float.onnx", tmp_path / "quantized.onnx"
    onnx.save_model(perceptron(), source)
    quantize_static(
        source,
        destination,
        _Reader(),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    quantized = onnx.load_model(destination)
    assert "Relu" not in {each.op_type for each in quantized.graph.node}
    float_graph = read_quantized(quantized).model
    meant, read = (simulated(model, 1).infer({"x": ROWS})["y"] for model in (quantized, float_graph))
    assert np.corrcoef(meant.ravel(), read.ravel())[0, 1] > 0.999


def pairs(grids: dict[str, int], zeros: type[np.generic] = np.uint8) -> ModelProto:
    """x, a Relu where a is named in `grids`, and pairs on x, a, and the pooled b, with these zero points."""
    shape = ("n", 4, 4, 4)
    constants: dict[str, Array] = {"s": fp32(0.1), "k": np.ones((4, 4, 1, 1), np.float32) * np.float32(-1)}
    nodes = []
    made = [node("Conv", ["x{}", "k"], ["a"], "conv"), node("MaxPool", ["a{}"], ["b"], "pool", kernel_shape=[1, 1])]
    for name, reader in zip(("x", "a", "b"), (*made, node("Abs", ["b{}"], ["y"], "abs")), strict=True):
        if name in grids:
            constants[f"{name}_z"] = np.array(grids[name], zeros)
            nodes.append(node("QuantizeLinear", [name, "s", f"{name}_z"], [f"{name}_q"], f"{name}/q"))
            nodes.append(node("DequantizeLinear", [f"{name}_q", "s", f"{name}_z"], [f"{name}_d"], f"{name}/d"))
        reader.input[0] = reader.input[0].format("_d" if name in grids else "")
        nodes.append(reader)
    return model_of(nodes, [value("x", shape)], [value("y", shape)], constants)


def operators(model: ModelProto) -> list[str]:
    return [each.op_type for each in read_quantized(model).model.graph.node]


def test_one_relu_is_enough_where_what_follows_has_no_negative_values_either() -> None:
    assert operators(pairs({"x": 0, "a": 0, "b": 0})) == ["Conv", "Relu", "MaxPool", "Abs"]


def test_a_grid_with_negative_values_and_one_of_what_is_fed_bring_no_relu() -> None:
    assert operators(pairs({"x": 0, "a": 128, "b": 128})) == ["Conv", "MaxPool", "Abs"]


def test_the_relu_keeps_the_range_of_its_grid() -> None:
    upload = read_quantized(pairs({"a": 0}))
    assert upload.ranges == {"a_d": pytest.approx((0.0, 25.5))}


def test_readers_of_one_clipped_tensor_share_its_relu() -> None:
    model = pairs({"a": 0})
    model.graph.node.append(node("DequantizeLinear", ["a_q", "s", "a_z"], ["a_e"], "a/e"))
    model.graph.node.append(node("Neg", ["a_e"], ["z"], "neg"))
    model.graph.node.append(node("DequantizeLinear", ["a_q", "s", "a_z"], ["o"], "a/o"))
    model.graph.output.extend([value("z", None), value("o", None)])
    upload = read_quantized(model).model
    assert operators(model).count("Relu") == 1
    rows = {"x": np.ones((1, 4, 4, 4), np.float32)}
    assert all((output == 0).all() for output in simulated(upload, 1).infer(rows).values())


def test_a_grid_of_eight_bit_floats_is_refused_for_int8() -> None:
    model = pairs({"a": 0})
    for tensor in model.graph.initializer:
        if tensor.name == "a_z":
            tensor.CopyFrom(helper.make_tensor("a_z", TensorProto.FLOAT8E4M3FN, [], [0.0]))
    with pytest.raises(InvalidRecipe, match="'a/q' quantizes to float8_e4m3fn, which is no grid of integers"):
        read_quantized(model)
