"""Which operators an INT8 engine's error comes from: what each adds by itself, what has gathered there, and the cause.

A few rows through the float graph, the simulated graph and, where the engine differs from that, the engine's own
integers; all tensors of a row in one run of each graph. Nothing is written.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import ModelProto, NodeProto

from service.engines.engine import Engine
from service.engines.onnxruntime_engine import OnnxRuntimeEngine, left_out_optimizers
from service.quantization.data.rows import Array, Feed
from service.quantization.graphs.chance import shown
from service.quantization.graphs.emitted_graph import LOCAL, EmittedGraph, Step, cut_model, engine_model, result_of
from service.quantization.graphs.graph import attribute
from service.quantization.measures.simulation import simulated
from service.quantization.proof.step_figures import StepFigures, Weights

MOST_ROWS = 12
TOP = 8
# An engine closer to its simulation than this adds nothing worth finding.
_KERNELS_DIFFER_DB = 40.0
_LARGEST_BIAS = 2**30
# Told by two runs of what a step reads.
_OF_KERNELS = ("kernel", "saturation")


class Waterfall:
    """Counts over rows; `result` gives the findings. The graph pair must be of one model."""

    def __init__(self, original: ModelProto, emitted: ModelProto, threads: int) -> None:
        self._graph = EmittedGraph(original, emitted)
        self._steps = self._graph.steps()
        self._threads = threads
        self.figures = {step.name: StepFigures(step.pair) for step in self._steps}

    def observe(self, feed: Feed, limit: int) -> None:
        """Local and accumulated errors. Raises EngineFailed where the emitted graph cannot be simulated."""
        local = simulated(self._graph.local_model(), self._threads)
        whole = simulated(self._graph.simulated_model(), self._threads)
        for _, _, batch in feed.batches(limit, 1):
            alone, together = local.infer(batch) | batch, whole.infer(batch)
            for step in self._steps:
                expected = alone[step.tensor]
                raw = expected if step.node is None else alone[LOCAL + step.made]
                behind = raw if step.pair is None else alone[LOCAL + step.pair.dequantize.output[0]]
                self.figures[step.name].add(expected, raw, behind, together[result_of(step)])

    def observe_kernels(self, feed: Feed, limit: int) -> None:
        """What ONNX Runtime's fused kernels give beside the simulation of each operator on the same integers."""
        model, names = engine_model(self._graph)
        engine, cut = optimized(model, self._threads), simulated(cut_model(self._graph), self._threads)
        paired = [step for step in self._steps if step.pair is not None and step.pair.scale is not None]
        for _, _, batch in feed.batches(limit, 1):
            integers = engine.infer(batch, names)
            fed = dict(batch) | self._dequantized(integers)
            given = cut.infer({spec.name: fed[spec.name] for spec in cut.inputs})
            for step in (step for step in paired if step.node is not None and step.made in given):
                self.figures[step.name].add_kernel(*_same_inputs(step, integers, given[step.made]))

    def _dequantized(self, integers: dict[str, Array]) -> dict[str, Array]:
        found = {}
        for name, made in self._graph.source.items():
            pair = self._graph.pairs[made]
            if pair.scale is not None:
                found[name] = _real(integers[pair.quantize.output[0]], pair.scale, pair.zero_point)
        return found

    def result(self, saturates: bool) -> list[dict[str, Any]]:
        """Each operator in the graph's order: figures, cause, evidence, and its share of all that operators add."""
        total = sum(figures.relative for figures in self.figures.values()) or 1.0
        found = []
        for step in self._steps:
            figures = self.figures[step.name]
            cause, evidence = figures.cause(self._weights(step), saturates)
            drawing = self._graph.drawn_for(step) if cause in _OF_KERNELS else None
            if drawing is not None:
                cause, evidence = "chance", f"{shown(drawing)} draws its input anew in each run"
            share = figures.relative / total if np.isfinite(total) else None
            entry = {"name": step.name, "operator": step.operator, "cause": cause, "evidence": evidence}
            found.append(entry | {"share": share} | figures.to_json())
        return found

    def _weights(self, step: Step) -> Weights:
        ratio, raised = None, 0
        for name in step.weights:
            integers = self._graph.integer(name)
            if integers is None:
                continue
            if integers.dtype == np.int32:
                raised += int((np.abs(integers.astype(np.int64)) > 0.99 * _LARGEST_BIAS).sum())
            elif self._graph.one_scale(name) and integers.ndim > 1 and step.node is not None:
                channels = _output_axis(step.node, integers.ndim)
                others = tuple(axis for axis in range(integers.ndim) if axis != channels)
                reach = np.abs(integers.astype(np.float64)).max(axis=others, initial=0.0)
                ratio = float(reach.max() / max(float(np.median(reach)), 0.5))
        return Weights(ratio, raised)


def explain(graphs: tuple[Path, Path], feed: Feed, form: tuple[bool, bool], threads: int) -> dict[str, Any]:
    """The waterfall of (float graph, emitted graph). `form` is whether ONNX Runtime's own kernels are to be looked at,
    and whether this CPU's kernels saturate. Raises EngineFailed where a graph cannot be run.
    """
    original, emitted = (onnx.load_model(path, load_external_data=False) for path in graphs)
    waterfall = Waterfall(original, emitted, threads)
    limit = feed.covered(MOST_ROWS)
    waterfall.observe(feed, limit)
    kernels, saturates = form
    if kernels:
        waterfall.observe_kernels(feed, limit)
    operators = waterfall.result(saturates)
    largest = sorted((entry for entry in operators if entry["share"]), key=lambda entry: -entry["share"])[:TOP]
    return {"rows": limit, "operators": operators, "top": [entry["name"] for entry in largest]}


def kernels_differ(split: dict[str, Any] | None) -> bool:
    """Whether the loss split shows an engine that is not what its plan simulates."""
    legs = [leg for leg in (split or {"legs": []})["legs"] if leg["leg"] == "engine"]
    told = [leg["sqnr_db"] < _KERNELS_DIFFER_DB if leg["sqnr_db"] is not None else not leg["exact"] for leg in legs]
    return any(told)


def optimized(model: ModelProto, threads: int) -> Engine:
    """The graph as ONNX Runtime fuses it."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    content, providers = model.SerializeToString(), ["CPUExecutionProvider"]
    left_out = left_out_optimizers(content)
    return OnnxRuntimeEngine(ort.InferenceSession(content, options, providers, disabled_optimizers=left_out))


def _output_axis(node: NodeProto, axes: int) -> int:
    return 0 if node.op_type == "Conv" or attribute(node, "transB", 0) else axes - 1


def _same_inputs(step: Step, integers: dict[str, Array], raw: Array) -> tuple[Array, Array]:
    pair = step.pair
    assert pair is not None
    assert pair.scale is not None
    rounded = np.clip(np.rint(raw / np.float32(pair.scale)) + pair.zero_point, *pair.levels)
    engine = _real(integers[pair.quantize.output[0]], pair.scale, pair.zero_point)
    return engine, _real(rounded, pair.scale, pair.zero_point)


def _real(integers: Array, scale: float, zero_point: int) -> Array:
    return ((integers.astype(np.float32) - zero_point) * np.float32(scale)).astype(np.float32)
