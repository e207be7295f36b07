"""Raises a graph to the opset that its new types need. Refuses what ONNX's own converter refuses."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto, numpy_helper, version_converter

from service.errors import OctavoError, StageFailed
from service.quantization.emitters.old_operators import put_right, ready_to_raise
from service.quantization.graphs.graph import attribute

_IR_VERSIONS = ((22, 10), (19, 9), (0, 8))


def opset_of(model: ModelProto) -> int:
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)


def converted(model: ModelProto, opset: int) -> ModelProto:
    """`model`, of a lower opset, at `opset`, computing the same. Raises whatever ONNX's converter raises, and
    StageFailed where the higher opset has no way to say it.
    """
    old = ModelProto()
    old.CopyFrom(model)
    ready_to_raise(old, opset_of(model))
    higher = version_converter.convert_version(old, opset)
    put_right(higher, old, opset_of(model))
    return higher


def raised(model: ModelProto, opset: int) -> ModelProto:
    """A copy of `model` at `opset` or above, its nodes named as before. Raises StageFailed in the converter's words."""
    copy = ModelProto()
    copy.CopyFrom(model)
    if opset_of(copy) < opset:
        try:
            copy = converted(copy, opset)
        except OctavoError:
            raise
        except Exception as error:
            words = " ".join(str(error).split())[:300]
            raise StageFailed(
                f"the graph cannot be raised to opset {opset}: {words}; export it with that opset"
            ) from error
        constants_become_initializers(copy)
        _name_new_nodes(copy)
    copy.ir_version = max(copy.ir_version, next(version for least, version in _IR_VERSIONS if opset >= least))
    return copy


def constants_become_initializers(model: ModelProto) -> None:
    """In place. The converter spells what were attributes as Constant nodes, and so do some exporters with scales."""
    kept: list[NodeProto] = []
    for node in model.graph.node:
        tensor = attribute(node, "value", None) if node.op_type == "Constant" else None
        if tensor is None:
            kept.append(NodeProto.FromString(node.SerializeToString()))
        else:
            values = np.asarray(numpy_helper.to_array(tensor))
            model.graph.initializer.append(numpy_helper.from_array(values, node.output[0]))
    del model.graph.node[:]
    model.graph.node.extend(kept)


def _name_new_nodes(model: ModelProto) -> None:
    taken = {node.name for node in model.graph.node}
    for index, node in enumerate(model.graph.node):
        while not node.name:
            node.name = name if (name := f"{node.op_type}_raised_{index}") not in taken else ""
            index += len(model.graph.node)
        taken.add(node.name)
