"""What ONNX's inference tells of a model's tensors, without a copy of its weights."""

from __future__ import annotations

import math

import onnx.shape_inference
from onnx import ModelProto, ValueInfoProto, helper

# Larger constants are weights, whose values tell inference nothing.
_READ_ELEMENTS = 1024


def inferred_values(model: ModelProto, strict: bool = False) -> list[ValueInfoProto]:
    """Type and shape of the main graph's inputs, outputs and computed tensors, as far as they can be told.

    Where `strict`, raises InferenceError for operators that contradict each other, and for types stated wrongly.

    Inference writes the whole model out and reads it again, and an embedding's table alone may hold gigabytes, so
    weights are handed to it as inputs. What it does read of constants, such as shapes, is small.
    """
    light = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    graph, source = light.graph, model.graph
    graph.name = source.name
    for field in ("node", "input", "output", "value_info", "sparse_initializer"):
        getattr(graph, field).extend(getattr(source, field))
    fed = len(graph.input)
    listed = {value.name for value in source.input}
    for tensor in source.initializer:
        if math.prod(tensor.dims) <= _READ_ELEMENTS:
            graph.initializer.append(tensor)
        elif tensor.name not in listed:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    inferred = onnx.shape_inference.infer_shapes(light, check_type=strict, strict_mode=strict).graph
    return [*inferred.input[:fed], *inferred.output, *inferred.value_info]
