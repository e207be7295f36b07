"""States in a graph the types that ONNX infers none of: behind operators of com.microsoft, and most of ai.onnx.ml."""

from __future__ import annotations

import onnxruntime as ort
from onnx import ModelProto, TensorProto, TypeProto, ValueInfoProto, helper

from service.quantization.graphs.graph import Graph

_TENSOR = "tensor("


def state_types(model: ModelProto) -> None:
    """In place, of the main graph. ONNX Runtime, which has these operators, is asked; what it does not know stays open.

    Raises what ONNX Runtime does where it cannot load the model.
    """
    graph = Graph(model)
    made = dict.fromkeys(name for node in graph.nodes for name in node.output if name)
    unknown = [name for name in made if graph.type_name(name) in ("unknown", "UNDEFINED")]
    if not unknown:
        return
    asked = ModelProto()
    asked.CopyFrom(model)
    asked.graph.output.extend(ValueInfoProto(name=name) for name in unknown if name not in graph.outputs)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = ort.InferenceSession(asked.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found = {output.name: output for output in session.get_outputs()}
    stated = {name: found[name] for name in unknown if found[name].type.startswith(_TENSOR)}
    kept = [value for value in model.graph.value_info if value.name not in stated]
    del model.graph.value_info[:]
    model.graph.value_info.extend(kept)
    model.graph.value_info.extend(ValueInfoProto(name=name, type=_type_of(node)) for name, node in stated.items())


def _type_of(node: ort.NodeArg) -> TypeProto:
    element = TensorProto.DataType.Value(node.type.removeprefix(_TENSOR).removesuffix(")").upper())
    # No axes are said of a scalar and of a tensor of unknown rank alike.
    shape = [extent if isinstance(extent, (int, str)) else None for extent in node.shape]
    return helper.make_tensor_type_proto(element, shape or None)
