"""The calibrate stage: one streaming pass over calibration rows, one fixed-size histogram a tensor.

Refuses tensors that are NaN or infinite on the rows. Memory holds a few rows of activations, never all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

from service.errors import StageFailed
from service.quantization.graph import Graph
from service.quantization.histogram import Histogram
from service.quantization.placements.onnxruntime import place
from service.quantization.preparation import PREPARED, reference_inputs
from service.quantization.ranges import find_range
from service.quantization.rows import Array, Feed, Rows
from service.quantization.task import PipelineTask, Progress

RANGES = "ranges.json"
_BATCH_BYTES = 64 * 1024 * 1024
_MAX_BATCH_ROWS = 32


def calibrate_stage(task: PipelineTask, report_progress: Progress) -> dict[str, Any]:
    """Writes the range of every tensor to be quantized; skipped where the precision needs none."""
    if task.recipe.precision != "int8":
        return {"skipped": True, "files": []}
    assert task.calibration is not None
    prepared = task.folder / PREPARED
    observed = place(Graph.load(prepared), task.recipe.keep_float).observed
    feed = Feed.of(Rows.open(task.calibration, "calibration"), reference_inputs(task))
    limit = task.recipe.calibration.rows
    histograms = observe(ObservedModel(prepared, observed, task.threads), feed, limit, report_progress)
    ranges = {
        name: find_range(histogram, task.recipe.calibration, task.recipe.scheme == "symmetric")
        for name, histogram in histograms.items()
    }
    rows = min(limit, len(feed.rows))
    written = task.write(RANGES, {"rows": rows, "ranges": {name: list(pair) for name, pair in ranges.items()}})
    return {"files": [written], "rows": rows, "tensors": len(ranges)}


class ObservedModel:
    """The float model with chosen inner tensors exposed as its outputs."""

    def __init__(self, path: Path, tensors: Sequence[str], threads: int) -> None:
        model = onnx.load_model(path, load_external_data=False)
        fed = {value.name for value in model.graph.input}
        self.fed = tuple(name for name in tensors if name in fed)
        self.computed = tuple(name for name in tensors if name not in fed)
        del model.graph.output[:]
        for name in self.computed:
            model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def run(self, batch: dict[str, Array]) -> Iterator[tuple[str, Array]]:
        """(tensor, values) of every chosen tensor on one batch."""
        for name in self.fed:
            yield name, batch[name]
        if self.computed:
            yield from zip(self.computed, self._session.run(list(self.computed), batch), strict=True)


def observe(model: ObservedModel, feed: Feed, limit: int, report_progress: Progress) -> dict[str, Histogram]:
    """One histogram a tensor over the first `limit` rows. Raises StageFailed where a tensor is not finite."""
    histograms = {name: Histogram() for name in (*model.fed, *model.computed)}
    size = _affordable_rows(model, feed)
    total = min(limit, len(feed.rows))
    for start, count, batch in feed.batches(limit, size):
        for name, values in model.run(batch):
            histograms[name].add(values)
            if histograms[name].not_finite:
                raise StageFailed(
                    f"tensor {name!r} is NaN or infinite within rows {start} to {start + count - 1} of the calibration "
                    "set; remove those rows or keep the operator that makes it out of the model"
                )
        report_progress((start + count) / total)
    return histograms


def _affordable_rows(model: ObservedModel, feed: Feed) -> int:
    """How many rows at once keep all exposed tensors within `_BATCH_BYTES`, judged by the first row."""
    one = feed.take(0, feed.batch_rows(1))
    size = sum(values.nbytes for _, values in model.run(one))
    return max(1, min(_MAX_BATCH_ROWS, _BATCH_BYTES // max(size, 1)))
