"""Constants that an upload keeps sparse are the same as if they were written out, from the upload to the INT8 graph."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, SparseTensorProto, TensorProto, helper, numpy_helper, save_model

from service.domain.recipe import BatchProfile
from service.errors import InvalidModel
from service.quantization.builders.builder import BuildOptions, builder_for
from service.quantization.graphs.sparse_constants import MAX_DENSE_BYTES
from service.quantization.preparation.preparation import LOWEST_OPSET, graph_digest, prepare
from tests.unit.quantization.inspecting import inspect
from tests.unit.quantization.int8 import quantize, run
from tests.unit.quantization.small_models import Array, fp32, model_of, saved, value


def mostly_zeros(rows: int, columns: int) -> Array:
    random = np.random.default_rng(0)
    weights = random.normal(0, 1, (rows, columns)).astype(np.float32)
    weights[random.random(weights.shape) < 0.8] = 0
    return weights


WEIGHTS = mostly_zeros(16, 4)


def sparse(dense: Array, name: str = "", by_axis: bool = False) -> SparseTensorProto:
    """A constant in either of ONNX's two forms: places counted through, or one number for each axis."""
    places = np.nonzero(dense)
    indices = np.stack(places, axis=1) if by_axis else np.ravel_multi_index(places, dense.shape)
    values = numpy_helper.from_array(dense[places], name)
    return helper.make_sparse_tensor(values, numpy_helper.from_array(indices.astype(np.int64)), list(dense.shape))


def product(weights: Array | None = None) -> ModelProto:
    """y = Relu(x @ w); without weights they are to be added."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"], "product"), helper.make_node("Relu", ["h"], ["y"], "relu")]
    constants = {} if weights is None else {"w": weights}
    return model_of(nodes, [value("x", ("batch", 16))], [value("y", ("batch", 4))], constants)


def of_initializer(by_axis: bool = False) -> ModelProto:
    model = product()
    model.graph.sparse_initializer.append(sparse(WEIGHTS, "w", by_axis))
    return model


def of_node() -> ModelProto:
    model = product()
    model.graph.node.insert(0, helper.make_node("Constant", [], ["w"], sparse_value=sparse(WEIGHTS)))
    return model


def of_branch() -> ModelProto:
    """x @ w in one branch of an If, and x @ -w in the other."""
    branches: dict[str, Any] = {}
    for name, weights in (("then_branch", WEIGHTS), ("else_branch", -WEIGHTS)):
        node = helper.make_node("MatMul", ["x", f"{name}/w"], [name], f"{name}/product")
        branches[name] = helper.make_graph([node], name, [], [value(name, ("batch", 4))])
        branches[name].sparse_initializer.append(sparse(weights, f"{name}/w"))
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        helper.make_node("Cast", ["most"], ["bright"], to=TensorProto.BOOL),
        helper.make_node("If", ["bright"], ["y"], **branches),
    ]
    return model_of(nodes, [value("x", ("batch", 16))], [value("y", ("batch", 4))])


FORMS = {
    "initializer": of_initializer,
    "by axis": lambda: of_initializer(by_axis=True),
    "node": of_node,
    "branch": of_branch,
}


@pytest.mark.parametrize("form", FORMS)
def test_a_model_with_sparse_constants_is_taken(tmp_path: Path, form: str) -> None:
    found = inspect(tmp_path, FORMS[form]())
    assert found["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [-1, 4]}]
    assert found["warnings"] == []


def test_parameters_are_counted_as_they_are_held_in_memory(tmp_path: Path) -> None:
    assert inspect(tmp_path, of_initializer())["parameters"] == 16 * 4


@pytest.mark.parametrize("form", ["initializer", "by axis", "node"])
def test_the_prepared_graph_is_that_of_constants_written_out(tmp_path: Path, form: str) -> None:
    digests = []
    for model in (product(WEIGHTS), FORMS[form]()):
        prepare(saved(model, tmp_path / "upload.onnx"), tmp_path / "prepared.onnx", LOWEST_OPSET)
        prepared = ModelProto.FromString((tmp_path / "prepared.onnx").read_bytes())
        assert not prepared.graph.sparse_initializer
        digests.append(graph_digest(prepared))
    assert digests[0] == digests[1]


@pytest.mark.parametrize("form", ["initializer", "by axis", "node"])
def test_sparse_weights_are_quantized(tmp_path: Path, form: str) -> None:
    rows = {"x": fp32(np.random.default_rng(1).normal(0, 1, (64, 16)))}
    emitted, _ = quantize(FORMS[form](), rows, tmp_path)
    assert any(
        tensor.data_type == TensorProto.INT8 and list(tensor.dims) == [16, 4] for tensor in emitted.graph.initializer
    )
    given, expected = run(emitted, rows, tmp_path)["y"], np.maximum(rows["x"] @ WEIGHTS, 0)
    assert np.abs(given - expected).max() < 0.05 * np.abs(expected).max()


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("form", FORMS)
def test_an_engine_in_fp32_is_built_of_them_for_each_runtime(tmp_path: Path, form: str, runtime: str) -> None:
    pytest.importorskip(runtime)
    builder, engine = builder_for(runtime), tmp_path / "engine.onnx"
    model = FORMS[form]()
    builder.build(saved(model, tmp_path / "converted.onnx"), engine, BuildOptions(1, BatchProfile()))
    rows = {"x": fp32(np.random.default_rng(1).normal(0, 1, (8, 16)))}
    given = builder.load(engine, 1).infer(rows)["y"]
    assert np.abs(given - run(model, rows, tmp_path)["y"]).max() < 1e-5


def test_every_numeric_type_is_written_out(tmp_path: Path) -> None:
    for dtype, element in ((np.float16, TensorProto.FLOAT16), (np.float64, TensorProto.DOUBLE)):
        node = helper.make_node("MatMul", ["x", "w"], ["y"])
        model = model_of([node], [value("x", ("batch", 16), element)], [value("y", ("batch", 4), element)])
        model.graph.sparse_initializer.append(sparse(WEIGHTS.astype(dtype), "w"))
        assert inspect(tmp_path, model)["parameters"] == 16 * 4


def replaced(indices: list[int]) -> Callable[[SparseTensorProto], None]:
    def change(tensor: SparseTensorProto) -> None:
        tensor.indices.CopyFrom(numpy_helper.from_array(np.array(indices, np.int64)))
        tensor.values.CopyFrom(numpy_helper.from_array(np.ones(len(indices), np.float32), "w"))

    return change


def of_text(tensor: SparseTensorProto) -> None:
    tensor.values.CopyFrom(TensorProto(name="w", data_type=TensorProto.STRING, dims=[1], string_data=[b"a"]))
    tensor.indices.CopyFrom(numpy_helper.from_array(np.array([0], np.int64)))


def of_extents(*extents: int) -> Callable[[SparseTensorProto], None]:
    def change(tensor: SparseTensorProto) -> None:
        replaced([6])(tensor)
        tensor.dims[:] = extents

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (replaced([64]), r"the ONNX checker refuses the model: .*out of range \[0, 63\]"),
        (replaced([-1]), "the ONNX checker refuses the model: .*out of range"),
        (replaced([6, 5]), "the ONNX checker refuses the model: .*not in sorted order"),
        (lambda tensor: tensor.ClearField("values"), "the ONNX checker refuses the model"),
        (of_extents(-16, 4), "the ONNX checker refuses the model: .*not positive"),
        (of_extents(2**31, 2**31), f"'w' takes {2**64} bytes written out.* {MAX_DENSE_BYTES}; split the model"),
        (of_text, "sparse constant 'w' holds STRING; store it as a plain constant"),
    ],
)
def test_an_unsound_sparse_constant_is_refused(
    tmp_path: Path, change: Callable[[SparseTensorProto], None], words: str
) -> None:
    model = of_initializer()
    change(model.graph.sparse_initializer[0])
    with pytest.raises(InvalidModel, match=words):
        inspect(tmp_path, model)


def test_sparse_constants_are_bounded_together(tmp_path: Path) -> None:
    model = of_initializer()
    for number in range(3):
        unread = sparse(fp32([1, 0]), f"unread{number}")
        unread.dims[:] = [MAX_DENSE_BYTES // 8]
        model.graph.sparse_initializer.append(unread)
    with pytest.raises(InvalidModel, match=f"bytes written out, with those before it more than {MAX_DENSE_BYTES}"):
        inspect(tmp_path, model)


def test_a_sparse_constant_in_another_file_is_refused(tmp_path: Path) -> None:
    model = of_initializer()
    tensor = model.graph.sparse_initializer[0].values
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="elsewhere")
    path = tmp_path / "external.onnx"
    save_model(model, path)
    with pytest.raises(InvalidModel, match="keeps its data in another file, 'elsewhere'"):
        inspect(tmp_path, path.read_bytes())
