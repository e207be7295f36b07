"""Evens out the channels of activations by moving scale between the weights that make them and those that read them.

The float model stays the same function: only through operators that keep a positive factor apart by channel, so never
through a Clip with an upper bound (Nagel, "Data-Free Quantization Through Weight Equalization and Bias Correction",
2019, 4.1; the sizes here are measured, as in Xiao, "SmoothQuant", 2022). A stream that residual additions join has one
factor a channel for all its writers and readers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto

from service.quantization.graphs.graph import Graph, attribute, clip_bounds
from service.quantization.tuning.layer import Array, Floats, rewritten

_LINKS = frozenset({"Relu", "Clip", "LeakyRelu", "Add", "MaxPool", "AveragePool", "GlobalAveragePool", "Identity"})
_WEIGHTED = frozenset({"Conv", "Gemm", "MatMul"})
# Channels below this share of the largest one's size are left as they are, for rows to come may wake them.
_SMALLEST_SHARE = 0.001
_LARGEST_FACTOR = 64.0


@dataclass(frozen=True)
class Stream:
    """Tensors that share one factor a channel, and the weighted operators that make and read them. Channels are along
    `axis` of every tensor.
    """

    tensors: tuple[str, ...]
    writers: tuple[NodeProto, ...]
    readers: tuple[NodeProto, ...]
    channels: int
    axis: int


def streams(graph: Graph) -> list[Stream]:
    """Every stream that can be scaled exactly: all its makers and readers are known and have weights of their own."""
    found = (_stream(graph, tensors) for tensors in _joined(graph))
    return [stream for stream in found if stream is not None]


def factors(stream: Stream, graph: Graph, power: Mapping[str, Floats]) -> Floats:
    """The positive factor of each channel, sqrt(w / a): a is how large it is (`power` holds the mean square of each
    channel of each tensor), w how large its readers' weights are, as a share of the largest that shares their scale.

    Depthwise readers have a scale for each channel, so that there all of a is evened out.
    """
    size = np.sqrt(np.max([power[tensor] for tensor in stream.tensors], axis=0))
    weights = np.zeros(stream.channels)
    for node in stream.readers:
        if _groups(node) != stream.channels:
            weights = np.maximum(weights, _read_share(node, graph))
    alive = (size > _SMALLEST_SHARE * size.max(initial=0.0)) & ((weights > 0) | ~weights.any())
    if not alive.any():
        return np.ones(stream.channels)
    found = np.ones(stream.channels)
    found[alive] = np.sqrt(weights[alive] / size[alive]) if weights.any() else 1 / size[alive]
    found[alive] /= np.exp(np.log(found[alive]).mean())
    return found.clip(1 / _LARGEST_FACTOR, _LARGEST_FACTOR)


def _read_share(node: NodeProto, graph: Graph) -> Floats:
    """The largest weight on each input channel, relative to the largest of its own output."""
    weight = graph.constant(node.input[1])
    assert weight is not None
    sizes = np.abs(np.moveaxis(weight.astype(np.float64), _output_axis(node), 0))
    sizes = sizes.reshape(len(sizes), sizes.shape[1], -1).max(axis=2)
    shares = sizes / np.maximum(sizes.max(axis=1, keepdims=True), 1e-30)
    groups: Floats = shares.reshape(_groups(node), -1, sizes.shape[1]).max(axis=1).reshape(-1)
    return groups


def equalized(graph: Graph, by_stream: Iterable[tuple[Stream, Floats]]) -> Graph:
    """The graph with each stream's channels multiplied by its factors where they are made, and divided where read."""
    values: dict[str, Array] = {}

    def constant(name: str) -> Array:
        found = values.get(name, graph.constant(name))
        assert found is not None
        return found.astype(np.float64)

    for stream, scale in by_stream:
        for node in stream.writers:
            weight = constant(node.input[1])
            values[node.input[1]] = weight * _along(scale, weight.ndim, _output_axis(node))
            if len(node.input) > 2 and node.input[2]:
                values[node.input[2]] = constant(node.input[2]) * scale
        for node in stream.readers:
            values[node.input[1]] = constant(node.input[1]) / _reader_scale(node, scale, constant(node.input[1]))
    return rewritten(graph, values)


def _along(scale: Floats, rank: int, axis: int) -> Floats:
    return scale.reshape([-1 if i == axis else 1 for i in range(rank)])


def _reader_scale(node: NodeProto, scale: Floats, weight: Array) -> Floats:
    """The factors of a reader's input channels, to broadcast over its weight."""
    if node.op_type != "Conv":
        return _along(scale, 2, 1 - _output_axis(node))
    per_group = scale.reshape(_groups(node), -1)
    repeated = np.repeat(per_group, len(weight) // len(per_group), axis=0)
    return repeated.reshape(*repeated.shape, *[1] * (weight.ndim - 2))


def _output_axis(node: NodeProto) -> int:
    return 0 if node.op_type == "Conv" or attribute(node, "transB", 0) else 1


def _groups(node: NodeProto) -> int:
    return int(attribute(node, "group", 1)) if node.op_type == "Conv" else 1


def _joined(graph: Graph) -> list[list[str]]:
    """Tensors of operators, those that links join in one list."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while (above := parent.setdefault(name, name)) != name:
            name = above
        return name

    for node in graph.nodes:
        if _links(node, graph):
            for name in node.input if node.op_type == "Add" else node.input[:1]:
                parent[root(name)] = root(node.output[0])
    groups: dict[str, list[str]] = {}
    for node in graph.nodes:
        for name in filter(None, node.output):
            groups.setdefault(root(name), []).append(name)
    for name in (*graph.inputs, *graph.constants):
        groups.setdefault(root(name), []).append(name)
    return list(groups.values())


def _links(node: NodeProto, graph: Graph) -> bool:
    """Whether a positive factor of a channel passes through unchanged. A Flatten may follow a global pool only."""
    if node.op_type == "Flatten":
        maker = graph.producer.get(node.input[0])
        return maker is not None and maker.op_type == "GlobalAveragePool" and attribute(node, "axis", 1) == 1
    if node.op_type == "Clip":
        return clip_bounds(node, graph) == (0.0, float("inf"))
    return node.op_type in _LINKS and not any(node.output[1:])


def _stream(graph: Graph, tensors: list[str]) -> Stream | None:
    if any(name in graph.inputs | graph.outputs | graph.read_inside or name in graph.constants for name in tensors):
        return None
    makers = [graph.producer[name] for name in tensors]
    writers = [node for node in makers if not _links(node, graph)]
    readers = [node for name in tensors for node in graph.readers[name] if not _links(node, graph)]
    sizes = [_channels(node, graph, written=True) for node in writers]
    sizes += [_channels(node, graph, written=False) for node in readers]
    read_as_input = all(node.input[0] in tensors and not set(tensors) & set(node.input[1:]) for node in readers)
    if not writers or not readers or None in sizes or len(set(sizes)) > 1 or not read_as_input:
        return None
    axes = {axis for node in makers for axis in _axes(node, node.output[0], graph)}
    axes |= {axis for node in readers for axis in _axes(node, node.input[0], graph)}
    if len(axes) > 1:
        return None
    return Stream(tuple(tensors), tuple(writers), tuple(readers), sizes[0] or 0, axes.pop() if axes else 1)


def _axes(node: NodeProto, tensor: str, graph: Graph) -> list[int]:
    """Along which axis of this tensor the node has its channels; nothing where it fits either, as for rank 2."""
    if node.op_type == "MatMul":
        maker = graph.producer[tensor]
        return [] if maker.op_type in ("Flatten", "Gemm") else [-1]
    return [1] if node.op_type == "Conv" or node.op_type.endswith("Pool") else []


def _channels(node: NodeProto, graph: Graph, written: bool) -> int | None:
    """Channels that the node writes or reads; None where they cannot be scaled by its constants alone."""
    if node.op_type not in _WEIGHTED or attribute(node, "transA", 0):
        return None
    weight = graph.constants.get(node.input[1])
    own = all(graph.owned(name) for name in node.input[1:] if name)
    if weight is None or not own or (len(weight.dims) != 2 and node.op_type != "Conv"):
        return None
    if not written:
        inside = weight.dims[1 if node.op_type == "Conv" else 1 - _output_axis(node)]
        return int(inside) * _groups(node)
    size = int(weight.dims[_output_axis(node)])
    if len(node.input) > 2 and node.input[2]:
        bias = graph.constants.get(node.input[2])
        return size if bias is not None and list(bias.dims) == [size] else None
    return size
