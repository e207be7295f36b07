"""EfficientNet-Lite0 as it is built, with random weights: its layers, widths, strides and paddings, batch norm folded.

The published weights need torch; what a builder does with the network depends on its shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, helper

from tests.unit.quantization.small_models import Array, fp32, model_of, value

CLASSES = 1000
STEM, HEAD = 32, 1280
# Of each stage: blocks, kernel, stride of the first block, times that a block widens, and channels that it gives.
STAGES = (
    (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)  # fmt: skip


def efficientnet_lite0(side: int = 64, seed: int = 7) -> ModelProto:
    """FP32 `input` [batch, 3, side, side] to `logits` [batch, 1000]: a stem, 16 blocks, a head; 4.6 million weights."""
    network = _Network(np.random.default_rng(seed), side)
    tensor, channels = network.convolve("input", "stem", _Shape(3, STEM, 3, 2)), STEM
    number = 0
    for blocks, kernel, stride, widened, made in STAGES:
        for index in range(blocks):
            shape = _Shape(channels, made, kernel, stride if index == 0 else 1)
            tensor, channels = network.block(tensor, f"block_{number}", shape, widened), made
            number += 1
    tensor = network.convolve(tensor, "features", _Shape(channels, HEAD, 1))
    network.constants["head.w"] = network.normal((CLASSES, HEAD), HEAD)
    network.constants["head.b"] = np.zeros(CLASSES, np.float32)
    network.nodes += [
        helper.make_node("GlobalAveragePool", [tensor], ["pooled"], "pool"),
        helper.make_node("Flatten", ["pooled"], ["flat"], "flatten"),
        helper.make_node("Gemm", ["flat", "head.w", "head.b"], ["logits"], "head", transB=1),
    ]
    fed, given = value("input", ["batch", 3, side, side]), value("logits", ["batch", CLASSES])
    return model_of(network.nodes, [fed], [given], network.constants)


def pictures(rows: int, side: int = 64, seed: int = 1) -> Array:
    """FP32 [rows, 3, side, side] of noise over a brightness of each row's own."""
    random = np.random.default_rng(seed)
    level = random.normal(0, 0.5, (rows, 3, 1, 1))
    return (random.normal(0, 0.5, (rows, 3, side, side)) + level).astype(np.float32)


@dataclass(frozen=True)
class _Shape:
    """A convolution's channels, read and made, its square kernel and its stride; `group` is 1 or all channels."""

    read: int
    made: int
    kernel: int
    stride: int = 1
    group: int = 1


class _Network:
    def __init__(self, random: np.random.Generator, side: int) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, Array] = {"zero": fp32(0), "six": fp32(6)}
        self._random = random
        self._sides = {"input": side}

    def normal(self, shape: tuple[int, ...], products: int) -> Array:
        """Weights that keep the size of what passes through a clipped layer."""
        return self._random.normal(0, np.sqrt(2 / products), shape).astype(np.float32)

    def block(self, tensor: str, name: str, shape: _Shape, widened: int) -> str:
        """Widen, filter each channel, narrow without a clip; the input is added where it has the same shape."""
        wide, source = shape.read * widened, tensor
        if widened > 1:
            tensor = self.convolve(tensor, f"{name}/expand", _Shape(shape.read, wide, 1))
        tensor = self.convolve(tensor, f"{name}/depthwise", _Shape(wide, wide, shape.kernel, shape.stride, wide))
        tensor = self.convolve(tensor, f"{name}/project", _Shape(wide, shape.made, 1), clipped=False)
        if shape.stride > 1 or shape.read != shape.made:
            return tensor
        self.nodes.append(helper.make_node("Add", [tensor, source], [f"{name}.sum"], f"{name}/add"))
        self._sides[f"{name}.sum"] = self._sides[tensor]
        return f"{name}.sum"

    def convolve(self, tensor: str, name: str, shape: _Shape, clipped: bool = True) -> str:
        """With a bias, and the padding of TensorFlow's SAME, which is uneven where a stride asks for it."""
        side, kernel = self._sides[tensor], shape.kernel
        made = -(-side // shape.stride)
        padding = max((made - 1) * shape.stride + kernel - side, 0)
        before = padding // 2
        products = shape.read // shape.group * kernel**2
        self.constants[f"{name}.w"] = self.normal((shape.made, shape.read // shape.group, kernel, kernel), products)
        self.constants[f"{name}.b"] = self._random.normal(0, 0.1, shape.made).astype(np.float32)
        how: dict[str, Any] = {"kernel_shape": [kernel] * 2, "strides": [shape.stride] * 2, "group": shape.group}
        pads = [before, before, padding - before, padding - before]
        inputs = [tensor, f"{name}.w", f"{name}.b"]
        self.nodes.append(helper.make_node("Conv", inputs, [f"{name}.y"], name, pads=pads, **how))
        given = f"{name}.z" if clipped else f"{name}.y"
        if clipped:
            self.nodes.append(helper.make_node("Clip", [f"{name}.y", "zero", "six"], [given], f"{name}/clip"))
        self._sides[given] = made
        return given
