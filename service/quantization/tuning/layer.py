"""A weighted operator as matrix products: its weight as [groups, outputs, columns], its input as rows of columns.

Convolutions of any rank are unrolled (im2col), group by group; Gemm and MatMul have one group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, numpy_helper

from service.quantization.graphs.graph import Graph, attribute
from service.quantization.placements.placement import WeightedOperator

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Layer:
    """One weighted operator, its node, and the weight's shape in the graph."""

    operator: WeightedOperator
    node: NodeProto
    shape: tuple[int, ...]
    groups: int

    @staticmethod
    def of(graph: Graph, operator: WeightedOperator) -> Layer:
        node = next(node for node in graph.nodes if node.name == operator.name)
        groups = int(attribute(node, "group", 1)) if node.op_type == "Conv" else 1
        return Layer(operator, node, tuple(graph.constants[operator.weight].dims), groups)

    @property
    def outputs(self) -> int:
        return self.shape[self.operator.axis]

    @property
    def columns(self) -> int:
        """Products in one sum of one output."""
        return int(np.prod(self.shape)) // self.outputs

    def matrix(self, weight: Array) -> Floats:
        """The weight as FP64 [groups, outputs per group, columns]."""
        first = np.moveaxis(weight.astype(np.float64), self.operator.axis, 0)
        return first.reshape(self.groups, -1, self.columns)

    def tensor(self, matrix: Floats) -> Array:
        """The inverse of `matrix`, as FP32."""
        order = [self.shape[self.operator.axis]]
        order += [extent for axis, extent in enumerate(self.shape) if axis != self.operator.axis]
        back = np.moveaxis(matrix.reshape(order), 0, self.operator.axis)
        return np.ascontiguousarray(back, dtype=np.float32)

    def by_output(self, values: Sequence[float]) -> Floats:
        """One value an output, or one for all, as [groups, outputs per group or 1, 1]."""
        flat = np.asarray(values, np.float64).reshape(-1)
        return flat.reshape(1, 1, 1) if flat.size == 1 else flat.reshape(self.groups, -1, 1)


def rewritten(graph: Graph, values: dict[str, Array]) -> Graph:
    """The graph of a copy of the model in which the constants of these names hold FP32 `values`."""
    copy = type(graph.model)()
    copy.CopyFrom(graph.model)
    for tensor in copy.graph.initializer:
        if tensor.name in values:
            tensor.CopyFrom(numpy_helper.from_array(values[tensor.name].astype(np.float32), tensor.name))
    return Graph(copy)
