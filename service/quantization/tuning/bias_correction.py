"""Moves each operator's bias by the mean error that quantization leaves in its output channels.

Operators are corrected in the graph's order, each on the quantized inputs that the ones before it make, so that no
error is counted twice (Nagel, "Data-Free Quantization Through Weight Equalization and Bias Correction", 2019, 4.2).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto

from service.quantization.data.rows import Array
from service.quantization.graphs.graph import Graph
from service.quantization.tuning.exposure import Exposure
from service.quantization.tuning.layer import Floats, Layer, rewritten

_MOST_EXPOSED = 8


@dataclass(frozen=True)
class Corrected:
    """`emit` writes a graph with its plan as Q/DQ nodes, operators under their own names."""

    reference: ModelProto
    emit: Callable[[Graph], ModelProto]
    batches: Sequence[dict[str, Array]]
    threads: int


def corrected(graph: Graph, layers: Sequence[Layer], parts: Corrected, go_on: Callable[[float], bool]) -> Graph:
    """The graph with better biases. `go_on` hears the share done and says whether there is time for more."""
    with_bias = [layer for layer in layers if layer.operator.bias is not None]
    targets: dict[str, Floats] = {}
    for start in range(0, len(with_bias), _MOST_EXPOSED):
        targets |= _float_means(parts, with_bias[start : start + _MOST_EXPOSED])
    for done, layer in enumerate(with_bias):
        if not go_on(done / len(with_bias)):
            break
        emitted = parts.emit(graph)
        made = {node.name: node.output[0] for node in emitted.graph.node}
        if layer.operator.name not in made:
            continue
        means = _means(emitted, [(layer, made[layer.operator.name])], parts, as_written=True)
        bias = graph.constant(layer.operator.bias or "")
        assert bias is not None
        moved = bias + (targets[layer.operator.name] - means[layer.operator.name])
        graph = rewritten(graph, {layer.operator.bias or "": moved})
    return graph


def _float_means(parts: Corrected, layers: Sequence[Layer]) -> dict[str, Floats]:
    return _means(parts.reference, [(layer, layer.node.output[0]) for layer in layers], parts, as_written=False)


def _means(
    model: ModelProto, tensors: Sequence[tuple[Layer, str]], parts: Corrected, as_written: bool
) -> dict[str, Floats]:
    """The mean of each output channel over rows and positions, by operator name."""
    exposure = Exposure(model, [tensor for _, tensor in tensors], parts.threads, as_written)
    sums = {layer.operator.name: np.zeros(layer.outputs) for layer, _ in tensors}
    counts = dict.fromkeys(sums, 0)
    for batch in parts.batches:
        values = exposure.run(batch)
        for layer, tensor in tensors:
            axis = 1 if layer.node.op_type == "Conv" else values[tensor].ndim - 1
            others = tuple(i for i in range(values[tensor].ndim) if i != axis)
            sums[layer.operator.name] += values[tensor].sum(axis=others, dtype=np.float64)
            counts[layer.operator.name] += values[tensor].size // layer.outputs
    return {name: total / max(1, counts[name]) for name, total in sums.items()}
