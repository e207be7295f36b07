"""From an ONNX graph to TensorRT's network. A node that the parser refuses is named, with its operator and the rule."""

from __future__ import annotations

from typing import Any

from onnx import ModelProto

from service.errors import InvalidModel
from service.quantization.builders.tensorrt_limits import check_limits

_SHOWN_REASON_CHARACTERS = 300
# What the parser says of an operator that it knows and does not take.
_NOT_TAKEN = ("false", "")


def parsed_network(trt: Any, builder: Any, logger: Any, model: ModelProto) -> Any:
    """A strongly typed network: every tensor has the type that the graph says. Raises InvalidModel."""
    check_limits(model)
    flags = 0
    # TensorRT 11 knows no other kind of network, and its older flag for that may be gone.
    strongly = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    if strongly is not None:
        flags |= 1 << int(strongly)
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model.SerializeToString()):
        raise InvalidModel(_refusal(parser, model))
    return network


def _refusal(parser: Any, model: ModelProto) -> str:
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    if not errors:
        return "TensorRT's parser refuses this graph and says nothing more; build for runtime onnxruntime"
    # What comes before a node is told with its name; a later error mostly follows from the first one at a node.
    error = next((error for error in errors if error.node() >= 0), errors[0])
    index = error.node()
    where = "this graph"
    if 0 <= index < len(model.graph.node):
        node = model.graph.node[index]
        where = f"node {node.name or f'number {index}'!r} ({node.op_type})"
    more = f" ({len(errors) - 1} more)" if len(errors) > 1 else ""
    return (
        f"TensorRT's parser refuses {where}{more}: {_rule(error)}; export the model without this operator, or build "
        "for runtime onnxruntime"
    )


def _rule(error: Any) -> str:
    words = " ".join(str(error.desc()).split())[:_SHOWN_REASON_CHARACTERS]
    if "Plugin not found" in words:
        return "it knows no such operator, and no plugin of its name"
    if words in _NOT_TAKEN:
        return f"it does not take this operator ({error.func()})"
    return f"{words} ({error.func()})"
