"""ONNX files that must be refused, each wrong in one way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from onnx import ModelProto, TensorProto, ValueInfoProto, helper


def value(name: str, shape: list[Any] | None = None, kind: int = TensorProto.FLOAT) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, ["rows", 4] if shape is None else shape)


def model(nodes: list[Any], inputs: list[Any] | None = None, opset: int = 17, **more: Any) -> ModelProto:
    """A model of one input `x` and one output `y`, [rows, 4], unless told otherwise."""
    graph = helper.make_graph(nodes, "g", inputs or [value("x")], more.pop("outputs", [value("y")]), **more)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def relu() -> Any:
    return helper.make_node("Relu", ["x"], ["y"], name="relu")


def external_data() -> ModelProto:
    weight = helper.make_tensor("w", TensorProto.FLOAT, [4], [0.0] * 4)
    weight.ClearField("float_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="../../../etc/passwd")
    return model([helper.make_node("Add", ["x", "w"], ["y"])], initializer=[weight])


def custom_domain() -> ModelProto:
    made = model([helper.make_node("Launch", ["x"], ["y"], name="rocket", domain="com.evil")])
    made.opset_import.append(helper.make_opsetid("com.evil", 1))
    return made


def cycle() -> ModelProto:
    first = helper.make_node("Add", ["x", "b"], ["a"], name="first")
    second = helper.make_node("Relu", ["a"], ["b"], name="second")
    return model([first, second, helper.make_node("Relu", ["a"], ["y"])])


def disorder() -> ModelProto:
    return model([helper.make_node("Relu", ["a"], ["y"], name="late"), helper.make_node("Relu", ["x"], ["a"])])


def typeless() -> ModelProto:
    return model([relu()], inputs=[ValueInfoProto(name="x")])


def rankless() -> ModelProto:
    untold = ValueInfoProto(name="x")
    untold.type.tensor_type.elem_type = TensorProto.FLOAT
    return model([relu()], inputs=[untold])


def missing_tensor() -> ModelProto:
    return model([helper.make_node("Relu", ["nowhere"], ["y"], name="lost")])


def unknown_operator() -> ModelProto:
    return model([helper.make_node("Relux", ["x"], ["y"], name="typo")])


def string_sequence() -> ModelProto:
    made = ValueInfoProto(name="x")
    made.type.sequence_type.elem_type.tensor_type.elem_type = TensorProto.STRING
    return model([relu()], inputs=[made])


def wrong_shapes() -> ModelProto:
    return model([helper.make_node("MatMul", ["x", "w"], ["y"])], initializer=[
        helper.make_tensor("w", TensorProto.FLOAT, [5, 4], [0.0] * 20)
    ])  # fmt: skip


# A name for the test, the file, and words that the refusal must hold.
BAD_MODELS: list[tuple[str, Callable[[], ModelProto], tuple[str, ...]]] = [
    ("external data", external_data, ("'w'", "../../../etc/passwd", "one file")),
    ("custom domain", custom_domain, ("'rocket'", "com.evil::Launch")),
    ("unknown opset", lambda: model([relu()], opset=9999), ("9999", "opset 7 to")),
    ("ancient opset", lambda: model([relu()], opset=1), ("the opset is 1", "opset 7 to")),
    ("a cycle", cycle, ("cycle", "'first'")),
    ("nodes out of order", disorder, ("'late'", "before any node makes it")),
    ("a typeless input", typeless, ("input 'x' is of no type",)),
    ("an input without rank", rankless, ("'x' has no known rank",)),
    ("an input that is a sequence", string_sequence, ("sequence_type",)),
    ("a zero axis", lambda: model([relu()], [value("x", [0, 4])]), ("an axis of 0",)),
    ("a tensor that nothing makes", missing_tensor, ("nowhere",)),
    ("an unknown operator", unknown_operator, ("Relux",)),
    ("shapes that do not fit", wrong_shapes, ("MatMul",)),
    ("no nodes", lambda: model([]), ("no nodes",)),
    ("no outputs", lambda: model([relu()], outputs=[]), ("0 outputs",)),
]


def bytes_of(made: ModelProto) -> bytes:
    return bytes(made.SerializeToString())


def scalar_input() -> bytes:
    """A sound model whose input is a scalar."""
    return bytes_of(model([relu()], [value("x", [])], outputs=[value("y", [])]))


def open_axes() -> bytes:
    """A sound model whose every axis is open."""
    return bytes_of(model([relu()], [value("x", ["n", "h", "w"])], outputs=[value("y", ["n", "h", "w"])]))
