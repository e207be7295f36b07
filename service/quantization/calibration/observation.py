"""Runs the float model over rows with its inner tensors exposed, and counts their values: one pass, a few rows at once.

Memory holds two batches of exposed tensors at most, each of `_BATCH_BYTES`, however many rows there are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

from service.errors import StageFailed
from service.quantization.calibration.calibrated import Calibrated
from service.quantization.data.rows import Array, Feed
from service.quantization.graphs.graph import Graph
from service.quantization.measures.histogram import Histogram
from service.quantization.placements.placement import matching_pattern
from service.quantization.task import Progress

_BATCH_BYTES = 64 * 1024 * 1024
_MAX_BATCH_ROWS = 32
# These give the values that they take, in another shape.
_VIEWS = frozenset({"Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity"})
_WEIGHTED = frozenset({"Conv", "Gemm", "MatMul"})
Values = list[tuple[str, Array]]


def observable(graph: Graph) -> tuple[tuple[str, ...], dict[str, str]]:
    """Every FLOAT activation of the main graph, inputs first; and of those that only show another's values, which."""
    tensors = {value.name: None for value in graph.model.graph.input if graph.is_float(value.name)}
    aliases: dict[str, str] = {}
    for node in graph.nodes:
        made = [name for name in node.output if name and graph.is_float(name)]
        shown = aliases.get(node.input[0], node.input[0]) if node.op_type in _VIEWS else ""
        if shown in tensors:
            aliases |= dict.fromkeys(made, shown)
        else:
            tensors |= dict.fromkeys(made)
    return tuple(tensors), aliases


def multiplied(graph: Graph, keep_float: Sequence[str]) -> frozenset[str]:
    """What INT8 is for: the FLOAT inputs and outputs of operators that multiply by constant weights, but of those that
    `keep_float` patterns match.
    """
    weighted = [node for node in graph.nodes if node.op_type in _WEIGHTED and node.input[1] in graph.constants]
    nodes = [node for node in weighted if matching_pattern(node, keep_float) is None]
    return frozenset(name for node in nodes for name in (node.input[0], node.output[0]) if graph.is_float(name))


class ObservedModel:
    """The float model with chosen inner tensors exposed as its outputs."""

    def __init__(self, path: Path, tensors: Sequence[str], threads: int) -> None:
        model = onnx.load_model(path, load_external_data=False)
        fed = {value.name for value in model.graph.input}
        self.fed = tuple(name for name in tensors if name in fed)
        self.computed = tuple(name for name in tensors if name not in fed)
        self.threads = threads
        del model.graph.output[:]
        for name in self.computed:
            model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
        options = ort.SessionOptions()
        # One thread counts; the others must not spin while they wait for it.
        options.intra_op_num_threads = max(1, threads - 1)
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def run(self, batch: dict[str, Array]) -> Values:
        """(tensor, values) of every chosen tensor on one batch. Thread-safe."""
        fed = [(name, batch[name]) for name in self.fed]
        if not self.computed:
            return fed
        return fed + list(zip(self.computed, self._session.run(list(self.computed), batch), strict=True))


@dataclass(frozen=True)
class Watch:
    """Who is told of progress, what must stay finite (None: everything), and how often `checkpoint` is called."""

    report_progress: Progress
    finite: frozenset[str] | None = None
    checkpoint: Callable[[], None] | None = None
    checkpoint_seconds: float = 5.0
    clock: Callable[[], float] = field(default=time.monotonic)


def observe(model: ObservedModel, feed: Feed, limit: int, report_progress: Progress) -> dict[str, Histogram]:
    """One histogram a tensor over the first `limit` rows. Raises StageFailed where a tensor is not finite."""
    seen = Calibrated.empty("", (*model.fed, *model.computed), {})
    observe_into(seen, model, feed, limit, Watch(report_progress))
    return seen.histograms


def observe_into(seen: Calibrated, model: ObservedModel, feed: Feed, limit: int, watch: Watch) -> None:
    """Goes on where `seen` stands, up to the first `limit` rows, and notes its tails at every power of two and at
    half of the rows.

    Raises StageFailed where a tensor that must stay finite does not.
    """
    total = feed.covered(limit)
    written = watch.clock()
    for start, count, values in _outputs(model, feed, limit, seen.rows):
        for name, array in values:
            seen.histograms[name].add(array)
        del values
        _refuse_not_finite(seen, watch, start, count)
        seen.rows = start + count
        if start.bit_length() != seen.rows.bit_length() or start < total // 2 <= seen.rows:
            seen.note_tails()
        feed.rows.forget()
        if watch.checkpoint is not None and watch.clock() - written >= watch.checkpoint_seconds:
            watch.checkpoint()
            written = watch.clock()
        watch.report_progress(seen.rows / total)
    seen.note_tails()


def _outputs(model: ObservedModel, feed: Feed, limit: int, first: int) -> Iterator[tuple[int, int, Values]]:
    """(start, rows, values) of each batch, from row `first` on. With a thread to spare, one batch is run ahead."""
    batches = feed.batches(limit, _affordable_rows(model, feed), first)
    if model.threads == 1:
        for start, count, batch in batches:
            yield start, count, model.run(batch)
        return
    with ThreadPoolExecutor(1) as ahead:
        waiting: tuple[int, int, Future[Values]] | None = None
        for start, count, batch in batches:
            following = start, count, ahead.submit(model.run, batch)
            if waiting is not None:
                yield waiting[0], waiting[1], waiting[2].result()
            waiting = following
        if waiting is not None:
            yield waiting[0], waiting[1], waiting[2].result()


def _refuse_not_finite(seen: Calibrated, watch: Watch, start: int, count: int) -> None:
    for name, histogram in seen.histograms.items():
        if histogram.not_finite and (watch.finite is None or name in watch.finite):
            raise StageFailed(
                f"tensor {name!r} is NaN or infinite within rows {start} to {start + count - 1} of the calibration "
                "set; remove those rows, or name the operators that multiply it in keep_float"
            )


def _affordable_rows(model: ObservedModel, feed: Feed) -> int:
    """How many rows at once keep all exposed tensors within `_BATCH_BYTES`, judged by the first row."""
    one = feed.take(0, feed.batch_rows(1))
    size = sum(values.nbytes for _, values in model.run(one))
    return max(1, min(_MAX_BATCH_ROWS, _BATCH_BYTES // max(size, 1)))
