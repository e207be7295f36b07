"""One model's answers beside another's: error figures of every output, and what a classifier decides by them.

Refuses outputs whose shapes differ: those cannot be compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from service.engines.engine import Engine
from service.errors import StageFailed
from service.quantization.data.rows import Feed
from service.quantization.measures.decisions import scores_outputs
from service.quantization.measures.figures import Array, Floats, OutputFigures
from service.quantization.measures.rankings import Rankings
from service.quantization.preparation.ranked_outputs import ranked_outputs
from service.quantization.task import Progress

Labels = npt.NDArray[np.int64]


class Comparison:
    """Takes batches of both models' outputs: of `outputs`, of which `ranked` hold class scores."""

    def __init__(self, outputs: Iterable[str], ranked: Iterable[str]) -> None:
        self._figures = {name: OutputFigures(name) for name in outputs}
        self._floats: set[str] = set()
        self._rankings = Rankings(ranked)

    def add(self, expected: Mapping[str, Array], given: Mapping[str, Array], count: int, labels: Labels | None) -> None:
        """`count` rows of outputs by name. Raises StageFailed where shapes differ."""
        pairs = {name: _paired(name, expected[name], given[name], count) for name in self._figures}
        for name, output in self._figures.items():
            output.add(*pairs[name])
        self._floats |= {name for name in pairs if expected[name].dtype.kind == "f"}
        scores = scores_outputs({name: expected[name] for name in self._rankings.names}, count)
        self._rankings.add({name: pairs[name] for name in scores}, labels)

    def to_json(self) -> dict[str, Any]:
        ranked = self._rankings.to_json()
        return ranked | {
            "metrics": ranked["metrics"] | _value_metrics(self._figures),
            "outputs": [{**output.to_json(), "float": name in self._floats} for name, output in self._figures.items()],
            "tails": _tails(self._figures) | ranked["tails"],
        }


def compare(reference: Engine, engine: Engine, feed: Feed, report_progress: Progress) -> dict[str, Any]:
    """Metrics, per-output figures and per-class figures over every row of the feed."""
    outputs = [spec.name for spec in reference.outputs if spec.datatype != "BYTES"]
    comparison = Comparison(outputs, ranked_outputs(reference, feed))
    labels = feed.rows.labels
    total = feed.covered(len(feed.rows))
    for start, count, batch in feed.batches(total, feed.affordable_rows()):
        part = None if labels is None else labels[start : start + count]
        comparison.add(reference.infer(batch), engine.infer(batch), count, part)
        report_progress((start + count) / total)
    return comparison.to_json()


def _value_metrics(figures: Mapping[str, OutputFigures]) -> dict[str, Any]:
    """mae and cosine of the output that fares worst; for mae the loss is the value, for cosine 1 - value."""
    if not figures:
        return {}
    erring = max(figures.values(), key=lambda output: output.row_errors.mean)
    turned = min(figures.values(), key=lambda output: output.row_cosines.mean)
    error, cosine = erring.row_errors, turned.row_cosines
    low, high = cosine.interval
    return {
        "mae": {"output": erring.name, **erring.counted, "reference": 0.0, "engine": error.mean,
                "loss": error.mean, "interval": list(error.interval)},
        "cosine": {"output": turned.name, **turned.counted, "reference": 1.0, "engine": cosine.mean,
                   "loss": 1 - cosine.mean, "interval": [1 - high, 1 - low]},
    }  # fmt: skip


def _tails(figures: Mapping[str, OutputFigures]) -> dict[str, Any]:
    """The output whose rows fare worst: 99th percentile over rows of a row's mean absolute error, and its worst row."""
    if not figures:
        return {}
    worst = max(figures.values(), key=lambda output: output.row_errors.percentile(99))
    return {
        "worst_output": worst.name,
        "row_error_p99": worst.row_errors.percentile(99),
        "row_error_max": worst.row_errors.high,
        "row_cosine_min": min(output.row_cosines.low for output in figures.values()),
    }


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
