"""Random small convolutional graphs for TensorRT's rules: channels enough for INT8, every tensor of one shape."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, helper

from tests.unit.quantization.small_models import Array, fp32, model_of, value

CHANNELS = 16
KINDS = ("conv", "depthwise", "relu", "clip", "add", "concat", "max_pool", "average_pool", "sigmoid", "turn", "split")


def random_graph(seed: int, steps: int = 9) -> ModelProto:
    """FP32 [batch, 16, 6, 6] to the sum of every tensor that nothing reads, of the same shape."""
    return _RandomGraph(np.random.default_rng(seed), steps).model()


def random_rows(rows: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(0, 1, (rows, CHANNELS, 6, 6)).astype(np.float32)


class _RandomGraph:
    def __init__(self, random: np.random.Generator, steps: int) -> None:
        self._random, self._steps = random, steps
        self._nodes: list[NodeProto] = []
        halves = np.array([CHANNELS // 2, CHANNELS // 2])
        self._constants: dict[str, Array] = {"low": fp32(0), "high": fp32(6), "halves": halves}
        self._tensors = ["x"]

    def model(self) -> ModelProto:
        for step in range(self._steps):
            kind = KINDS[int(self._random.integers(len(KINDS)))]
            self._tensors.append(self._add(kind, f"t{step}"))
        read = {name for node in self._nodes for name in node.input}
        ends = [name for name in self._tensors if name not in read]
        self._nodes.append(helper.make_node("Sum", ends, ["y"], "sum"))
        shape = ("batch", CHANNELS, 6, 6)
        return model_of(self._nodes, [value("x", shape)], [value("y", shape)], self._constants)

    def _add(self, kind: str, result: str) -> str:
        source, other = (self._tensors[int(index)] for index in self._random.integers(len(self._tensors), size=2))
        if kind in ("conv", "depthwise"):
            return self._convolve(source, result, CHANNELS if kind == "depthwise" else 1)
        if kind == "concat":
            return self._convolve(self._node("Concat", [source, other], f"{result}_both", axis=1), result, 1, 2)
        if kind == "split":
            parts = [f"{result}_a", f"{result}_b"]
            self._nodes.append(helper.make_node("Split", [source, "halves"], parts, f"{result}_split", axis=1))
            return self._node("Concat", parts[:: 1 if self._random.random() < 0.5 else -1], result, axis=1)
        window: dict[str, Any] = {"kernel_shape": [3, 3], "pads": [1] * 4}
        operators: dict[str, tuple[str, list[str], dict[str, Any]]] = {
            "relu": ("Relu", [source], {}),
            "clip": ("Clip", [source, "low", "high"], {}),
            "add": ("Add", [source, other], {}),
            "max_pool": ("MaxPool", [source], window),
            "average_pool": ("AveragePool", [source], window),
            "sigmoid": ("Sigmoid", [source], {}),
            "turn": ("Transpose", [source], {"perm": [0, 1, 3, 2]}),
        }
        operator, inputs, more = operators[kind]
        return self._node(operator, inputs, result, **more)

    def _convolve(self, source: str, result: str, group: int, widths: int = 1) -> str:
        shape = (CHANNELS, widths * CHANNELS // group, 3, 3)
        kernel = self._random.normal(0, 1 / np.sqrt(np.prod(shape[1:])), shape)
        self._constants |= {
            f"{result}.w": kernel.astype(np.float32),
            f"{result}.b": self._random.normal(0, 0.1, CHANNELS).astype(np.float32),
        }
        inputs = [source, f"{result}.w", f"{result}.b"]
        return self._node("Conv", inputs, result, kernel_shape=[3, 3], pads=[1] * 4, group=group)

    def _node(self, operator: str, inputs: list[str], result: str, **attributes: Any) -> str:
        self._nodes.append(helper.make_node(operator, inputs, [result], result, **attributes))
        return result
