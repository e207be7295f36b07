"""Small ONNX models made by hand, and rows for them: random but from fixed seeds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper, save_model

FLOAT = TensorProto.FLOAT
Array = npt.NDArray[Any]
Shape = Sequence[int | str] | None


def fp32(values: Any) -> Array:
    """Numbers as an FP32 array."""
    return np.asarray(values, np.float32)


def value(name: str, shape: Shape, element: int = FLOAT) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, element, shape)


def model_of(
    nodes: Sequence[NodeProto],
    inputs: Sequence[ValueInfoProto],
    outputs: Sequence[ValueInfoProto],
    constants: dict[str, Array] | None = None,
    opset: int = 17,
) -> ModelProto:
    """A model of these parts; every domain that its nodes use is imported."""
    tensors = [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()]
    graph = helper.make_graph(list(nodes), "small", list(inputs), list(outputs), tensors)
    domains = {node.domain for node in nodes} - {""}
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in sorted(domains))]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def relu_model(shape: Shape = ("batch", 4), **changes: Any) -> ModelProto:
    """y = Relu(x)."""
    return model_of(
        [helper.make_node("Relu", ["x"], ["y"], "relu")],
        changes.pop("inputs", [value("x", shape)]),
        changes.pop("outputs", [value("y", shape)]),
        **changes,
    )


def linear_regressor() -> ModelProto:
    """A regressor as scikit-learn's converter writes it, of ai.onnx.ml alone: FP32 [batch, 4] to [batch, 1]."""
    node = helper.make_node(
        "LinearRegressor",
        ["x"],
        ["y"],
        "linear",
        domain="ai.onnx.ml",
        coefficients=[1.0, 2.0, 3.0, 4.0],
        intercepts=[0.5],
    )
    return model_of([node], [value("x", ("batch", 4))], [value("y", ("batch", 1))])


def u_net() -> ModelProto:
    """Down by two and up again beside what came before, FP32 [batch, 3, height, width] to [batch, 7, height, width].

    Height and width must be even.
    """
    node = helper.make_node
    weight = np.random.default_rng(7).normal(0, 0.3, (4, 3, 3, 3)).astype(np.float32)
    nodes = [
        node("MaxPool", ["x"], ["down"], "down", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["down", "w"], ["c"], "conv", kernel_shape=[3, 3], pads=[1] * 4),
        node("Resize", ["c", "", "twice"], ["up"], "up", mode="nearest"),
        node("Concat", ["x", "up"], ["y"], "beside", axis=1),
    ]
    constants = {"w": weight, "twice": fp32([1, 1, 2, 2])}
    shape = ("batch", 3, "height", "width")
    return model_of(nodes, [value("x", shape)], [value("y", ("batch", 7, "height", "width"))], constants)


def classifier(opset: int = 17, batch: int | str = "batch", seed: int = 3) -> ModelProto:
    """Conv-BatchNorm-Relu, a depthwise block with a residual Add, pooling, and a Gemm to four scores.

    FP32 [batch, 3, 8, 8] to [batch, 4]. The first block's channels differ in size a hundredfold, so that granularity
    matters.
    """
    random = np.random.default_rng(seed)

    def weights(*shape: int) -> Array:
        return random.normal(0, 1 / np.sqrt(np.prod(shape[1:])), shape).astype(np.float32)

    spread = np.logspace(-1, 1, 8).astype(np.float32)
    constants: dict[str, Array] = {
        "stem.w": weights(8, 3, 3, 3) * spread[:, None, None, None],
        "bn.scale": random.uniform(0.5, 1.5, 8).astype(np.float32),
        "bn.bias": random.normal(0, 0.1, 8).astype(np.float32),
        "bn.mean": random.normal(0, 0.1, 8).astype(np.float32),
        "bn.var": random.uniform(0.5, 1.5, 8).astype(np.float32),
        "dw.w": weights(8, 1, 3, 3),
        "dw.b": random.normal(0, 0.1, 8).astype(np.float32),
        "pw.w": weights(8, 8, 1, 1),
        "pw.b": random.normal(0, 0.1, 8).astype(np.float32),
        "head.w": weights(4, 8) * 3,
        "head.b": random.normal(0, 0.1, 4).astype(np.float32),
        "zero": fp32(0),
        "six": fp32(6),
    }
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "stem.w"], ["a"], "stem", kernel_shape=[3, 3], pads=[1] * 4),
        node("BatchNormalization", ["a", "bn.scale", "bn.bias", "bn.mean", "bn.var"], ["b"], "bn"),
        node("Relu", ["b"], ["c"], "stem/relu"),
        node("Conv", ["c", "dw.w", "dw.b"], ["d"], "dw", kernel_shape=[3, 3], pads=[1] * 4, group=8),
        node("Clip", ["d", "zero", "six"], ["e"], "dw/clip") if opset >= 11 else
        node("Clip", ["d"], ["e"], "dw/clip", min=0.0, max=6.0),
        node("Conv", ["e", "pw.w", "pw.b"], ["f"], "pw", kernel_shape=[1, 1]),
        node("Add", ["c", "f"], ["g"], "residual"),
        node("GlobalAveragePool", ["g"], ["h"], "pool"),
        node("Flatten", ["h"], ["i"], "flatten"),
        node("Gemm", ["i", "head.w", "head.b"], ["scores"], "head", transB=1),
    ]  # fmt: skip
    if opset < 11:
        del constants["zero"], constants["six"]
    shape = [batch, 3, 8, 8]
    return model_of(nodes, [value("x", shape)], [value("scores", [batch, 4])], constants, opset)


def images(rows: int, seed: int = 0) -> Array:
    """FP32 [rows, 3, 8, 8], each row of its own brightness so that scores differ between rows."""
    random = np.random.default_rng(seed)
    level = random.normal(0, 1, (rows, 3, 1, 1))
    return (random.normal(0, 0.5, (rows, 3, 8, 8)) + level).astype(np.float32)


def saved(model: ModelProto, path: Path) -> Path:
    save_model(model, path)
    return path


def saved_rows(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def read_in_a_branch(model: ModelProto, *tensors: str) -> ModelProto:
    """A copy of a model that is fed `x`, which gives each tensor out behind an If, plus or minus the largest of `x`."""
    copy = ModelProto()
    copy.CopyFrom(model)
    copy.graph.node.append(helper.make_node("ReduceMax", ["x"], ["largest"], "largest", keepdims=0))
    copy.graph.node.append(helper.make_node("Greater", ["largest", "bound"], ["rare"], "compare"))
    copy.graph.initializer.append(numpy_helper.from_array(fp32(6), "bound"))
    for tensor in tensors:
        branches: dict[str, Any] = {}
        for branch, kind in (("then_branch", "Sub"), ("else_branch", "Add")):
            made = f"{tensor}/{branch}"
            # Not of the tensor alone, or constants would be folded.
            node = helper.make_node(kind, [tensor, "largest"], [made], made)
            branches[branch] = helper.make_graph([node], branch, [], [value(made, None)])
        copy.graph.node.append(helper.make_node("If", ["rare"], [f"{tensor}/seen"], f"{tensor}/if", **branches))
        copy.graph.output.append(value(f"{tensor}/seen", None))
    return copy
