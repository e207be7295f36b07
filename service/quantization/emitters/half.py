"""Writes the FP16 form of a float graph: FP16 inside, the uploaded types at its inputs and outputs."""

from __future__ import annotations

from collections.abc import Sequence

from onnx import ModelProto
from onnxruntime.transformers.float16 import convert_float_to_float16

from service.errors import StageFailed
from service.quantization.graph import Graph
from service.quantization.placements.placement import matching_pattern


def emit_half(model: ModelProto, keep_float: Sequence[str]) -> ModelProto:
    """A copy of `model` in FP16 but for the nodes that `keep_float` names. Raises StageFailed where it cannot."""
    copy = ModelProto()
    copy.CopyFrom(model)
    try:
        kept = [node.name for node in Graph(model).nodes if matching_pattern(node, keep_float) is not None]
        converted: ModelProto = convert_float_to_float16(copy, keep_io_types=True, node_block_list=kept)
    except Exception as error:
        words = " ".join(str(error).split())[:300]
        raise StageFailed(f"the graph cannot be turned into FP16: {words}; name its operators in keep_float") from error
    return converted
