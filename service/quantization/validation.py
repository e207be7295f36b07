"""The validate stage: every candidate engine beside the FP32 reference, on every validation row and every batch size.

Where no validation set is named it measures on the calibration rows, and says so: they are no independent evidence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from service.engines.engine import Engine
from service.engines.onnxruntime_engine import OnnxRuntimeEngine
from service.errors import StageFailed
from service.quantization.builders.builder import builder_for
from service.quantization.building import BUILT, batch_sizes
from service.quantization.decisions import Decisions, scores_output
from service.quantization.figures import Array, Floats, OutputFigures
from service.quantization.latency import measure_in_turn
from service.quantization.preparation import judging_rows
from service.quantization.residency import loaded_with_growth
from service.quantization.rows import Feed, Rows
from service.quantization.task import PipelineTask, Progress

VALIDATED = "validate.json"
_ACCURACY_SHARE = 0.6
_BATCH_BYTES = 32 * 1024 * 1024
_MAX_BATCH_ROWS = 32


def validate_stage(task: PipelineTask, report_progress: Progress) -> dict[str, Any]:
    """Writes every figure of each candidate and of the reference. Raises EngineFailed, InvalidDataset, StageFailed."""
    engines = task.read(BUILT)["engines"]
    rows = judging_rows(task)
    found: dict[str, Any] = {
        "rows": len(rows),
        "validated_on": rows.name,
        "labels": rows.labels is not None,
        "warnings": _warnings(task, rows),
        "candidates": {},
    }
    for index, (runtime, built) in enumerate(engines.items()):
        share = _Share(report_progress, index / len(engines), 1 / len(engines))
        found["candidates"][runtime] = _Validator(task, rows, runtime, task.folder / built["file"]).run(share)
    return {"files": [task.write(VALIDATED, found)], "rows": len(rows), "validated_on": found["validated_on"]}


@dataclass(frozen=True)
class _Share:
    """A slice of the stage's progress."""

    report: Progress
    start: float
    width: float

    def __call__(self, fraction: float) -> None:
        self.report(self.start + self.width * fraction)


class _Validator:
    def __init__(self, task: PipelineTask, rows: Rows, runtime: str, engine_path: Path) -> None:
        self._task, self._rows, self._path = task, rows, engine_path
        self._builder = builder_for(runtime)

    def run(self, report_progress: Progress) -> dict[str, Any]:
        task = self._task
        feed = Feed.of(self._rows, self._load_reference().inputs)
        sizes = batch_sizes(feed.inputs, task.recipe.batch)
        reference, reference_bytes = loaded_with_growth(self._load_reference, lambda e: e.infer(feed.filled(sizes[0])))
        engine, engine_bytes = loaded_with_growth(self._load_engine, lambda e: e.infer(feed.filled(sizes[0])))
        comparison = compare(reference, engine, feed, _Share(report_progress, 0, _ACCURACY_SHARE))
        latency: dict[str, list[dict[str, Any]]] = {"reference": [], "engine": []}
        for index, size in enumerate(sizes):
            batch = feed.filled(size)
            for name, taken in measure_in_turn({"reference": reference, "engine": engine}, batch, size).items():
                latency[name].append(taken)
            report_progress(_ACCURACY_SHARE + (1 - _ACCURACY_SHARE) * (index + 1) / len(sizes))
        sizes_of = {
            "reference": {"disk_bytes": task.model.stat().st_size, "resident_bytes": reference_bytes},
            "engine": {"disk_bytes": self._path.stat().st_size, "resident_bytes": engine_bytes},
        }
        return {**comparison, "latency": latency, "size": sizes_of}

    def _load_reference(self) -> Engine:
        return OnnxRuntimeEngine.load(self._task.model, self._task.threads)

    def _load_engine(self) -> Engine:
        return self._builder.load(self._path, self._task.threads)


def compare(reference: Engine, engine: Engine, feed: Feed, report_progress: Progress) -> dict[str, Any]:
    """Metrics, per-output figures and per-class figures over every row of the feed."""
    figures = {spec.name: OutputFigures(spec.name) for spec in reference.outputs if spec.datatype != "BYTES"}
    decisions, scores = Decisions(), None
    labels = feed.rows.labels
    for start, count, batch in feed.batches(len(feed.rows), _affordable_rows(feed)):
        expected, given = reference.infer(batch), engine.infer(batch)
        for name, output in figures.items():
            output.add(*_paired(name, expected[name], given[name], count))
        scores = scores or scores_output(expected, count)
        if scores is not None:
            ours, theirs = _paired(scores, expected[scores], given[scores], count)
            decisions.add(ours, theirs, None if labels is None else labels[start : start + count])
        report_progress((start + count) / len(feed.rows))
    metrics = (decisions.metrics() if scores is not None else {}) | _value_metrics(figures)
    return {
        "metrics": metrics,
        "scores": scores,
        "outputs": [output.to_json() for output in figures.values()],
        "classes": decisions.classes(),
    }


def _value_metrics(figures: Mapping[str, OutputFigures]) -> dict[str, Any]:
    """mae and cosine of the output that fares worst; for mae the loss is the value, for cosine 1 - value."""
    if not figures:
        return {}
    worst_error = max(figures.values(), key=lambda output: output.row_errors.mean).row_errors
    worst_cosine = min(figures.values(), key=lambda output: output.row_cosines.mean).row_cosines
    low, high = worst_cosine.interval
    return {
        "mae": {"reference": 0.0, "engine": worst_error.mean, "loss": worst_error.mean,
                "interval": list(worst_error.interval)},
        "cosine": {"reference": 1.0, "engine": worst_cosine.mean, "loss": 1 - worst_cosine.mean,
                   "interval": [1 - high, 1 - low]},
    }  # fmt: skip


def _paired(name: str, expected: Array, given: Array, count: int) -> tuple[Floats, Floats]:
    """Both outputs as FP64 [rows, elements]; an output without a row axis is one row."""
    if expected.shape != given.shape:
        raise StageFailed(
            f"output {name!r} has shape {list(expected.shape)} from the reference but {list(given.shape)} from the "
            "engine; name the operators that make its shape in keep_float"
        )
    rows = count if expected.ndim and expected.shape[0] == count else 1
    ours, theirs = (np.asarray(values, np.float64).reshape(rows, -1) for values in (expected, given))
    return ours, theirs


def _affordable_rows(feed: Feed) -> int:
    row_bytes = sum(array[0].nbytes for array in feed.take(0, feed.batch_rows(1)).values())
    return feed.batch_rows(max(1, min(_MAX_BATCH_ROWS, _BATCH_BYTES // max(row_bytes, 1))))


def _warnings(task: PipelineTask, rows: Rows) -> list[str]:
    if task.validation is None:
        return ["no validation set was named: every figure is measured on the calibration rows, which proves less"]
    if task.calibration is None:
        return []
    shared = len(rows.digests() & Rows.open(task.calibration, "calibration").digests())
    if shared:
        return [f"{shared} validation rows are calibration rows too; validate on rows that calibration has not seen"]
    return []
