"""Which operators OpenVINO's CPU device will run on integer kernels, told from the emitted Q/DQ graph alone.

The rules are those of its low-precision transformations: dequantization is carried forward, past what only moves or
averages values, into the next kernel; what works element by element joins the kernel before it.
"""

from __future__ import annotations

from onnx import ModelProto, NodeProto

from service.quantization.graphs.graph import Graph
from service.quantization.lint.prediction import Predicted
from service.quantization.placements.openvino import MOVING
from service.quantization.placements.placement import WEIGHTED

_PAIR = ("QuantizeLinear", "DequantizeLinear")
_AVERAGING = ("GlobalAveragePool", "AveragePool", "ReduceMean")
_ELEMENTWISE = frozenset(
    {
        "Relu",
        "Clip",
        "Sigmoid",
        "Tanh",
        "LeakyRelu",
        "PRelu",
        "Elu",
        "HardSigmoid",
        "HardSwish",
        "Selu",
        "Gelu",
        "Mish",
        "Softplus",
        "Abs",
        "Sqrt",
    }
)
_BINARY = ("Add", "Mul", "Sub", "Div")


def predict(model: ModelProto) -> tuple[Predicted, ...]:
    """One prediction for each operator that computes in floating point numbers, in the graph's order."""
    return _Linter(Graph(model)).predict()


class _Linter:
    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        # Operators on integer kernels, and the convolution in whose kernel an operator is computed.
        self._int8: set[str] = set()
        self._kernel: dict[str, NodeProto] = {}

    def predict(self) -> tuple[Predicted, ...]:
        return tuple(
            self._predicted(node)
            for node in self._graph.nodes
            if node.op_type not in _PAIR and self._graph.is_float(node.output[0])
        )

    def _predicted(self, node: NodeProto) -> Predicted:
        int8, rule = self._rule(node)
        if int8:
            self._int8.add(node.name)
        return Predicted(node.name, node.op_type, int8, rule)

    def _rule(self, node: NodeProto) -> tuple[bool, str]:
        if node.op_type in WEIGHTED:
            return self._weighted_rule(node)
        if node.op_type in MOVING or node.op_type in _AVERAGING:
            self._pass_kernel_on(node)
            if self._reads_int8(node.input[0]):
                return True, "dequantization moves past it"
            if node.op_type in MOVING and node.op_type != "MaxPool" and self._rounded(node):
                return True, "the rounding behind it moves before it"
            return _float_input(node)
        if node.op_type == "Concat":
            if self._rounded(node):
                return True, "its result is rounded to INT8, and so are its inputs"
            floats = [name for name in node.input if not self._reads_int8(name)]
            return (False, f"its input {floats[0]!r} is in floating point") if floats else (True, "all inputs are INT8")
        if node.op_type in _ELEMENTWISE or node.op_type in _BINARY:
            return self._elementwise_rule(node)
        return False, f"{node.op_type} has no integer kernel"

    def _pass_kernel_on(self, node: NodeProto) -> None:
        """What follows a MaxPool is computed before it, in the kernel of a convolution that has nothing else to do."""
        source = node.input[0]
        if node.op_type == "MaxPool" and self._joins_kernel(source) and self._kernel[source].output[0] == source:
            self._kernel[node.output[0]] = self._kernel[source]

    def _weighted_rule(self, node: NodeProto) -> tuple[bool, str]:
        if not self._reads_int8(node.input[0]):
            return _float_input(node)
        maker = self._graph.producer.get(node.input[1])
        if maker is None or maker.op_type != "DequantizeLinear" or maker.input[0] not in self._graph.constants:
            return False, "its weight is no INT8 constant"
        if node.op_type == "Conv":
            self._kernel[node.output[0]] = node
        return True, "its input and its weight are INT8"

    def _elementwise_rule(self, node: NodeProto) -> tuple[bool, str]:
        computed = [name for name in node.input if name and name not in self._graph.constants]
        if (gated := self._swish_input(node)) is not None:
            computed = [gated]
        kernels = {name: self._kernel[name] for name in computed if self._joins_kernel(name)}
        if len(computed) == 1 and kernels:
            kernel = kernels[computed[0]]
            self._kernel[node.output[0]] = kernel
            return True, f"computed in the kernel of {kernel.name!r}"
        summing = self._summing_kernel(computed) if node.op_type == "Add" else None
        if summing is not None:
            self._kernel[node.output[0]] = summing
            return True, f"added to the sums of {summing.name!r}"
        if any(self._reads_int8(name) for name in computed) and self._rounded(node):
            return True, "reads INT8 and is rounded to INT8"
        return False, "neither in the kernel of a convolution nor between INT8 tensors"

    def _summing_kernel(self, addends: list[str]) -> NodeProto | None:
        """The convolution whose sums another tensor is added to: not where a MaxPool lies between."""
        for name in dict.fromkeys(addends) if len(set(addends)) > 1 else ():
            if self._joins_kernel(name) and self._graph.producer[name].op_type != "MaxPool":
                return self._kernel[name]
        return None

    def _swish_input(self, node: NodeProto) -> str | None:
        """x of x * Sigmoid(x), which the device takes for one operator; None for anything else."""
        for name, gate in (node.input, reversed(node.input)) if node.op_type == "Mul" else ():
            maker = self._graph.producer.get(gate)
            if maker is not None and maker.op_type == "Sigmoid" and maker.input[0] == name:
                return name if self._graph.only_reader(gate) is not None else None
        return None

    def _joins_kernel(self, tensor: str) -> bool:
        """Whether what reads the tensor alone, x * Sigmoid(x) counted as one, is computed where the tensor is."""
        if tensor not in self._kernel or tensor in self._graph.outputs:
            return False
        readers = self._graph.readers[tensor]
        swish = any(self._swish_input(node) == tensor for node in readers)
        return len(readers) == (2 if swish else 1)

    def _rounded(self, node: NodeProto) -> bool:
        """Whether its result, or that of what alone follows it element by element, goes through a QuantizeLinear."""
        reader = self._graph.only_reader(node.output[0])
        while reader is not None and reader.op_type in _ELEMENTWISE:
            reader = self._graph.only_reader(reader.output[0])
        return reader is not None and reader.op_type == "QuantizeLinear"

    def _reads_int8(self, tensor: str) -> bool:
        """Whether a tensor comes out of a Q/DQ pair, directly or past operators that its dequantization moves past."""
        maker = self._graph.producer.get(tensor)
        while maker is not None and maker.op_type in MOVING:
            maker = self._graph.producer.get(maker.input[0])
        return maker is not None and maker.op_type == "DequantizeLinear" and maker.input[0] in self._graph.producer


def _float_input(node: NodeProto) -> tuple[bool, str]:
    return False, f"its input {node.input[0]!r} is in floating point"
