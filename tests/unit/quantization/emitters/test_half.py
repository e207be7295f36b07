"""FP16 or BF16 inside, the uploaded types outside, and right answers where numbers outgrow FP16."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper
from onnx.reference import ReferenceEvaluator

from service.errors import StageFailed
from service.quantization.emitters.half import emit_half
from service.quantization.measures.simulation import simulated
from service.quantization.placements.half import LARGEST
from service.quantization.preparation.preparation import prepare
from tests.unit.quantization.int8 import run
from tests.unit.quantization.small_models import classifier, fp32, images, model_of, relu_model, saved, value
from tests.unit.quantization.tensorrt_engine import build_engine
from tests.unit.quantization.transformer_block import tokens, transformer_block

ROWS = {"x": images(16)}
node = helper.make_node


def prepared(folder: Path) -> ModelProto:
    prepare(saved(classifier(), folder / "float.onnx"), folder / "prepared.onnx", 0)
    return onnx.load_model(folder / "prepared.onnx")


def weight_bytes(model: ModelProto) -> int:
    return sum(len(tensor.raw_data) for tensor in model.graph.initializer)


def types(model: ModelProto) -> dict[str, int]:
    return {tensor.name: tensor.data_type for tensor in model.graph.initializer}


def test_weights_become_half_and_results_stay_close(tmp_path: Path) -> None:
    model = prepared(tmp_path)
    halved = emit_half(model, ())
    onnx.checker.check_model(halved, full_check=True)
    assert TensorProto.FLOAT16 in types(halved).values()
    assert weight_bytes(halved) == weight_bytes(model) / 2
    reference, given = (run(each, ROWS, tmp_path)["scores"] for each in (model, halved))
    assert given.dtype == np.float32
    assert np.allclose(reference, given, atol=0.05)
    assert not np.array_equal(reference, given)


def test_kept_operators_keep_float_weights(tmp_path: Path) -> None:
    model = prepared(tmp_path)
    halved = types(emit_half(model, ("op:Gemm",)))
    assert halved["head.w"] == TensorProto.FLOAT
    assert halved["dw.w"] == TensorProto.FLOAT16


def test_a_constant_that_both_types_read_is_held_in_both(tmp_path: Path) -> None:
    nodes = [node("Mul", ["x", "c"], ["a"], "half"), node("Add", ["a", "c"], ["y"], "kept")]
    model = model_of(nodes, [value("x", ("n", 2))], [value("y", ("n", 2))], {"c": fp32([0.1, 3])})
    halved = emit_half(model, ("kept",))
    assert sorted(types(halved).values()) == [TensorProto.FLOAT, TensorProto.FLOAT16]
    rows = {"x": fp32([[1, 2]])}
    assert np.allclose(run(halved, rows, tmp_path)["y"], [[0.2, 9]], atol=1e-3)


def test_an_output_that_is_read_again_keeps_its_name_and_type(tmp_path: Path) -> None:
    nodes = [node("Relu", ["x"], ["y"], "first"), node("Neg", ["y"], ["z"], "second")]
    model = model_of(nodes, [value("x", ("n", 2))], [value("y", ("n", 2)), value("z", ("n", 2))])
    given = run(emit_half(model, ()), {"x": fp32([[1, -2]])}, tmp_path)
    assert {name: (values.dtype.name, values.tolist()) for name, values in given.items()} == {
        "y": ("float32", [[1, 0]]),
        "z": ("float32", [[-1, 0]]),
    }


def test_the_uploaded_model_is_left_untouched() -> None:
    model = classifier()
    before = model.SerializeToString()
    emit_half(model, ())
    emit_half(model, (), "bf16")
    assert model.SerializeToString() == before


@pytest.mark.parametrize("measured", [True, False])
def test_a_sum_of_squares_beyond_fp16_gives_right_answers(tmp_path: Path, measured: bool) -> None:
    nodes = [
        node("Mul", ["x", "x"], ["squares"], "square"),
        node("ReduceSum", ["squares", "last"], ["sum"], "sum"),
        node("Sqrt", ["sum"], ["length"], "root"),
        node("Div", ["x", "length"], ["y"], "divide"),
    ]
    constants = {"last": np.array([-1])}
    model = model_of(nodes, [value("x", ("n", 8))], [value("y", ("n", 8))], constants)
    rows = {"x": np.linspace(100, 800, 16).astype(np.float32).reshape(2, 8)}
    ranges = {"x": (0.0, 800.0), "squares": (0.0, 640000.0), "sum": (0.0, 4e6), "length": (0.0, 2000.0)}
    reference = run(model, rows, tmp_path)["y"]
    halved = emit_half(model, (), "fp16", ranges if measured else None)
    assert np.allclose(run(halved, rows, tmp_path)["y"], reference, atol=1e-3)
    # Had the squares been half, they would be infinite and the quotient zero.
    assert float(np.square(rows["x"]).max()) > LARGEST
    assert reference.min() > 0.05


def test_a_norm_of_large_numbers_gives_right_answers(tmp_path: Path) -> None:
    model, rows = transformer_block(scale=2000.0), {"x": tokens(8)}
    ranges = {"x": (-4.0, 4.0), "scaled": (-8000.0, 8000.0), "middle_scaled": (-20000.0, 20000.0)}
    halved = emit_half(model, (), "fp16", ranges)
    reference, given = (simulated(each, 1).infer(rows)["y"] for each in (model, halved))
    assert np.allclose(reference, given, atol=0.02)


def test_a_mask_beyond_fp16_never_becomes_infinite(tmp_path: Path) -> None:
    nodes = [node("Add", ["x", "mask"], ["masked"], "mask"), node("Softmax", ["masked"], ["y"], "softmax")]
    constants = {"mask": fp32([0, -1e9, -3e38])}
    model = model_of(nodes, [value("x", ("n", 3))], [value("y", ("n", 3))], constants)
    halved = emit_half(model, ())
    assert run(halved, {"x": fp32([[1, 2, 3]])}, tmp_path)["y"].tolist() == [[1, 0, 0]]
    clip = node("Clip", ["x", "low", "high"], ["y"], "clip")
    bounds = {"low": fp32(0), "high": fp32(3.4e38)}
    clipped = emit_half(model_of([clip], [value("x", ("n", 2))], [value("y", ("n", 2))], bounds), ())
    held = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in clipped.graph.initializer}
    assert held["high"] == LARGEST


def test_shape_operators_read_any_type_without_a_cast() -> None:
    nodes = [
        node("Shape", ["x"], ["s"], "shape"),
        node("Relu", ["x"], ["a"], "relu"),
        node("Reshape", ["a", "s"], ["y"], "r"),
    ]
    halved = emit_half(model_of(nodes, [value("x", ("n", 2))], [value("y", ("n", 2))]), ())
    assert [each.op_type for each in halved.graph.node] == ["Shape", "Cast", "Relu", "Reshape", "Cast"]


def test_types_that_attributes_state_become_half(tmp_path: Path) -> None:
    filled = helper.make_tensor("v", TensorProto.FLOAT, [1], [2.5])
    nodes = [
        node("Cast", ["x"], ["a"], "cast", to=TensorProto.FLOAT),
        node("Shape", ["x"], ["s"], "shape"),
        node("ConstantOfShape", ["s"], ["b"], "fill", value=filled),
        node("Add", ["a", "b"], ["y"], "add"),
    ]
    model = model_of(nodes, [value("x", ("n", 2), TensorProto.INT32)], [value("y", ("n", 2))])
    halved = emit_half(model, ())
    onnx.checker.check_model(halved, full_check=True)
    rows = {"x": np.array([[1, 2]], np.int32)}
    assert run(halved, rows, tmp_path)["y"].tolist() == [[3.5, 4.5]]


def test_scales_of_a_resize_stay_in_fp32(tmp_path: Path) -> None:
    grow = node("Resize", ["x", "", "scales"], ["y"], "grow", mode="nearest")
    constants = {"scales": fp32([1, 1, 2, 2])}
    model = model_of([grow], [value("x", ("n", 1, 2, 2))], [value("y", None)], constants, 18)
    halved = emit_half(model, ())
    assert types(halved) == {"scales": TensorProto.FLOAT}
    assert run(halved, {"x": np.ones((1, 1, 2, 2), np.float32)}, tmp_path)["y"].shape == (1, 1, 4, 4)


def test_bf16_raises_the_graph_to_the_opset_that_defines_it() -> None:
    halved = emit_half(classifier(), (), "bf16")
    onnx.checker.check_model(halved, full_check=True)
    assert halved.opset_import[0].version == 22
    assert set(types(halved).values()) == {TensorProto.BFLOAT16}


def test_bf16_stays_close_as_onnx_itself_computes_it() -> None:
    # ONNX Runtime has no BF16 kernels for CPUs.
    for model, rows in ((classifier(), {"x": images(4)}), (transformer_block(), {"x": tokens(4)})):
        (found,) = ReferenceEvaluator(emit_half(model, (), "bf16")).run(None, rows)
        given = np.asarray(found)
        reference = simulated(model, 1).infer(rows)[model.graph.output[0].name]
        assert given.dtype == np.float32
        assert np.abs(given - reference).max() < 0.02 * np.abs(reference).max()


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_tensorrt_builds_the_half_forms(precision: str, tmp_path: Path) -> None:
    for model in (prepared(tmp_path), transformer_block()):
        assert len(build_engine(emit_half(model, ("op:Softmax",), precision))) > 0


def test_a_graph_that_cannot_be_halved_says_so() -> None:
    broken = relu_model()
    del broken.opset_import[:]
    with pytest.raises(StageFailed, match="cannot be turned into FP16"):
        emit_half(broken, ())
