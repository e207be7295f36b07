"""Where an engine's loss comes from: the prepared float graph, the plan simulated in float, or the runtime's kernels.

The losses of the three legs add up to the engine's loss on the same rows; each leg's SQNR is against the leg before it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import onnx

from service.engines.engine import Engine
from service.engines.onnxruntime_engine import OnnxRuntimeEngine
from service.errors import OctavoError
from service.quantization.conversion.conversion import CONVERTED
from service.quantization.data.rows import Array, Feed
from service.quantization.measures.decisions import chosen_metric
from service.quantization.measures.simulation import simulated
from service.quantization.preparation.preparation import PREPARED
from service.quantization.proof.comparison import Comparison
from service.quantization.task import PipelineTask

_MOST_ROWS = 128
# Unfused graphs hold every inner tensor of a batch.
_BATCH_ROWS = 8
_MOST_OUTPUT_BYTES = 64 * 1024 * 1024
LEGS = ("float_graph", "plan", "engine")
_NO_OUTPUT = {"sqnr_db": None, "cosine": None, "max": 0.0, "engine_not_finite": 0}
_Batches = list[dict[str, Array]]


def split_loss(
    task: PipelineTask, runtime: str, engines: tuple[Engine, Engine | None], feed: Feed, ranked: Sequence[str]
) -> dict[str, Any] | None:
    """Rows, metric and legs [{leg, loss, sqnr_db, cosine, exact, value}], or None for an engine without a plan.

    `engines` is (reference, engine); an engine that cannot run here has no leg. `ranked` are the outputs of class
    scores that the whole comparison judged. Where the emitted graph cannot be simulated, `note` says so and the plan's
    leg is left out: the engine's then holds both.
    """
    if task.recipe.precision == "fp32":
        return None
    reference, engine = engines
    outputs = [spec.name for spec in reference.outputs if spec.datatype != "BYTES"]
    limit = _row_limit(reference, feed, outputs)
    before = _answers(lambda: reference, feed, outputs, limit)
    answers: dict[str, _Batches] = {}
    note = None
    prepared, converted = task.folder / PREPARED, task.folder / runtime / CONVERTED
    try:
        answers["float_graph"] = _answers(lambda: OnnxRuntimeEngine.load(prepared, task.threads), feed, outputs, limit)
        answers["plan"] = _answers(
            lambda: simulated(onnx.load_model(converted, load_external_data=False), task.threads), feed, outputs, limit
        )
    except (OctavoError, ValueError) as error:
        note = f"the emitted graph cannot be simulated on this host: {error}"
    if engine is not None:
        answers["engine"] = _answers(lambda: engine, feed, outputs, limit)
    legs = _Legs(task, feed, limit, (outputs, ranked), before)
    return {"rows": feed.covered(limit), "note": note, **legs.to_json(answers)}


class _Legs:
    """Compares each leg's answers with those of the reference and of the leg before."""

    def __init__(
        self,
        task: PipelineTask,
        feed: Feed,
        limit: int,
        outputs: tuple[Sequence[str], Sequence[str]],
        reference: _Batches,
    ) -> None:
        """`outputs` is (all, those of class scores)."""
        self._task, self._feed, self._limit = task, feed, limit
        self._outputs, self._reference = outputs, reference

    def to_json(self, answers: dict[str, _Batches]) -> dict[str, Any]:
        before, lost = self._reference, 0.0
        legs: list[dict[str, Any]] = []
        metric = ""
        for leg in (name for name in LEGS if name in answers):
            whole, step = self._compared(self._reference, answers[leg]), self._compared(before, answers[leg])
            metric = chosen_metric(self._task.budget, self._feed.rows.labels is not None, whole["scores"] is not None)
            figures = whole["metrics"].get(metric, {"loss": None, "engine": None})
            loss = None if figures["loss"] is None else figures["loss"] - lost
            lost = lost if figures["loss"] is None else figures["loss"]
            worst = min(step["outputs"], key=_decibels_or_more, default=_NO_OUTPUT)
            legs.append(
                {"leg": leg, "value": figures["engine"], "loss": loss, "sqnr_db": worst["sqnr_db"],
                 "cosine": worst["cosine"], "exact": _is_exact(worst)}
            )  # fmt: skip
            before = answers[leg]
        told = all(leg["loss"] is not None for leg in legs)
        return {"metric": metric, "total_loss": lost if told else None, "legs": legs}

    def _compared(self, expected: _Batches, given: _Batches) -> dict[str, Any]:
        comparison, labels = Comparison(*self._outputs), self._feed.rows.labels
        places = _places(self._feed, self._limit)
        for (start, count), ours, theirs in zip(places, expected, given, strict=True):
            comparison.add(ours, theirs, count, None if labels is None else labels[start : start + count])
        return comparison.to_json()


def _answers(load: Callable[[], Engine], feed: Feed, outputs: list[str], limit: int) -> _Batches:
    """The model's outputs, batch by batch; only this model is held meanwhile."""
    model = load()
    return [model.infer(batch, outputs) for _, _, batch in feed.batches(limit, _batch_rows(feed))]


def _places(feed: Feed, limit: int) -> list[tuple[int, int]]:
    return [(start, count) for start, count, _ in feed.batches(limit, _batch_rows(feed))]


def _batch_rows(feed: Feed) -> int:
    return feed.batch_rows(min(_BATCH_ROWS, feed.affordable_rows()))


def _row_limit(reference: Engine, feed: Feed, outputs: list[str]) -> int:
    """Rows whose outputs fit in memory four times over."""
    count = feed.batch_rows(1)
    row_bytes = sum(array.nbytes for array in reference.infer(feed.take(0, count), outputs).values()) / count
    return max(count, min(_MOST_ROWS, int(_MOST_OUTPUT_BYTES / max(row_bytes, 1))))


def _decibels_or_more(output: dict[str, Any]) -> float:
    """Infinite where there is no noise, and the least of all where there is nothing but noise."""
    if output["sqnr_db"] is not None:
        return float(output["sqnr_db"])
    return math.inf if _is_exact(output) else -math.inf


def _is_exact(output: dict[str, Any]) -> bool:
    """Whether the leg changed nothing: noise on outputs that are all zero has no ratio either."""
    return not output["max"] and not output["engine_not_finite"]
