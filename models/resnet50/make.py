"""Makes ResNet50 v1.5 (the stride is the 3 x 3 convolution's) as ONNX, its BatchNormalizations in place.

Run as `python -m models.resnet50.make`. Needs numpy and onnx alone: weights are random, as He initialises them, from a
fixed seed. Speed does not depend on them; accuracy would, so nothing is said of it.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

SEED = 50
SIDE, CLASSES, STEM_CHANNELS = 224, 1000, 64
# (blocks, inner channels, stride of the first block) of the four stages.
STAGES = ((3, 64, 1), (4, 128, 2), (6, 256, 2), (3, 512, 2))
EXPANSION = 4
EPSILON = 1e-5
# Scale of a block's last normalization: sixteen sums of branches of equal size would grow beyond FP16's comfort.
BRANCH_SCALE = 0.5


@dataclass
class _Graph:
    nodes: list[NodeProto] = field(default_factory=list)
    tensors: list[TensorProto] = field(default_factory=list)
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(SEED))

    def hold(self, name: str, values: NDArray[np.float32]) -> str:
        self.tensors.append(numpy_helper.from_array(values, name))
        return name

    def add(self, kind: str, inputs: list[str], name: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [name], name, **attributes))
        return name

    def weights(self, name: str, *shape: int) -> str:
        """He's normal initialisation for a layer that ReLU follows: variance 2 over the inputs of a unit."""
        deviation = math.sqrt(2 / math.prod(shape[1:]))
        return self.hold(name, self.random.normal(0, deviation, shape).astype(np.float32))


@dataclass(frozen=True)
class _Conv:
    inputs: int
    outputs: int
    kernel: int
    stride: int = 1
    scale: float = 1.0


def _normalized(graph: _Graph, source: str, name: str, conv: _Conv) -> str:
    """A convolution without bias and its BatchNormalization."""
    weights = graph.weights(f"{name}.weight", conv.outputs, conv.inputs, conv.kernel, conv.kernel)
    pads = [conv.kernel // 2] * 4
    found = graph.add("Conv", [source, weights], f"{name}.conv", strides=[conv.stride] * 2, pads=pads)
    values = {"scale": conv.scale, "bias": 0.0, "mean": 0.0, "var": 1.0}
    held = [graph.hold(f"{name}.{part}", np.full(conv.outputs, value, np.float32)) for part, value in values.items()]
    return graph.add("BatchNormalization", [found, *held], f"{name}.norm", epsilon=EPSILON)


def _block(graph: _Graph, source: str, name: str, channels: tuple[int, int], stride: int) -> str:
    """A bottleneck: 1 x 1, 3 x 3, 1 x 1, and the sum with what came in, projected where its shape differs."""
    inputs, inner = channels
    outputs = inner * EXPANSION
    narrow = _normalized(graph, source, f"{name}.1", _Conv(inputs, inner, 1))
    narrow = graph.add("Relu", [narrow], f"{name}.1.relu")
    middle = _normalized(graph, narrow, f"{name}.2", _Conv(inner, inner, 3, stride))
    middle = graph.add("Relu", [middle], f"{name}.2.relu")
    wide = _normalized(graph, middle, f"{name}.3", _Conv(inner, outputs, 1, scale=BRANCH_SCALE))
    if inputs != outputs or stride != 1:
        source = _normalized(graph, source, f"{name}.skip", _Conv(inputs, outputs, 1, stride))
    return graph.add("Relu", [graph.add("Add", [wide, source], f"{name}.sum")], f"{name}.out")


def make_resnet50() -> ModelProto:
    """Input `input` FP32 [rows, 3, 224, 224], output `logits` FP32 [rows, 1000]."""
    graph = _Graph()
    found = _normalized(graph, "input", "stem", _Conv(3, STEM_CHANNELS, 7, 2))
    found = graph.add("Relu", [found], "stem.relu")
    found = graph.add("MaxPool", [found], "stem.pool", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    inputs = STEM_CHANNELS
    for stage, (blocks, inner, stride) in enumerate(STAGES, 1):
        for block in range(blocks):
            name = f"stage{stage}.{block}"
            found = _block(graph, found, name, (inputs, inner), stride if block == 0 else 1)
            inputs = inner * EXPANSION
    found = graph.add("Flatten", [graph.add("GlobalAveragePool", [found], "pool")], "flat")
    weights = graph.weights("head.weight", CLASSES, inputs)
    bias = graph.hold("head.bias", np.zeros(CLASSES, np.float32))
    graph.add("Gemm", [found, weights, bias], "logits", transB=1)
    taken = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["rows", 3, SIDE, SIDE])
    given = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", CLASSES])
    made = helper.make_graph(graph.nodes, "resnet50", [taken], [given], graph.tensors)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def write_resnet50(path: Path) -> Path:
    """Writes the model, about 102 MB."""
    path.parent.mkdir(parents=True, exist_ok=True)
    model = make_resnet50()
    onnx.checker.check_model(model)
    onnx.save_model(model, path)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "build" / "resnet50.onnx")
    print(write_resnet50(parser.parse_args().output))


if __name__ == "__main__":
    main()
