"""A shape that the network cannot take is its caller's fault; what else fails stays the engine's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from service.engines.engine import Array, Engine
from service.engines.onnxruntime_engine import OnnxRuntimeEngine
from service.engines.openvino_engine import OpenVinoEngine
from service.engines.openvino_import import openvino as ov
from service.engines.openvino_shapes import tried_shapes
from service.errors import EngineFailed, InvalidTensor
from tests.unit.quantization.small_models import fp32, model_of, saved, u_net, value

Shape = tuple[int, ...]
node = helper.make_node
IMAGE = value("x", ("batch", 3, "height", "width"))
ROWS = value("x", ("batch", "length"))


def turned() -> ModelProto:
    nodes = [node("MatMul", ["t", "w"], ["y"], "m"), node("Transpose", ["x"], ["t"], "t")][::-1]
    return model_of(nodes, [value("x", ("length", 2))], [value("y", (2, 2))], {"w": fp32(np.ones((6, 2)))})


def conv() -> ModelProto:
    weight = {"w": fp32(np.ones((4, 3, 5, 5)))}
    return model_of([node("Conv", ["x", "w"], ["y"], "c")], [IMAGE], [value("y", ("batch", 4, "h", "w_"))], weight)


def added() -> ModelProto:
    both = [ROWS, value("z", ("batch", "other"))]
    return model_of([node("Add", ["x", "z"], ["y"], "a")], both, [value("y", ("batch", "out"))], {})


def positions() -> ModelProto:
    table = {"p": fp32(np.ones((1, 6)))}
    return model_of([node("Add", ["x", "p"], ["y"], "a")], [ROWS], [value("y", ("batch", "out"))], table)


def product() -> ModelProto:
    weight = {"w": fp32(np.ones((6, 2)))}
    return model_of([node("MatMul", ["x", "w"], ["y"], "m")], [ROWS], [value("y", ("batch", 2))], weight)


def flattened() -> ModelProto:
    nodes = [node("Flatten", ["x"], ["f"], "f"), node("Gemm", ["f", "w"], ["y"], "g", transB=1)]
    return model_of(nodes, [IMAGE], [value("y", ("batch", 2))], {"w": fp32(np.ones((2, 48)))})


CASES: list[tuple[Callable[[], ModelProto], dict[str, Shape], dict[str, Shape]]] = [
    (u_net, {"x": (2, 3, 8, 8)}, {"x": (2, 3, 7, 8)}),
    (u_net, {"x": (1, 3, 8, 8)}, {"x": (1, 3, 0, 8)}),
    (added, {"x": (1, 4), "z": (1, 4)}, {"x": (1, 4), "z": (1, 5)}),
    (positions, {"x": (1, 6)}, {"x": (1, 7)}),
    (product, {"x": (1, 6)}, {"x": (1, 4)}),
    (product, {"x": (1, 6)}, {"x": (1, 0)}),
    (flattened, {"x": (1, 3, 4, 4)}, {"x": (1, 3, 2, 4)}),
]


def onnxruntime(path: Path) -> Engine:
    return OnnxRuntimeEngine.load(path, threads=1)


def openvino(path: Path) -> Engine:
    return OpenVinoEngine.load(path, threads=1)


def filled(shapes: dict[str, Shape], number: float) -> dict[str, Array]:
    return {name: np.full(shape, number, np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize("load", [onnxruntime, openvino])
@pytest.mark.parametrize(("model", "good", "bad"), CASES)
def test_a_shape_that_the_network_cannot_take_is_refused_by_name_and_never_answered_with_what_lies_about(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], load: Callable[[Path], Engine], model: Any, good: Any, bad: Any
) -> None:
    engine = load(saved(model(), tmp_path / "m.onnx"))
    first = engine.infer(filled(good, 2.0))["y"]
    for _ in range(2):
        with pytest.raises(InvalidTensor) as caught:
            engine.infer(filled(bad, 1.0))
        for name, shape in bad.items():
            assert f"{name!r} of shape {list(shape)}" in str(caught.value)
        assert str(caught.value).endswith(
            "send lengths that all its layers fit, as those it was exported or trained with"
        )
        assert "/src/" not in str(caught.value)
        assert "onnxruntime" not in str(caught.value)
    assert np.array_equal(engine.infer(filled(good, 2.0))["y"], first)
    assert "Non-zero status code" not in capfd.readouterr().err
    engine.close()


def test_a_map_that_is_smaller_than_the_kernel_is_refused(tmp_path: Path) -> None:
    engine = onnxruntime(saved(conv(), tmp_path / "m.onnx"))
    with pytest.raises(InvalidTensor, match=r"input 'x' of shape \[1, 3, 4, 4\]: Invalid input shape"):
        engine.infer(filled({"x": (1, 3, 4, 4)}, 1.0))


def test_what_reaches_beyond_a_table_is_refused_with_the_way_out(tmp_path: Path) -> None:
    ids = value("x", ("batch", "length"), TensorProto.INT64)
    table = {"table": fp32(np.ones((3, 2)))}
    made = model_of([node("Gather", ["table", "x"], ["y"], "g")], [ids], [value("y", ("batch", "length", 2))], table)
    engine = onnxruntime(saved(made, tmp_path / "m.onnx"))
    with pytest.raises(InvalidTensor, match=r"shape \[1, 4\]: indices element out of .*; send what is no longer than"):
        engine.infer({"x": np.arange(4)[None]})


INTEGERS = value("x", ("batch",), TensorProto.INT64)
NUMBERS = value("y", ("batch",), TensorProto.INT64)


def recommender() -> ModelProto:
    table = {"table": fp32(np.ones((3, 2)))}
    return model_of([node("Gather", ["table", "x"], ["y"], "g")], [INTEGERS], [value("y", ("batch", 2))], table)


def encoder() -> ModelProto:
    encode = node("OneHotEncoder", ["x"], ["y"], "o", domain="ai.onnx.ml", cats_int64s=[1, 2], zeros=0)
    return model_of([encode], [INTEGERS], [value("y", ("batch", 2))])


def quotient() -> ModelProto:
    return model_of([node("Div", ["k", "x"], ["y"], "d")], [INTEGERS], [NUMBERS], {"k": np.array([6])})


def taken(operator: str, domain: str = "") -> Callable[[], ModelProto]:
    def model() -> ModelProto:
        columns = node("Reshape", ["x", "to"], ["i"], "r")
        reader = node(operator, ["table", "i"], ["y"], "g", domain=domain)
        to = (1, -1) if operator == "GatherElements" else (-1, 1)
        constants = {"table": fp32(np.ones((3, 3))), "to": np.array(to)}
        return model_of([columns, reader], [INTEGERS], [value("y", ("a", "b"))], constants)

    return model


@pytest.mark.parametrize(
    ("model", "bad", "why"),
    [
        (taken("GatherElements"), 5, "GatherElements op: Out of range value"),
        (taken("GatherND"), 5, "invalid index found, index = 5"),
        (taken("ArrayFeatureExtractor", "ai.onnx.ml"), 5, r"index is out of range: Y\[1\] \(5\)"),
        (recommender, 3, r"idx=3 must be within the inclusive range \[-3,2\]"),
        (encoder, 7, "Unknown Category"),
        (quotient, 0, "Integer division by zero"),
    ],
)
def test_a_number_that_a_model_of_fixed_shapes_does_not_know_is_its_callers_fault(
    tmp_path: Path, model: Callable[[], ModelProto], bad: int, why: str
) -> None:
    engine = onnxruntime(saved(model(), tmp_path / "m.onnx"))
    with pytest.raises(
        InvalidTensor, match=rf"input 'x' of shape \[2\]: .*{why}.*; send values that the model knows"
    ) as caught:
        engine.infer({"x": np.array([1, bad])})
    assert "onnxruntime" not in str(caught.value)
    assert engine.infer({"x": np.array([1, 2])})["y"].size


@pytest.mark.parametrize("kind", ["too much memory", "fixed shapes"])
def test_what_is_not_of_the_callers_shape_stays_a_failure_of_the_engine(tmp_path: Path, kind: str) -> None:
    length: int | str = "length"
    nodes = [
        node("Shape", ["x"], ["s"], "s"),
        node("Mul", ["s", "huge"], ["t"], "m"),
        node("ConstantOfShape", ["t"], ["y"], "z"),
    ]
    constants = {"huge": np.array([1, 2**36])}
    if kind == "fixed shapes":
        # The row's length does not vary, so whatever does not fit was not the caller's to choose.
        length, nodes = 5, [node("Reshape", ["x", "to"], ["y"], "r")]
        constants = {"to": np.array([-1, 4])}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", length])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", "l"])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    engine = onnxruntime(saved(model, tmp_path / "m.onnx"))
    with pytest.raises(EngineFailed, match="ONNX Runtime failed on this batch: "):
        engine.infer(filled({"x": (1, 5)}, 1.0))


def test_openvino_does_not_read_beyond_a_first_axis_that_is_summed_over(tmp_path: Path) -> None:
    engine = openvino(saved(turned(), tmp_path / "m.onnx"))
    assert engine.infer(filled({"x": (6, 2)}, 1.0))["y"].tolist() == [[6, 6], [6, 6]]
    with pytest.raises(InvalidTensor, match=r"'x' of shape \[4, 2\]: Incompatible MatMul"):
        engine.infer(filled({"x": (4, 2)}, 1.0))


@pytest.mark.parametrize("kind", ["float", "int8"])
def test_openvino_keeps_no_weights_to_try_shapes_with(tmp_path: Path, kind: str) -> None:
    nodes, weights = [node("MatMul", ["x", "w"], ["y"], "m")], {"w": fp32(np.ones((1024, 2048)))}
    if kind == "int8":
        nodes.insert(0, node("DequantizeLinear", ["q", "scale"], ["w"], "d"))
        weights = {"q": np.ones((1024, 2048), np.int8), "scale": fp32(0.5)}
    path = saved(model_of(nodes, [ROWS], [value("y", ("batch", 2048))], weights), tmp_path / "m.onnx")
    tried = tried_shapes(ov.Core().read_model(str(path)))
    assert tried is not None
    kept = [op.get_output_shape(0) for op in tried.model.get_ops() if op.get_type_name() == "Constant"]
    assert all(np.prod(list(shape)) <= 1 for shape in kept)
    engine = openvino(path)
    assert engine.infer(filled({"x": (1, 1024)}, 1.0))["y"].shape == (1, 2048)
    with pytest.raises(InvalidTensor, match="Incompatible MatMul matrix dimension"):
        engine.infer(filled({"x": (1, 1023)}, 1.0))
