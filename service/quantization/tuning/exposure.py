"""Runs a model only as far as some of its inner tensors, and gives their values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import onnxruntime as ort
from onnx import ModelProto, NodeProto, TensorProto, helper

from service.errors import EngineFailed
from service.quantization.graphs.graph import Graph
from service.quantization.tuning.layer import Array


class Exposure:
    """A session of the part of a model that `tensors` follow from; `as_written` leaves every Q/DQ pair unfused."""

    def __init__(self, model: ModelProto, tensors: Sequence[str], threads: int, as_written: bool = False) -> None:
        part = part_before(model, tensors)
        fed = {value.name for value in part.graph.input}
        self._fed = [name for name in tensors if name in fed]
        self._computed = [name for name in tensors if name not in fed]
        for name in self._computed:
            part.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
        self._session = _session(part, threads, as_written) if self._computed else None
        self._read = {spec.name for spec in self._session.get_inputs()} if self._session else set()

    def run(self, batch: dict[str, Array]) -> dict[str, Array]:
        """The tensors' values on one batch of the model's inputs."""
        values = {name: batch[name] for name in self._fed}
        if self._session is not None:
            read = {name: array for name, array in batch.items() if name in self._read}
            values |= dict(zip(self._computed, self._session.run(self._computed, read), strict=True))
        return values


def part_before(model: ModelProto, tensors: Iterable[str]) -> ModelProto:
    """A copy of `model` with the operators and constants that `tensors` follow from, and no outputs.

    A model whose operators hold subgraphs keeps all: those may read any tensor.
    """
    graph = Graph(model)
    needed, kept = set(tensors), []
    for node in reversed(graph.nodes):
        if graph.read_inside or needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    part = ModelProto()
    part.CopyFrom(model)
    del part.graph.node[:], part.graph.initializer[:], part.graph.output[:]
    part.graph.node.extend(NodeProto.FromString(node.SerializeToString()) for node in reversed(kept))
    read = needed | graph.read_inside
    part.graph.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name in read)
    return part


def _session(model: ModelProto, threads: int, as_written: bool) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    if as_written:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise EngineFailed(f"the model cannot be run up to an inner tensor: {error}; check the model") from error
