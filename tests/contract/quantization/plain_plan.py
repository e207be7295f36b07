"""What a plan means, computed without any emitter: node by node, every rounding done in numpy."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
from onnx import NodeProto, ValueInfoProto, helper, numpy_helper

from service.domain.plan import QuantizationPlan, TensorGrid
from service.quantization.graphs.graph import Graph
from service.quantization.placements.tensorrt import quantized_inputs
from service.quantization.placements.tensorrt_kernels import CONVOLUTIONS
from tests.unit.quantization.small_models import Array


def rounded(values: Array, grid: TensorGrid) -> Array:
    """The nearest values that the grid holds, in FP32 as ONNX defines QuantizeLinear and DequantizeLinear."""
    shape = [1] * values.ndim
    if grid.axis is not None:
        shape[grid.axis] = -1
    scales = np.asarray(grid.scales, np.float32).reshape(shape)
    bounds = np.iinfo(grid.datatype.lower())
    integers = (np.rint(values / scales) + np.float32(grid.zero_point)).clip(bounds.min, bounds.max)
    return np.asarray((integers - np.float32(grid.zero_point)) * scales, np.float32)


class PlainPlan:
    """One plan over one float graph, as one runtime reads it."""

    def __init__(self, graph: Graph, plan: QuantizationPlan, runtime: str) -> None:
        self._graph = graph
        self._runtime = runtime
        self._grids = {grid.tensor: grid for grid in plan.activations}
        self._int8 = {operator.name for operator in plan.operators if operator.precision == "INT8"}
        self._weights = {entry.operator: (entry.weight, entry.bias) for entry in plan.weights}
        convolutions = {node.name for node in graph.nodes if node.op_type in CONVOLUTIONS}
        self._convolutions = frozenset(convolutions & self._int8)

    def run(self, rows: dict[str, Array]) -> dict[str, Array]:
        """The model's outputs for one batch."""
        constants = {name: numpy_helper.to_array(tensor) for name, tensor in self._graph.constants.items()}
        found: dict[str, Array] = {**constants, **rows}
        for node in self._graph.nodes:
            inputs = {name: found[name] for name in node.input if name}
            read = {name: self._read(node, name, values) for name, values in inputs.items()}
            for place, grid in enumerate(self._weights.get(node.name, ()), 1):
                if grid is not None:
                    read[node.input[place]] = rounded(inputs[node.input[place]], grid)
            found |= _computed(node, read, self._graph)
        return {name: self._output(name, found[name]) for name in self._graph.outputs}

    def _read(self, node: NodeProto, name: str, values: Array) -> Array:
        """What the node gets to see of a tensor."""
        grid = self._grids.get(name)
        wanted = node.name in self._int8 or (self._runtime != "tensorrt" and self._made_in_int8(name))
        if self._runtime == "tensorrt" and node.name in self._int8:
            wanted = name in quantized_inputs(node, self._graph, self._convolutions)
        return values if grid is None or not wanted else rounded(values, grid)

    def _output(self, name: str, values: Array) -> Array:
        """ONNX Runtime's kernels give integers even where the caller reads them; the others' last result is not
        rounded.
        """
        rounds = self._runtime == "onnxruntime" and self._made_in_int8(name) and name in self._grids
        return rounded(values, self._grids[name]) if rounds else values

    def _made_in_int8(self, name: str) -> bool:
        maker = self._graph.producer.get(name)
        return maker is not None and maker.name in self._int8


def _computed(node: NodeProto, inputs: dict[str, Array], graph: Graph) -> dict[str, Array]:
    """One node by itself, in floating point."""
    fed = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(values.dtype), None)
        for name, values in inputs.items()
    ]
    made = [ValueInfoProto(name=name) for name in node.output if name]
    model = helper.make_model(
        helper.make_graph([node], "one", fed, made), opset_imports=graph.model.opset_import, ir_version=8
    )
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [value.name for value in made]
    return dict(zip(names, session.run(names, inputs), strict=True))
