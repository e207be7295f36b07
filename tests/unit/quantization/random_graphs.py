"""Small random networks: chains of layers with branches, of every kind that quantization has a rule for."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, helper

from tests.unit.quantization.small_models import Array, fp32, model_of, value

_KINDS = ("pointwise", "spatial", "depthwise", "grouped", "relu", "clip", "add", "mul", "pool", "average", "sigmoid",
          "concat", "transpose")  # fmt: skip
_CHANNELS = 8


class _Network:
    """Every tensor is FP32 [n, 8, 6, 6], so that any two of them fit."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, Array] = {"zero": fp32(0), "six": fp32(6)}
        self.made = ["x"]

    def add(self, operator: str, inputs: list[str], name: str, **more: Any) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [f"{name}.y"], name, **more))
        return f"{name}.y"

    def convolve(self, source: str, name: str, kernel: int, inputs: int = _CHANNELS, group: int = 1) -> str:
        shape = (_CHANNELS, inputs // group, kernel, kernel)
        self.constants[f"{name}.w"] = self.random.normal(0, np.prod(shape[1:]) ** -0.5, shape).astype(np.float32)
        names = [source, f"{name}.w"]
        if self.random.random() < 0.7:
            self.constants[f"{name}.b"] = self.random.normal(0, 0.2, _CHANNELS).astype(np.float32)
            names.append(f"{name}.b")
        more: dict[str, Any] = {"kernel_shape": [kernel] * 2, "pads": [kernel // 2] * 4, "group": group}
        return self.add("Conv", names, name, **more)

    def grow(self, kind: str, name: str) -> None:
        last, other = self.made[-1], str(self.random.choice(self.made))
        simple = {"relu": ("Relu", [last]), "clip": ("Clip", [last, "zero", "six"]), "add": ("Add", [last, other]),
                  "mul": ("Mul", [last, other]), "sigmoid": ("Sigmoid", [last])}  # fmt: skip
        window: dict[str, Any] = {"kernel_shape": [3, 3], "pads": [1] * 4}
        if kind in simple:
            made = self.add(simple[kind][0], simple[kind][1], name)
        elif kind == "concat":
            joined = self.add("Concat", [last, other], f"{name}.join", axis=1)
            made = self.convolve(joined, name, 1, 2 * _CHANNELS)
        elif kind == "transpose":
            made = self.add("Transpose", [last], name, perm=[0, 1, 3, 2])
        elif kind in ("pool", "average"):
            made = self.add("MaxPool" if kind == "pool" else "AveragePool", [last], name, **window)
        else:
            form = {"pointwise": (1, 1), "spatial": (3, 1), "depthwise": (3, _CHANNELS), "grouped": (3, 2)}[kind]
            made = self.convolve(last, name, form[0], _CHANNELS, form[1])
        self.made.append(made)


def random_network(seed: int, layers: int) -> ModelProto:
    """A network with at least one convolution and, half the time, a pooled and fully connected end."""
    network = _Network(seed)
    network.made.append(network.convolve("x", "first", 3))
    for index in range(layers):
        kind = str(network.random.choice(_KINDS))
        network.grow(kind, f"{kind}{index}")
    last, shape = network.made[-1], ("n", _CHANNELS, 6, 6)
    result: tuple[int | str, ...] = shape
    if network.random.random() < 0.5:
        pooled = network.add("GlobalAveragePool", [last], "global")
        flat = network.add("Flatten", [pooled], "flat")
        network.constants["head.w"] = network.random.normal(0, 0.4, (5, _CHANNELS)).astype(np.float32)
        network.add("Gemm", [flat, "head.w"], "head", transB=1)
        result = ("n", 5)
    network.nodes[-1].output[0] = "y"
    return model_of(network.nodes, [value("x", shape)], [value("y", result)], network.constants)


def random_rows(seed: int, rows: int = 16) -> dict[str, Array]:
    return {"x": np.random.default_rng(seed).normal(0, 1, (rows, _CHANNELS, 6, 6)).astype(np.float32)}
