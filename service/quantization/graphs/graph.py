"""A read-only view of an ONNX graph: who makes a tensor, who reads it, which are constants and of what type."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from service.quantization.graphs.graph_checks import graphs_of
from service.quantization.graphs.inferred_values import inferred_values


class Graph:
    """Indexes of one model's main graph. Nodes have unique names, as `preparation` sees to."""

    def __init__(self, model: ModelProto) -> None:
        self.model = model
        self.nodes: list[NodeProto] = list(model.graph.node)
        self.constants: dict[str, TensorProto] = {tensor.name: tensor for tensor in model.graph.initializer}
        self.inputs = {value.name for value in model.graph.input}
        self.outputs = {value.name for value in model.graph.output}
        self.producer = {name: node for node in self.nodes for name in node.output if name}
        self.readers: dict[str, list[NodeProto]] = defaultdict(list)
        for node in self.nodes:
            for name in dict.fromkeys(node.input):
                self.readers[name].append(node)
        inner = list(graphs_of(model))[1:]
        self.read_inside = {name for graph in inner for node in graph.node for name in node.input}
        self._types = _element_types(model)

    @staticmethod
    def load(path: Path) -> Graph:
        return Graph(onnx.load_model(path, load_external_data=False))

    def is_float(self, tensor: str) -> bool:
        return self._types.get(tensor) == TensorProto.FLOAT

    def type_name(self, tensor: str) -> str:
        """The element type's name as ONNX spells it, or 'unknown'."""
        number = self._types.get(tensor)
        return "unknown" if number is None else TensorProto.DataType.Name(number)

    def constant(self, tensor: str) -> npt.NDArray[Any] | None:
        """The value of a constant tensor, or None where it is computed or fed."""
        found = self.constants.get(tensor)
        return None if found is None else numpy_helper.to_array(found)

    def only_reader(self, tensor: str) -> NodeProto | None:
        """The one node that reads a tensor that nothing else sees, neither a caller nor a subgraph."""
        readers = self.readers[tensor]
        hidden = tensor not in self.outputs and tensor not in self.read_inside
        return readers[0] if hidden and len(readers) == 1 else None

    def owned(self, constant: str) -> bool:
        """Whether one node of the main graph alone sees this constant, so that another value changes nothing else."""
        return self.only_reader(constant) is not None


def attribute(node: NodeProto, name: str, default: Any) -> Any:
    """An attribute's value, or the default where the node does not state it."""
    for entry in node.attribute:
        if entry.name == name:
            return onnx.helper.get_attribute_value(entry)
    return default


def clip_bounds(node: NodeProto, graph: Graph) -> tuple[float, float] | None:
    """The constant lower and upper bound of a Relu or Clip; None for other nodes and for computed bounds."""
    if node.op_type == "Relu":
        return 0.0, float("inf")
    if node.op_type != "Clip":
        return None
    bounds = [-float("inf"), float("inf")]
    for index, name in enumerate(node.input[1:3]):
        if name:
            value = graph.constant(name)
            if value is None:
                return None
            bounds[index] = float(np.asarray(value).reshape(-1)[0])
    return bounds[0], bounds[1]


def _element_types(model: ModelProto) -> dict[str, int]:
    types = {value.name: value.type.tensor_type.elem_type for value in inferred_values(model)}
    return types | {tensor.name: tensor.data_type for tensor in model.graph.initializer}
