"""Writes the FP16 or BF16 form of a float graph: half inside, the uploaded types at its inputs and outputs.

Casts stand only where an operator that computes in half meets one that stays in FP32.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from service.domain.plan import OperatorPrecision
from service.engines.onnxruntime_engine import TURNED_HALF
from service.errors import StageFailed
from service.quantization.emitters.opset import raised
from service.quantization.graphs.graph import Graph, attribute
from service.quantization.placements.half import ELEMENTS, LARGEST, Ranges, place_half
from service.quantization.placements.half_operators import LOWEST_OPSETS, fixed_sides

_READS_ANY_TYPE = frozenset({"Shape", "Size"})


def emit_half(
    model: ModelProto, keep_float: Sequence[str], precision: str = "fp16", ranges: Ranges | None = None
) -> ModelProto:
    """A copy of `model` in `precision` (fp16 or bf16) but for the operators that `place_half` leaves in FP32.

    Raises StageFailed where it cannot.
    """
    try:
        operators = place_half(Graph(model), keep_float, precision, ranges)
    except Exception as error:
        raise _failed(error, precision) from error
    return emit_half_as_placed(model, operators, precision)


def emit_half_as_placed(model: ModelProto, operators: Sequence[OperatorPrecision], precision: str) -> ModelProto:
    """A copy of `model` in `precision` but for the `operators` whose precision is FP32."""
    kept = {operator.name for operator in operators if operator.precision == "FP32"}
    try:
        return _HalfEmitter(raised(model, LOWEST_OPSETS[precision.upper()]), ELEMENTS[precision], kept).emit()
    except StageFailed:
        raise
    except Exception as error:
        raise _failed(error, precision) from error


def _failed(error: Exception, precision: str) -> StageFailed:
    words = " ".join(str(error).split())[:300]
    return StageFailed(
        f"the graph cannot be turned into {precision.upper()}: {words}; name its operators in keep_float"
    )


def _may_turn_first_axis(nodes: Sequence[NodeProto]) -> bool:
    """Whether a Transpose puts another axis first, as without `perm`, or could once it is moved behind a Squeeze."""
    orders = [attribute(node, "perm", None) for node in nodes if node.op_type == "Transpose"]
    turned = any(order is None or order[0] != 0 for order in orders)
    return turned or (bool(orders) and any(node.op_type == "Squeeze" for node in nodes))


class _HalfEmitter:
    """Gives every FP32 tensor the type of the node that makes it, and every reader the type that it computes in."""

    def __init__(self, model: ModelProto, element: int, kept: Collection[str]) -> None:
        self._model = model
        self._graph = Graph(model)
        self._element = element
        self._kept = kept
        self._suffix = "fp16" if element == TensorProto.FLOAT16 else "bf16"
        self._taken = {name for node in self._graph.nodes for name in (*node.input, *node.output)}
        self._taken |= self._graph.inputs | self._graph.outputs | set(self._graph.constants)
        self._half: set[str] = set()
        self._casts: dict[tuple[str, int], str] = {}
        self._nodes: list[NodeProto] = []
        self._constants: dict[str, str] = {}

    def emit(self) -> ModelProto:
        for node in self._graph.nodes:
            if node.name in self._kept or node.op_type in _READS_ANY_TYPE:
                self._keep(node)
            else:
                self._convert(node)
        self._restore_outputs()
        self._write()
        return self._model

    def _keep(self, node: NodeProto) -> None:
        if node.op_type not in _READS_ANY_TYPE:
            for index, name in enumerate(node.input):
                if name in self._half:
                    node.input[index] = self._cast(name, TensorProto.FLOAT)
        self._nodes.append(node)

    def _convert(self, node: NodeProto) -> None:
        fixed = fixed_sides(node, self._graph)
        for index, name in enumerate(node.input):
            if not self._graph.is_float(name):
                continue
            if name in fixed:
                node.input[index] = self._cast(name, TensorProto.FLOAT) if name in self._half else name
            elif name in self._graph.constants:
                node.input[index] = self._constant(name)
            elif name not in self._half:
                node.input[index] = self._cast(name, self._element)
        self._change_stated_type(node)
        self._half |= {name for name in node.output if self._graph.is_float(name) and name not in fixed}
        self._nodes.append(node)

    def _change_stated_type(self, node: NodeProto) -> None:
        if node.op_type == "Cast" and attribute(node, "to", 0) == TensorProto.FLOAT:
            next(entry for entry in node.attribute if entry.name == "to").i = self._element
        if node.op_type == "ConstantOfShape" and self._graph.is_float(node.output[0]):
            filled = attribute(node, "value", None)
            values = np.zeros(1, np.float32) if filled is None else numpy_helper.to_array(filled)
            del node.attribute[:]
            node.attribute.append(helper.make_attribute("value", self._in_half(values, "value")))

    def _cast(self, tensor: str, element: int) -> str:
        """The tensor in another type, through one Cast for all its readers."""
        found = self._casts.get((tensor, element))
        if found is None:
            suffix = "fp32" if element == TensorProto.FLOAT else self._suffix
            found = self._casts[tensor, element] = self._fresh(f"{tensor}_{suffix}")
            self._nodes.append(helper.make_node("Cast", [tensor], [found], f"{found}/cast", to=element))
        return found

    def _constant(self, name: str) -> str:
        if name not in self._constants:
            self._constants[name] = self._fresh(f"{name}_{self._suffix}")
        return self._constants[name]

    def _fresh(self, name: str) -> str:
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name

    def _in_half(self, values: np.ndarray, name: str) -> TensorProto:
        """A half constant. Bounds of a Clip may lie beyond FP16: they saturate, for nothing in FP16 goes beyond."""
        if self._element == TensorProto.FLOAT16:
            values = np.where(np.isfinite(values), values.clip(-LARGEST, LARGEST), values)
        return numpy_helper.from_array(values.astype(helper.tensor_dtype_to_np_dtype(self._element)), name)

    def _restore_outputs(self) -> None:
        """Outputs keep the name and type that callers know, behind a Cast where they are computed in half."""
        for name in sorted(self._graph.outputs & self._half):
            inner = self._fresh(f"{name}_{self._suffix}")
            for node in self._nodes:
                for side in (node.input, node.output):
                    for index, found in enumerate(side):
                        if found == name:
                            side[index] = inner
            self._nodes.append(helper.make_node("Cast", [inner], [name], f"{name}/cast", to=TensorProto.FLOAT))

    def _write(self) -> None:
        graph = self._model.graph
        nodes = [NodeProto.FromString(node.SerializeToString()) for node in self._nodes]
        read = {name for node in nodes for name in node.input} | self._graph.read_inside | self._graph.outputs
        constants = []
        for tensor in graph.initializer:
            half = self._constants.get(tensor.name)
            if half is not None:
                # A constant that nothing reads in FP32 any more keeps its name.
                constants.append(
                    self._in_half(numpy_helper.to_array(tensor), half if tensor.name in read else tensor.name)
                )
            if tensor.name in read:
                constants.append(tensor)
        renamed = {half: name for name, half in self._constants.items() if name not in read}
        for node in nodes:
            for index, name in enumerate(node.input):
                node.input[index] = renamed.get(name, name)
        constants = [TensorProto.FromString(tensor.SerializeToString()) for tensor in constants]
        del graph.node[:], graph.initializer[:]
        graph.node.extend(nodes)
        graph.initializer.extend(constants)
        if self._element == TensorProto.FLOAT16 and _may_turn_first_axis(nodes):
            self._model.metadata_props.add(key=TURNED_HALF, value="1")
        # What shape inference said of inner tensors' types holds no longer.
        del graph.value_info[:]
