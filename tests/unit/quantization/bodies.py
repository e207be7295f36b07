"""Small graphs that differ in what lies between their first and their last layer, for every runtime's INT8 rules.

FP32 [n, 8, 8, 8] from `x` to `y`. The layer in question is called `it`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, helper

from tests.unit.quantization.small_models import Array, fp32, model_of, value

SHAPE = ("n", 8, 8, 8)
_node = helper.make_node
_random = np.random.default_rng(0)


def _weights(*shape: int) -> Array:
    return _random.normal(0, 1 / np.sqrt(np.prod(shape[1:])), shape).astype(np.float32)


CONSTANTS: dict[str, Array] = {
    **{name: _weights(8, 8, 1, 1) for name in ("k", "k2", "k3", "k4")},
    "wide": _weights(8, 16, 1, 1),
    "dw": _weights(8, 1, 3, 3),
    "w": _weights(8, 8),
    "w2": _weights(8, 8),
    "flat": _weights(512, 4),
    "bias": _random.normal(0, 0.3, 8).astype(np.float32),
    "slope": np.full((8, 1, 1), 0.1, np.float32),
    "addend": _random.normal(0, 0.3, (8, 1, 1)).astype(np.float32),
    "axes": np.array([0], np.int64),
    "zero": fp32(0),
    "minus": fp32(-1),
    "six": fp32(6),
}


def conv(source: str, result: str, name: str, weight: str = "k", **attributes: Any) -> NodeProto:
    return _node("Conv", [source, weight], [result], name, **attributes)


def _between(*nodes: NodeProto) -> list[NodeProto]:
    return [conv("x", "a", "first"), *nodes, conv("c", "y", "last", "k4")]


BODIES: dict[str, list[NodeProto]] = {
    "nothing": [conv("x", "a", "first"), conv("a", "y", "last", "k2")],
    "depthwise": _between(conv("a", "c", "it", "dw", group=8, pads=[1] * 4)),
    "MaxPool": _between(_node("MaxPool", ["a"], ["c"], "it", kernel_shape=[2, 2])),
    "MaxPool at the start": [_node("MaxPool", ["x"], ["c"], "it", kernel_shape=[2, 2]), conv("c", "y", "last")],
    "MaxPool at the end": [conv("x", "a", "first"), _node("MaxPool", ["a"], ["y"], "it", kernel_shape=[2, 2])],
    "AveragePool": _between(_node("AveragePool", ["a"], ["c"], "it", kernel_shape=[2, 2])),
    "AveragePool with padding": _between(_node("AveragePool", ["a"], ["c"], "it", kernel_shape=[3, 3], pads=[1] * 4)),
    "AveragePool of its padding": _between(
        _node("AveragePool", ["a"], ["c"], "it", kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=1)
    ),
    "AveragePool of its padding beside a convolution": [
        conv("x", "a", "first"),
        _node("AveragePool", ["a"], ["b"], "it", kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=1),
        conv("b", "d", "behind", "k2"),
        conv("a", "e", "beside", "k3"),
        _node("Add", ["d", "e"], ["c"], "add"),
        conv("c", "y", "last", "k4"),
    ],
    "GlobalAveragePool": _between(_node("GlobalAveragePool", ["a"], ["c"], "it")),
    "Transpose": _between(_node("Transpose", ["a"], ["c"], "it", perm=[0, 1, 3, 2])),
    "Squeeze": _between(_node("Unsqueeze", ["a", "axes"], ["u"], "up"), _node("Squeeze", ["u", "axes"], ["c"], "it")),
    "Flatten": [
        conv("x", "a", "first"),
        _node("Relu", ["a"], ["b"], "relu"),
        _node("Flatten", ["b"], ["c"], "it"),
        _node("Gemm", ["c", "flat"], ["y"], "last"),
    ],
    "Relu": _between(_node("Relu", ["a"], ["c"], "it")),
    "Clip": _between(_node("Clip", ["a", "zero", "six"], ["c"], "it")),
    "Clip below zero": _between(_node("Clip", ["a", "minus", "six"], ["c"], "it")),
    "Sigmoid": _between(_node("Sigmoid", ["a"], ["c"], "it")),
    "Tanh": _between(_node("Tanh", ["a"], ["c"], "it")),
    "LeakyRelu": _between(_node("LeakyRelu", ["a"], ["c"], "it", alpha=0.1)),
    "PRelu": _between(_node("PRelu", ["a", "slope"], ["c"], "it")),
    "swish": _between(_node("Sigmoid", ["a"], ["s"], "gate"), _node("Mul", ["a", "s"], ["c"], "it")),
    "hard swish": _between(
        _node("HardSigmoid", ["a"], ["s"], "gate", alpha=1 / 6), _node("Mul", ["a", "s"], ["c"], "it")
    ),
    "Softmax": _between(_node("Softmax", ["a"], ["c"], "it")),
    "Add of a constant": _between(_node("Add", ["a", "addend"], ["c"], "it")),
    "Add": _between(conv("x", "b", "second", "k2"), _node("Add", ["a", "b"], ["c"], "it")),
    "Add and Relu": _between(
        conv("x", "b", "second", "k2"), _node("Add", ["a", "b"], ["d"], "it"), _node("Relu", ["d"], ["c"], "relu")
    ),
    "Add at the end": [
        conv("x", "a", "first"), conv("x", "b", "second", "k2"), _node("Add", ["a", "b"], ["y"], "it")
    ],
    "residual": _between(
        _node("Relu", ["a"], ["b"], "relu"), conv("b", "d", "second", "k2"), _node("Add", ["d", "b"], ["c"], "it")
    ),
    "residual over two": _between(
        conv("a", "b", "second", "k2"),
        _node("Relu", ["b"], ["d"], "relu"),
        conv("d", "e", "third", "k3"),
        _node("Add", ["e", "a"], ["c"], "it"),
    ),
    "residual of clipped branches": _between(
        _node("Relu", ["a"], ["b"], "relu"),
        conv("b", "d", "second", "k2"),
        _node("Relu", ["d"], ["e"], "relu2"),
        _node("Add", ["b", "e"], ["c"], "it"),
    ),
    "Concat": [
        conv("x", "a", "first"),
        conv("x", "b", "second", "k2"),
        _node("Concat", ["a", "b"], ["c"], "it", axis=1),
        conv("c", "y", "last", "wide"),
    ],
    "Mul": _between(conv("x", "b", "second", "k2"), _node("Mul", ["a", "b"], ["c"], "it")),
    "squeeze and excitation": _between(
        _node("Relu", ["a"], ["b"], "relu"),
        _node("GlobalAveragePool", ["b"], ["p"], "pool"),
        conv("p", "q", "down", "k2"),
        _node("Relu", ["q"], ["r"], "relu2"),
        conv("r", "s", "up", "k3"),
        _node("Sigmoid", ["s"], ["t"], "gate"),
        _node("Mul", ["b", "t"], ["c"], "it"),
    ),
    "MatMul": _between(_node("MatMul", ["a", "w"], ["c"], "it")),
    "two MatMul": [
        _node("MatMul", ["x", "w"], ["a"], "first"),
        _node("Add", ["a", "bias"], ["b"], "it"),
        _node("Relu", ["b"], ["c"], "relu"),
        _node("MatMul", ["c", "w2"], ["y"], "last"),
    ],
    "attention": [
        _node("MatMul", ["x", "w"], ["q"], "query"),
        _node("MatMul", ["x", "w2"], ["r"], "key"),
        _node("Transpose", ["r"], ["t"], "turn", perm=[0, 1, 3, 2]),
        _node("MatMul", ["q", "t"], ["s"], "it"),
        _node("Softmax", ["s"], ["p"], "soft", axis=-1),
        _node("MatMul", ["p", "q"], ["o"], "mix"),
        _node("MatMul", ["o", "w"], ["y"], "last"),
    ],
    "a result read in two ways": _between(_node("Relu", ["a"], ["b"], "relu"), _node("Add", ["a", "b"], ["c"], "it")),
}  # fmt: skip


def body_model(body: str, outputs: tuple[str, ...] = ("y",)) -> ModelProto:
    """The model of one body; `outputs` may name inner tensors too."""
    nodes = BODIES[body]
    read = {name for node in nodes for name in node.input}
    constants = {name: values for name, values in CONSTANTS.items() if name in read}
    return model_of(nodes, [value("x", SHAPE)], [value(name, None) for name in outputs], constants)


def body_rows(rows: int, seed: int = 0) -> Array:
    """FP32 [rows, 8, 8, 8]."""
    return np.random.default_rng(seed).normal(0, 1, (rows, *SHAPE[1:])).astype(np.float32)
