"""An uploaded model is checked from its first byte to its first run; every refusal says what to do next."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper

from service.domain.limits import MIB, StageLimits
from service.errors import InvalidModel, OctavoError
from service.quantization.graphs.inspection import known_versions
from service.quantization.sandbox.parent import run_in_sandbox
from tests.unit.quantization.inspecting import inspect
from tests.unit.quantization.int8 import quantize, run
from tests.unit.quantization.small_models import (
    classifier,
    images,
    linear_regressor,
    model_of,
    relu_model,
    saved,
    value,
)


def test_a_sound_model_gives_its_specs_operators_and_size(tmp_path: Path) -> None:
    found = inspect(tmp_path, classifier())
    assert found["opset"] == 17
    assert found["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 3, 8, 8]}]
    assert found["outputs"] == [{"name": "scores", "datatype": "FP32", "shape": [-1, 4]}]
    assert found["operators"]["Conv"] == 3
    assert found["parameters"] == 8 * 27 + 4 * 8 + 8 * 9 + 8 + 64 + 8 + 32 + 4 + 2
    assert found["warnings"] == []


@pytest.mark.parametrize("shape", [(1, 4), (4,), ()])
def test_fixed_and_scalar_inputs_are_taken_as_they_are(tmp_path: Path, shape: tuple[int, ...]) -> None:
    assert inspect(tmp_path, relu_model(shape))["inputs"][0]["shape"] == list(shape)


def test_constants_that_old_exporters_list_as_inputs_are_no_inputs(tmp_path: Path) -> None:
    model = classifier(opset=9)
    model.ir_version = 3
    for tensor in model.graph.initializer:
        model.graph.input.append(value(tensor.name, list(tensor.dims)))
    assert [spec["name"] for spec in inspect(tmp_path, model)["inputs"]] == ["x"]


def test_a_model_of_its_own_functions_is_taken(tmp_path: Path) -> None:
    model = relu_model()
    model.graph.node[0].CopyFrom(helper.make_node("Double", ["x"], ["y"], domain="own"))
    inner = [helper.make_node("Add", ["a", "a"], ["b"])]
    opset = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("own", "Double", ["a"], ["b"], inner, opset))
    model.opset_import.append(helper.make_opsetid("own", 1))
    assert inspect(tmp_path, model)["outputs"][0]["shape"] == [-1, 4]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "the file is empty; send the .onnx file"),
        (b"just some text that is no model at all", "no ONNX protobuf, or are cut off|hold no graph"),
        (b"PK\x03\x04....", r"a zip archive \(a PyTorch or Keras file\?\), not ONNX"),
        (b"\x80\x02}q\x00.", "a pickle"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
        (b"\x93NUMPY", "a NumPy array"),
        (b"\x1f\x8b\x08", "a gzip file"),
        (b"\x1c\x00\x00\x00TFL3....", "a TensorFlow Lite model"),
        (classifier().SerializeToString()[:-40], "no ONNX protobuf, or are cut off"),
        (numpy_helper.from_array(np.zeros(3, np.float32)).SerializeToString(), "no ONNX protobuf|hold no graph"),
        (ModelProto(ir_version=8).SerializeToString(), "hold no graph, IR version or opset"),
    ],
)
def test_what_is_no_onnx_model_is_refused(tmp_path: Path, data: bytes, words: str) -> None:
    with pytest.raises(InvalidModel, match=words):
        inspect(tmp_path, data)


def test_an_unknown_opset_is_refused_with_the_known_range(tmp_path: Path) -> None:
    newest, _ = known_versions()
    for opset in (6, newest + 1, 2**40):
        with pytest.raises(InvalidModel, match=f"the opset is {opset}; export the model with opset 7 to {newest}"):
            inspect(tmp_path, relu_model(opset=opset))


def test_an_unknown_ir_version_is_refused_with_the_known_range(tmp_path: Path) -> None:
    _, newest = known_versions()
    model = relu_model()
    for version in (2, newest + 1):
        model.ir_version = version
        with pytest.raises(InvalidModel, match=f"the IR version is {version}; export the model with IR 3 to {newest}"):
            inspect(tmp_path, model)


def test_every_opset_in_the_known_range_can_be_quantized(tmp_path: Path) -> None:
    newest, _ = known_versions()
    emitted, _ = quantize(classifier(opset=newest), {"x": images(8)}, tmp_path)
    assert run(emitted, {"x": images(8)}, tmp_path)["scores"].shape == (8, 4)


def test_two_opsets_are_refused(tmp_path: Path) -> None:
    model = relu_model()
    model.opset_import.append(helper.make_opsetid("ai.onnx", 16))
    with pytest.raises(InvalidModel, match=r"imports 2 versions of ai.onnx"):
        inspect(tmp_path, model)


def test_one_opset_that_is_stated_twice_is_taken(tmp_path: Path) -> None:
    for domain in ("", "ai.onnx"):
        model = relu_model()
        model.opset_import.append(helper.make_opsetid(domain, 17))
        assert inspect(tmp_path, model)["opset"] == 17


def test_a_model_without_operators_of_onnx_need_not_state_its_opset(tmp_path: Path) -> None:
    model = linear_regressor()
    del model.opset_import[0]
    assert [entry.domain for entry in model.opset_import] == ["ai.onnx.ml"]
    assert inspect(tmp_path, model)["opset"] == known_versions()[0]
    model.graph.node.append(helper.make_node("Neg", ["x"], ["z"]))
    with pytest.raises(InvalidModel, match=r"imports 0 versions of ai.onnx; export it with exactly one opset"):
        inspect(tmp_path, model)


def test_a_model_that_knows_no_category_0_is_taken_with_a_warning(tmp_path: Path) -> None:
    encode = helper.make_node(
        "OneHotEncoder", ["x"], ["y"], "encode", domain="ai.onnx.ml", cats_int64s=[1, 2, 3], zeros=0
    )
    ids = value("x", ("batch", 1), TensorProto.INT64)
    warnings = inspect(tmp_path, model_of([encode], [ids], [value("y", ("batch", 1, 3))]))["warnings"]
    assert len(warnings) == 1
    assert (
        "cannot run on 1 rows of zeros: the model cannot take input 'x' of shape [1, 1]: Unknown Category"
        in warnings[0]
    )
    assert warnings[0].endswith("it is served without having run, and none of its requests share a batch")


def edited(change: Callable[[ModelProto], object]) -> ModelProto:
    model = model_of(
        [helper.make_node("Relu", ["x"], ["t"], "first"), helper.make_node("Relu", ["t"], ["y"], "second")],
        [value("x", ("batch", 4))],
        [value("y", ("batch", 4))],
    )
    change(model)
    return model


def reverse(model: ModelProto) -> None:
    nodes = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m.graph.ClearField("node"), "the graph holds no nodes"),
        (lambda m: m.graph.node[0].input.__setitem__(0, "y"), "a cycle through 'first', 'second', 'first'; remove it"),
        (reverse, "node 'second' reads 't' before any node makes it; sort the nodes .* OnnxModel"),
        (lambda m: m.graph.node[1].output.__setitem__(0, "t"), "tensor 't' is made by more than one input or node"),
        (lambda m: m.graph.input.append(m.graph.input[0]), "tensor 'x' is made by more than one"),
        (lambda m: m.graph.output.append(m.graph.output[0]), "tensor 'y' is listed twice as an output"),
        (lambda m: setattr(m.graph.output[0], "name", "z"), "output 'z' is made by no node"),
        (lambda m: m.graph.ClearField("input"), "the graph has 0 inputs"),
        (lambda m: m.graph.ClearField("output"), "the graph has 0 outputs"),
        (lambda m: m.graph.input[0].ClearField("type"), "input 'x' is of no type; only plain tensors"),
        (lambda m: m.graph.output[0].ClearField("type"), "output 'y' is of no type"),
        (lambda m: m.graph.input[0].type.tensor_type.ClearField("elem_type"), "element type UNDEFINED"),
        (lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", 14), "element type COMPLEX64"),
        (lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", 16), "element type BFLOAT16"),
        (lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", 999), "element type 999"),
        (lambda m: m.graph.input[0].type.tensor_type.ClearField("shape"), "input 'x' has no known rank"),
        (lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[1], "dim_value", 0), "has an axis of 0"),
        (lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[1], "dim_value", -3), "has an axis of -3"),
        (lambda m: setattr(m.graph.node[0], "op_type", "Rellu"), "the ONNX checker refuses the model: .*Rellu"),
        (lambda m: m.graph.node[0].input.append("x"), "the ONNX checker refuses the model"),
        (lambda m: m.graph.input.extend([value(f"i{n}", [1]) for n in range(64)]), "has 65 inputs"),
        (lambda m: m.graph.node[0].input.__setitem__(0, "nowhere"), "the ONNX checker refuses the model"),
    ],
)
def test_an_unsound_graph_is_refused(tmp_path: Path, change: Callable[[ModelProto], object], words: str) -> None:
    with pytest.raises(InvalidModel, match=words):
        inspect(tmp_path, edited(change))


@pytest.mark.parametrize("kind", ["sequence", "map", "optional"])
def test_inputs_that_are_no_tensors_are_refused(tmp_path: Path, kind: str) -> None:
    tensor = helper.make_tensor_type_proto(TensorProto.FLOAT, [4])
    types = {
        "sequence": helper.make_sequence_type_proto(tensor),
        "map": helper.make_map_type_proto(TensorProto.INT64, tensor),
        "optional": helper.make_optional_type_proto(tensor),
    }
    model = relu_model(inputs=[helper.make_value_info("x", types[kind])])
    with pytest.raises(InvalidModel, match=f"input 'x' is of {kind}_type; only plain tensors can be served"):
        inspect(tmp_path, model)


def test_a_classifier_that_gives_maps_is_refused_with_the_option_that_leaves_them_out(tmp_path: Path) -> None:
    model = model_of(
        [helper.make_node("ZipMap", ["x"], ["y"], domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2, 3])],
        [value("x", ("batch", 4))],
        [
            helper.make_value_info(
                "y",
                helper.make_sequence_type_proto(
                    helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
                ),
            )
        ],
    )
    with pytest.raises(InvalidModel, match=r"output 'y' is of sequence_type; .* scikit-learn .* with zipmap=False"):
        inspect(tmp_path, model)


def test_custom_operators_are_refused_by_domain_and_name(tmp_path: Path) -> None:
    model = model_of(
        [helper.make_node("Magic", ["x"], ["y"], "wand", domain="com.acme")], [value("x", [4])], [value("y", [4])]
    )
    with pytest.raises(InvalidModel, match=r"node 'wand' is the custom operator com.acme::Magic; use"):
        inspect(tmp_path, model)


def test_an_operator_that_the_runtime_does_not_have_is_refused_in_its_words(tmp_path: Path) -> None:
    node = helper.make_node("NoSuchThing", ["x"], ["y"], "odd", domain="com.microsoft")
    model = model_of([node], [value("x", [4])], [value("y", [4])])
    with pytest.raises(InvalidModel, match=r"ONNX Runtime refuses the model: .*NoSuchThing"):
        inspect(tmp_path, model)


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    data = edited(lambda model: None).SerializeToString().replace(b"second", b"sec\xffnd")
    with pytest.raises(InvalidModel, match=r"the name b'sec\\xffnd' is not UTF-8 text"):
        inspect(tmp_path, data)


def test_names_beyond_the_limit_or_unprintable_are_refused(tmp_path: Path) -> None:
    for name, shown in (("n" * 513, "513 characters"), ("a\x00b", "printable")):
        model = model_of([helper.make_node("Relu", [name], ["y"])], [value(name, [4])], [value("y", [4])])
        with pytest.raises(InvalidModel, match=shown):
            inspect(tmp_path, model)


def test_branches_nested_without_end_are_refused(tmp_path: Path) -> None:
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["k0"])], "g0", [], [value("k0", [4])])
    for depth in range(1, 10):
        node = helper.make_node("If", ["yes"], [f"k{depth}"], then_branch=graph, else_branch=graph)
        graph = helper.make_graph([node], f"g{depth}", [], [value(f"k{depth}", [4])])
    flag = value("yes", [], TensorProto.BOOL)
    outer = helper.make_node("If", ["yes"], ["y"], then_branch=graph, else_branch=graph)
    model = model_of([outer], [value("x", [4]), flag], [value("y", [4])])
    with pytest.raises(InvalidModel, match="nested over 8 deep"):
        inspect(tmp_path, model)


def test_a_row_of_absurd_size_is_refused_before_it_is_allocated(tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match="a row of input 'x' has 1048576000000 elements"):
        inspect(tmp_path, relu_model(("batch", 1024, 1024, 1_000_000)))


def test_the_inspection_runs_in_the_sandbox_and_its_refusal_comes_through(tmp_path: Path) -> None:
    path = saved(relu_model(opset=6), tmp_path / "old.onnx")
    limits = StageLimits(60, 1024 * MIB)
    with pytest.raises(InvalidModel, match="the opset is 6"):
        run_in_sandbox("service.quantization.graphs.inspection:inspect_model", {"path": str(path)}, limits=limits)
    path = saved(relu_model(), tmp_path / "sound.onnx")
    found = run_in_sandbox("service.quantization.graphs.inspection:inspect_model", {"path": str(path)}, limits=limits)
    assert found["operators"] == {"Relu": 1}
    assert sorted(os.listdir(tmp_path)) == ["old.onnx", "sound.onnx"]


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_damaged_model_never_does_worse_than_a_refusal(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    damaged = bytearray(relu_model().SerializeToString())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(damaged) - 1))
        damaged[place] = data.draw(st.integers(0, 255))
    try:
        inspect(tmp_path_factory.mktemp("damaged"), bytes(damaged))
    except OctavoError as error:
        assert isinstance(error, InvalidModel), error  # noqa: PT017 - anything but a refusal fails


def test_the_newest_known_versions_are_those_of_the_installed_libraries() -> None:
    opset, ir = known_versions()
    assert 21 <= opset <= onnx.defs.onnx_opset_version()
    assert 10 <= ir <= onnx.IR_VERSION
